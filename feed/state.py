"""What is: the newest event of each topic, as this process has passed it on.

A feed keeps a copy of its log's index of topics (`feed.log.topics`), in step with the window of the broadcaster. It is
read whole when the log is opened, and again when events were passed by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from feed.errors import FeedUnavailable
from feed.event import Event
from feed.log import Log
from feed.log.contract import Page
from feed.log.topics import LogTopics
from feed.log.window import Window
from feed.pattern import Selection

_CATCH_UP_SECONDS = 5.0
_NEARLY_SECONDS = 1.0


class State:
    """The topics of a log up to the window's position. While it `is_whole`, that is exactly what they are."""

    def __init__(self, log: Log, window: Window) -> None:
        self.topics = LogTopics()
        self._log = log
        self._window = window
        self._whole_from: int | None = None  # the position of the window from which on it is whole; None: not read yet
        self._whole = asyncio.Event()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []  # for a position
        self._names: Sequence[str] | None = None  # sorted, until a topic comes or goes
        self._round: tuple[tuple[Sequence[str], int, int], tuple[Sequence[str], Sequence[int]]] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return self._whole.is_set()

    async def whole(self) -> None:
        """Wait until nothing is missing."""
        await self._whole.wait()

    async def caught_up(self) -> None:
        """Wait until everything that is known to be in the log now was passed on, so that who has just published finds
        it. Raises `FeedUnavailable` if that takes long."""
        if not await self._is_there(self._log.position, _CATCH_UP_SECONDS):
            raise FeedUnavailable("this node has not caught up with the log: try again")

    async def nearly_caught_up(self) -> None:
        """Wait for the same, but not for long, for who will get what is missing later. Raises `FeedUnavailable` if
        more than the newest events is missing, and that takes long."""
        if not (
            await self._is_there(self._log.position, _NEARLY_SECONDS) or await self._is_there(0, _CATCH_UP_SECONDS)
        ):
            raise FeedUnavailable("this node has not read the log's topics yet: try again")

    async def _is_there(self, position: int, patience: float) -> bool:
        """Wait until nothing is missing up to this position. Return whether that came in time."""
        try:
            async with asyncio.timeout(patience):
                await self._whole.wait()
                while self._window.position < position:
                    waiting = position, asyncio.get_running_loop().create_future()
                    self._waiting.append(waiting)
                    try:
                        await waiting[1]
                    finally:
                        self._waiting.remove(waiting)
        except TimeoutError:
            return False
        return True

    def count(self) -> int | None:
        """Return how many topics there are, None while something is missing."""
        self.forget_old()
        return len(self.topics) if self.is_whole else None

    def names(self) -> Sequence[str]:
        """Return the names of all topics, sorted."""
        if self._names is None or len(self._names) != len(self.topics):
            self._names = sorted(topic.name for topic in self.topics.all())
        return self._names

    def is_stale(self) -> bool:
        """Return whether the index has to be read again."""
        return self._whole_from is None

    def is_sorted_otherwise(self) -> bool:
        """Return whether the log has got other classes of retention since the index was read: another node has other
        settings."""
        return self.topics.classes is not self._log.classes

    def distrust(self) -> None:
        """Note that events were lost or passed by: `read` has to be called."""
        self._whole_from = None
        self._whole.clear()
        self._round = self._names = None

    async def read(self) -> None:
        """Read the index of the log, which may be ahead of the window. Raises `FeedUnavailable`."""
        topics = await self._log.topics()
        self.topics = LogTopics(topics, self._log.oldest, self._log.classes)
        self._whole_from = max((topic.newest for topic in topics), default=0)
        self._look()

    def note(self, events: Sequence[Event]) -> None:
        """Note events that were passed on just now."""
        count = len(self.topics)
        self.topics.note(events)
        if len(self.topics) != count:
            self._names = None
        if not self._whole.is_set():
            self._look()
        if self._waiting:
            for position, waiting in self._waiting:
                if self._window.position >= position and not waiting.done():
                    waiting.set_result(None)

    def page(self, after: int, selection: Selection, limit: int) -> Page | None:
        """Return the next page from the window, without what retention has taken. None if the window does not reach
        back that far. Of exact topics the index knows that nothing follows, however far back that is."""
        window, classes = self._window, self._log.classes
        window.drop_before(self._log.oldest)
        if selection.is_exact and self._has_nothing_beyond(after, selection):
            return Page([], after, window.position, classes.taken(selection, after) if classes else 0)
        if not classes:
            return window.page(after, selection, limit)
        if after < classes.settled or (page := window.page(after, selection, limit)) is None:
            return None
        self.forget_old()
        events = [event for event in page.events if not self._is_gone(event)]
        return Page(events, page.start, page.end, classes.taken(selection, after))

    def page_backward(self, before: int, selection: Selection, limit: int) -> Page | None:
        """Return the page before `before` in the same way."""
        window, classes = self._window, self._log.classes
        window.drop_before(self._log.oldest)
        page = window.page_backward(before, selection, limit)
        if page is None or not classes:
            return page
        if page.start < classes.settled:
            return None
        self.forget_old()
        return Page([event for event in page.events if not self._is_gone(event)], page.start, page.end)

    def _has_nothing_beyond(self, after: int, selection: Selection) -> bool:
        newest = self.topics.newest
        return (
            self.is_whole
            and after < self._window.position
            and all((newest(topic) or 0) <= after for topic in selection.patterns)
        )

    def _is_gone(self, event: Event) -> bool:
        classes = self._log.classes
        if event.seq > classes.marks[classes.of(event.topic)].taken:
            return False
        return self.topics.newest(event.topic) != event.seq  # else its class keeps the newest events

    def forget_old(self) -> None:
        """Forget the topics of which the log has retained nothing."""
        count = len(self.topics)
        self.topics.forget_before(self._log.oldest)
        if len(self.topics) != count:
            self._names = None

    def shared_round(
        self, patterns: Sequence[str], cursor: int, position: int
    ) -> tuple[Sequence[str], Sequence[int]] | None:
        """Return what the last one has found out who began a round with the same patterns at the same place."""
        shared = self._round
        return shared[1] if shared is not None and shared[0] == (patterns, cursor, position) else None

    def share_round(
        self, patterns: Sequence[str], cursor: int, position: int, wanted: tuple[Sequence[str], Sequence[int]]
    ) -> None:
        """Keep what a round was found to consist of for those who ask for the same."""
        self._round = (patterns, cursor, position), wanted

    def _look(self) -> None:
        if self._whole_from is not None and self._window.position >= self._whole_from:
            self._whole.set()
