"""Who listens in this process, and how what was committed reaches all of them at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter

from feed.batch import Batch
from feed.control import Reason
from feed.event import Event
from feed.log.window import Window
from feed.pattern import TopicIndex
from feed.pump import Pump
from feed.subscription import Subscription


class Broadcaster:
    """The subscriptions of one process. Nothing in it waits: a reader that is slow costs only itself.

    `window` holds the newest events that were passed on, and its position is how far that is. `pump` writes what is
    put into the queues of those that flow into outlets.
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        self.pump = Pump()
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
        """Pass on what follows on what was passed on before. Who wants the same of it gets the same batch."""
        self.window.extend(events)
        for batch, readers in self._batches(events):
            for subscription in readers:
                subscription.offer(batch)

    def _batches(self, events: Sequence[Event]) -> Iterator[tuple[Batch, Iterable[Subscription]]]:
        by_topic: defaultdict[str, list[Event]] = defaultdict(list)
        for event in events:
            by_topic[event.topic].append(event)
        if len(by_topic) == 1:
            readers = self._index.find(events[0].topic)
            if readers:
                yield Batch(events), readers
            return
        topics: defaultdict[Subscription, list[str]] = defaultdict(list)
        for topic in by_topic:
            for subscription in self._index.find(topic):
                topics[subscription].append(topic)
        groups: defaultdict[tuple[str, ...], list[Subscription]] = defaultdict(list)
        for subscription, wanted in topics.items():
            groups[tuple(wanted)].append(subscription)
        for group, readers in groups.items():
            merged = [event for topic in group for event in by_topic[topic]]
            merged.sort(key=attrgetter("seq"))
            yield Batch(merged), readers

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
