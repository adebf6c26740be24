"""A reader of state as a client is: what it holds, and the id at which it resumes; and the judge of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from feed import Event, Feed, Subscription
from feed.batch import Item
from feed.control import Control, Gap, Heartbeat
from feed.event import Placed
from feed.log import Log
from feed.pattern import Selection
from feed.terms import DELETED


@dataclass
class Published:
    """Everything that was ever published: by seq, the topic, and the text; None for a tombstone."""

    events: dict[int, tuple[str, str | None]] = field(default_factory=dict)

    def watch(self, feed: Feed) -> None:
        """Note the tombstones of values that have run out, which nobody publishes, as the feed passes them on. No value
        ends twice."""
        assert feed.running is not None
        broadcaster = feed.running.broadcaster
        push, ended = broadcaster.push, set[str]()

        def watched(events: Sequence[Event], size: int | None = None) -> None:
            if events[0].seq != broadcaster.window.position + 1:
                ended.clear()  # some were passed by
            for event in events:
                if event.type == DELETED:
                    assert event.topic not in ended, f"{event.topic} ends twice"
                    assert self.events.setdefault(event.seq, (event.topic, None)) == (event.topic, None)
                    ended.add(event.topic)
                else:
                    ended.discard(event.topic)
            push(events, size)

        broadcaster.push = watched  # type: ignore[method-assign]

    def state(self, position: int) -> dict[str, tuple[int, str]]:
        """The state at a position: of each topic that has a value, the seq and the text."""
        state: dict[str, tuple[int, str]] = {}
        for seq in sorted(seq for seq in self.events if seq <= position):
            topic, text = self.events[seq]
            state.pop(topic, None)
            if text is not None:
                state[topic] = seq, text
        return state


@dataclass
class StateReader:
    """One reader. `held` is its map, by topic; `seen` has the seq of each topic's newest event that it was handed."""

    selection: Selection
    published: Published
    held: dict[str, tuple[int, str]] = field(default_factory=dict)
    every: float | None = None
    seen: dict[str, int] = field(default_factory=dict)
    repeated: dict[str, int] = field(default_factory=dict)  # what it may be handed once more, after a drop
    id: str | None = None
    is_live: bool = False
    gaps: int = 0
    stream: Subscription | None = None

    async def connect(self, feed: Feed) -> None:
        """Begin, or resume."""
        self.is_live = False
        self.repeated = dict(self.seen)
        self.stream = await feed.attach(self.selection, after=self.id, last=None, latest=True, every=self.every)

    def drop(self, feed: Feed) -> None:
        """Leave."""
        if self.stream is not None:
            feed.detach(self.stream)
            self.stream = None

    async def read(self, feed: Feed, most: int = 1) -> None:
        """Take what comes, at most so many times."""
        for _ in range(most):
            if self.stream is None or self.has_all(feed):
                return
            for item in await self.stream.take():
                self.take(feed, item)

    def has_all(self, feed: Feed) -> bool:
        """Whether nothing more comes until something is published."""
        assert self.stream is not None
        assert feed.running is not None
        self.stream.note_position()
        return self.is_live and self.stream.cursor >= feed.running.broadcaster.window.position

    def take(self, feed: Feed, item: Item) -> None:
        """Do what a client does with an item, and check that it may come."""
        match item:
            case Gap():
                self.held.clear()
                self.seen.clear()
                self.repeated.clear()
                self.id = item.id
                self.is_live = False
                self.gaps += 1
            case Placed() | Event():
                event = item.event if isinstance(item, Placed) else item
                self._check(event)
                self.id = item.resume if isinstance(item, Placed) else item.id
            case Control():
                assert item.type != "feed.position" or self.is_live, "a position inside a snapshot"
                self.id = item.id or self.id
                if item.type == "feed.live":
                    self.is_live = True
                    self.judge(feed, int((item.id or "").split("-")[1]))
            case Heartbeat():
                assert item.id is None or self.is_live

    def _check(self, event: Event) -> None:
        text = None if event.type == DELETED else event.text
        assert self.published.events[event.seq] == (event.topic, text)
        before = self.seen.get(event.topic, 0)
        assert event.seq >= before, f"{event.topic}: {event.seq} after {before}"
        if event.seq == before:
            assert self.repeated.pop(event.topic, None) == before, f"{event.topic}: {event.seq} twice"
        self.seen[event.topic] = event.seq
        if text is None:
            self.held.pop(event.topic, None)
        else:
            self.held[event.topic] = event.seq, text

    def judge(self, feed: Feed, position: int) -> None:
        """What is held is the state of the log at this position."""
        assert feed.running is not None
        log = feed.running.log
        state = self.published.state(position)
        for topic, value in self.held.items():
            assert state.get(topic) == value, f"{topic}: held {value}, is {state.get(topic)}"
        for topic, value in state.items():
            if _is_retained(log, topic, value[0]) and self.selection.wants_topic(topic):
                assert self.held.get(topic) == value, f"{topic}: held {self.held.get(topic)}, is {value}"


def _is_retained(log: Log, topic: str, seq: int) -> bool:
    """Whether a topic's newest event is there, as far as its class goes."""
    if not log.classes:
        return seq >= log.oldest
    number = log.classes.of(topic)
    return log.classes.bounds[number].latest or seq > log.classes.marks[number].taken
