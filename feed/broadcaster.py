"""Who listens in this process, and how what was committed reaches all of them at once."""

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
from feed.pattern import TopicIndex
from feed.peer import address_key
from feed.pump import Pump
from feed.statistics import Counters, Queues, transport_of
from feed.subscription import Subscription


class Broadcaster:
    """The subscriptions of one process. Nothing in it waits: a reader that is slow costs only itself.

    `window` holds the newest events that were passed on, and its position is how far that is. `pump` writes what is
    put into the queues of those that flow into outlets. `losses` counts how often the log has lost events: positions
    from before do not mean now what they meant. `counters` is what is counted here, and by the pump.
    """

    def __init__(self, window: Window, counters: Counters | None = None) -> None:
        self.window = window
        self.counters = counters or Counters()
        self.pump = Pump(self.counters)
        self.losses = 0
        self._subscriptions: dict[str, Subscription] = {}
        self._index: TopicIndex[Subscription] = TopicIndex()
        self._by_address: Counter[str] = Counter()  # only of addresses that have some

    def register(self, subscription: Subscription) -> None:
        """From the next `push` on it is offered what it wants."""
        self.counters.subscribed[transport_of(subscription.peer.transport)] += 1
        self._subscriptions[subscription.id] = subscription
        if address := address_key(subscription.peer.address):
            self._by_address[address] += 1
        for pattern in subscription.selection.patterns:
            self._index.add(pattern, subscription)

    def unregister(self, subscription: Subscription) -> None:
        """It is offered nothing more. To do so twice does no harm."""
        if self._subscriptions.pop(subscription.id, None) is not None:
            if address := address_key(subscription.peer.address):
                self._by_address[address] -= 1
                if not self._by_address[address]:
                    del self._by_address[address]
            for pattern in subscription.selection.patterns:
                self._index.remove(pattern, subscription)

    def count_of(self, address: str) -> int:
        """How many subscriptions are counted under the name of this address. Those inside this process are not."""
        return self._by_address[address_key(address)]

    @property
    def queues(self) -> Queues:
        """See `Queues`. Looks at each subscription: it is for those who ask now and then."""
        depths = [each.queued for each in self if not each.behind]
        return Queues(sum(depths), max(depths, default=0), len(self) - len(depths))

    def find(self, id: str) -> Subscription | None:
        """The subscription of this id."""
        return self._subscriptions.get(id)

    def push(self, events: Sequence[Event]) -> None:
        """Pass on what follows on what was passed on before. Who wants the same of it gets the same batch."""
        self.window.extend(events)
        by_topic: defaultdict[str, list[Event]] = defaultdict(list)
        for event in events:
            by_topic[event.topic].append(event)
        groups: dict[int, tuple[Iterable[Subscription], list[str]]] = {}
        for topic in by_topic:
            for readers in self._index.find(topic):
                groups.setdefault(id(readers), (readers, []))[1].append(topic)
        batches = _Batches(events, by_topic)
        several: defaultdict[Subscription, dict[str, None]] = defaultdict(dict)  # and the topics they want
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
        """Go on after `position`, though what lies between was never passed on: retention has taken it. Everybody
        reads the log from where they are, and is told of the gap."""
        for subscription in self:
            subscription.note_position()
            subscription.fall_behind()
        self.window.skip_to(position)

    def lose(self, lost: LogLost) -> None:
        """The log has lost events: everybody is told, and reads on in what the log has now."""
        self.losses += 1
        for subscription in self:
            subscription.note_position()
            subscription.lose(lost)
        if not lost.kept(self.window.position):
            self.window.skip_to(lost.position)

    def distrust(self) -> None:
        """Passing on broke half-way, and some may have had their part: everybody reads the log."""
        for subscription in self:
            subscription.fall_behind()

    def drain(self, limits: Limits) -> None:
        """Let every stream end, as this feed is stopped. They come back evenly spread over the drain, not at once."""
        ending = list(self)
        for number, subscription in enumerate(ending):
            subscription.end("shutdown", limits.drained_retry((number + random.random()) / len(ending)))

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._subscriptions.values())

    def __len__(self) -> int:
        return len(self._subscriptions)


class _Batches:
    """The batches that are made of some events: one for each set of topics."""

    def __init__(self, events: Sequence[Event], by_topic: Mapping[str, Sequence[Event]]) -> None:
        self._events = events
        self._by_topic = by_topic
        self._made: dict[tuple[str, ...], Batch] = {}

    def of(self, topics: Iterable[str]) -> Batch:
        """The events of these topics, in their order."""
        key = tuple(topics)
        if key not in self._made:
            if len(key) == len(self._by_topic):
                events = self._events
            else:
                events = [event for topic in key for event in self._by_topic[topic]]
                events.sort(key=attrgetter("seq"))
            self._made[key] = Batch(events)
        return self._made[key]
