"""Who listens in this process, and how what was committed reaches all of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from feed.control import Reason
from feed.event import Event
from feed.log.window import Window
from feed.pattern import TopicIndex
from feed.subscription import Subscription


class Broadcaster:
    """The subscriptions of one process. Nothing in it waits: a reader that is slow costs only itself.

    `window` holds the newest events that were passed on, and its position is how far that is.
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        self._subscriptions: dict[str, Subscription] = {}
        self._index: TopicIndex[Subscription] = TopicIndex()

    def register(self, subscription: Subscription) -> None:
        """From the next `push` on it is offered what it wants."""
        self._subscriptions[subscription.id] = subscription
        for pattern in subscription.selection.patterns:
            self._index.add(pattern, subscription)

    def unregister(self, subscription: Subscription) -> None:
        """It is offered nothing more. To do so twice does no harm."""
        if self._subscriptions.pop(subscription.id, None) is not None:
            for pattern in subscription.selection.patterns:
                self._index.remove(pattern, subscription)

    def push(self, events: Sequence[Event]) -> None:
        """Pass on what follows on what was passed on before."""
        self.window.extend(events)
        for event in events:
            for subscription in self._index.find(event.topic):
                subscription.offer(event)

    def skip_to(self, position: int) -> None:
        """Go on after `position`, though what lies between was never passed on: retention has taken it. Everybody
        reads the log from where they are, and is told of the gap."""
        for subscription in self:
            subscription.note_position()
            subscription.fall_behind()
        self.window.skip_to(position)

    def distrust(self) -> None:
        """Passing on broke half-way, and some may have had their part: everybody reads the log."""
        for subscription in self:
            subscription.fall_behind()

    def end(self, reason: Reason) -> None:
        """Let every stream end."""
        for subscription in list(self):
            subscription.end(reason)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._subscriptions.values())

    def __len__(self) -> int:
        return len(self._subscriptions)
