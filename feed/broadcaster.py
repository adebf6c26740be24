"""The subscriptions of this process, and how committed events reach all of them at once."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter

from feed.batch import Batch
from feed.event import Event
from feed.log.contract import LogLost
from feed.log.window import Window
from feed.options import Limits
from feed.pace import Paces
from feed.pattern import TopicIndex
from feed.peer import address_key
from feed.pump import Pump
from feed.state import State
from feed.statistics import Counters, Queues, transport_of
from feed.subscription import Subscription


class Broadcaster:
    """The subscriptions of one process. No method waits: a slow reader does not delay the others.

    `window` holds the newest events that were passed on; its position is that of the last one. `pump` writes the queues
    of the subscriptions that flow into outlets. `paces` offers to those who want what has changed only every so often.
    `losses` is how often the log has lost events: a position from before a loss may mean other events now. `counters`
    are the counts of the broadcaster and the pump.
    """

    def __init__(self, window: Window, state: State, limits: Limits, counters: Counters) -> None:
        self.window = window
        self.counters = counters
        self.pump = Pump(self.counters)
        self.paces = Paces(window, state, self.pump, limits)
        self.losses = 0
        self._subscriptions: dict[str, Subscription] = {}
        self._index: TopicIndex[Subscription] = TopicIndex()
        self._by_address: Counter[str] = Counter()  # without addresses whose count is 0

    def register(self, subscription: Subscription) -> None:
        """Offer this subscription the events that it wants, from the next `push` on."""
        self.counters.subscribed[transport_of(subscription.peer.transport)] += 1
        self._subscriptions[subscription.id] = subscription
        if address := address_key(subscription.peer.address):
            self._by_address[address] += 1
        if subscription.pace is not None:
            subscription.pace.add(subscription.selection.patterns, subscription)
            return
        for pattern in subscription.selection.patterns:
            self._index.add(pattern, subscription)

    def unregister(self, subscription: Subscription) -> None:
        """Offer this subscription nothing more. Calling it twice does no harm."""
        if self._subscriptions.pop(subscription.id, None) is not None:
            if address := address_key(subscription.peer.address):
                self._by_address[address] -= 1
                if not self._by_address[address]:
                    del self._by_address[address]
            patterns, pace = subscription.selection.patterns, subscription.pace
            if pace is not None:
                if pace.remove(patterns, subscription):
                    self.paces.forget(pace)
                return
            for pattern in patterns:
                self._index.remove(pattern, subscription)

    def count_of(self, address: str) -> int:
        """Return how many subscriptions count towards this address (see `address_key`). Those without an address,
        inside this process, do not count."""
        return self._by_address[address_key(address)]

    @property
    def queues(self) -> Queues:
        """How full the queues are. Looks at each subscription, so it is for occasional use."""
        depths = [each.queued for each in self if not each.behind]
        return Queues(sum(depths), max(depths, default=0), len(self) - len(depths))

    def find(self, id: str) -> Subscription | None:
        """Return the subscription with this id, if there is one."""
        return self._subscriptions.get(id)

    def push(self, events: Sequence[Event], size: int | None = None) -> None:
        """Pass on the events that follow those passed on before. Readers that want the same of them share one batch.
        `size` is that of all events, if it is known."""
        self.window.extend(events, size)
        by_topic: defaultdict[str, list[Event]] = defaultdict(list)
        for event in events:
            by_topic[event.topic].append(event)
        groups: dict[int, tuple[Iterable[Subscription], list[str]]] = {}
        for topic in by_topic:
            for readers in self._index.find(topic):
                groups.setdefault(id(readers), (readers, []))[1].append(topic)
        batches = _Batches(events, by_topic, size)
        several: defaultdict[Subscription, dict[str, None]] = defaultdict(dict)  # to the topics they want
        for readers, topics in groups.values():
            batch = batches.of(topics)
            for subscription in readers:
                if len(subscription.selection.patterns) == 1:
                    subscription.offer(batch)
                else:
                    several[subscription].update(dict.fromkeys(topics))
        for subscription, wanted in several.items():
            subscription.offer(batches.of(wanted))

    def skip_to(self, position: int) -> None:
        """Continue after `position`, because retention removed the events before it before they were passed on. All
        readers go on from the log, and are told of the gap."""
        for subscription in self:
            subscription.note_position()
            subscription.fall_behind()
        self.paces.interrupt(position)
        self.window.skip_to(position)

    def lose(self, lost: LogLost) -> None:
        """Tell all readers that the log has lost events; they go on with what the log has now."""
        self.losses += 1
        for subscription in self:
            subscription.note_position()
            subscription.lose(lost)
        self.paces.interrupt(lost.position)
        if not lost.kept(self.window.position):
            self.window.skip_to(lost.position)

    def distrust(self) -> None:
        """Make all readers read the log, because passing on failed half-way and some may have had their part."""
        for subscription in self:
            subscription.fall_behind()
        self.paces.interrupt(self.window.position)

    def drain(self, limits: Limits) -> None:
        """End every stream, because this feed is being stopped. The clients are told to come back spread evenly over
        the drain."""
        ending = list(self)
        for number, subscription in enumerate(ending):
            subscription.end("shutdown", limits.drained_retry((number + random.random()) / len(ending)))

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._subscriptions.values())

    def __len__(self) -> int:
        return len(self._subscriptions)


class _Batches:
    """The batches made of one push: one for each set of topics."""

    def __init__(self, events: Sequence[Event], by_topic: Mapping[str, Sequence[Event]], size: int | None) -> None:
        self._events = events
        self._size = size
        self._by_topic = by_topic
        self._made: dict[tuple[str, ...], Batch] = {}

    def of(self, topics: Iterable[str]) -> Batch:
        """Return the events of these topics, in order."""
        key = tuple(topics)
        if key not in self._made:
            if len(key) == len(self._by_topic):
                self._made[key] = Batch(self._events, self._size)
            else:
                events = [event for topic in key for event in self._by_topic[topic]]
                events.sort(key=attrgetter("seq"))
                self._made[key] = Batch(events)
        return self._made[key]
