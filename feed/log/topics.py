"""The index of a log: its topics, each with the seqs of its first event and of its newest one.

It is changed in the same step as events come and go. Topics are kept in the order of their newest events. So those that
have changed since a position are found without a look at the others, and those whose newest event is no longer retained
are the first ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from operator import itemgetter

from feed.event import Event
from feed.log.classes import Classes
from feed.log.contract import Topic
from feed.pattern import Selection
from feed.terms import DELETED


class LogTopics:
    """The topics of a log, or of the part of it that a process has seen. For one thread only.

    Topics of each class of retention are kept apart, as they are forgotten apart. In a class that keeps the newest
    events, only what was deleted is forgotten.
    """

    def __init__(self, topics: Iterable[Topic] = (), oldest: int = 1, classes: Classes | None = None) -> None:
        """`oldest` is the seq of the log's oldest event when the topics were read."""
        self.classes = classes if classes is not None else Classes()
        count = len(self.classes.marks) or 1
        # The last one has topics whose newest event may be of another class than their topic is now.
        self._lanes: list[OrderedDict[str, int]] = [OrderedDict() for _ in range(count + 1)]
        self._ended: list[OrderedDict[str, int]] = [OrderedDict() for _ in range(count)]
        self._purged = [0] * (count + 1)
        self._first: dict[str, int] = {}
        settled = self.classes.settled
        for topic in sorted(topics, key=lambda topic: topic.newest):
            lane = self.classes.of(topic.name) if topic.newest > settled else count
            self._lanes[lane][topic.name] = topic.newest
            self._first[topic.name] = topic.first
            if topic.ended and lane < count:
                self._ended[lane][topic.name] = topic.newest
        if self.classes:
            for number, (mark, bounds) in enumerate(zip(self.classes.marks, self.classes.bounds, strict=True)):
                self._purged[number] = mark.ended if bounds.latest else mark.taken
        else:
            self._purged = [oldest - 1] * 2

    def __len__(self) -> int:
        return len(self._first)

    def purged(self, selection: Selection, position: int) -> int:
        """Return the highest seq of an event that was the newest of its topic when it was forgotten, of the topics that
        a selection may want. Whoever is at that position, or further, knows nothing of a topic that is forgotten."""
        numbers = self.classes.met(selection, position) if self.classes else (0,)
        return max([self._purged[-1], *(self._purged[number] for number in numbers)])

    def note(self, events: Iterable[Event]) -> None:
        """Note newly committed events."""
        first, lanes = self._first, self._lanes
        lane, early, classes = lanes[0], lanes[-1], self.classes
        for event in events:
            topic, seq = event.topic, event.seq
            if classes:
                number = classes.of(topic)
                lane = lanes[number]
                self._note_end(event, number)
            if topic in lane:
                lane.move_to_end(topic)
                if lane[topic] > seq:  # the index was read when the log was ahead
                    continue
            elif topic in first:
                if early[topic] > seq:
                    continue
                del early[topic]
            else:
                first[topic] = seq
            lane[topic] = seq

    def _note_end(self, event: Event, number: int) -> None:
        if self.classes.bounds[number].latest:
            self._ended[number].pop(event.topic, None)
            if event.type == DELETED:
                self._ended[number][event.topic] = event.seq

    def forget_before(self, oldest: int) -> None:
        """Forget the topics that have no retained event, where `oldest` is the log's oldest."""
        if not self.classes:
            self._forget(0, self._lanes[0], oldest - 1)
            return
        self._forget(len(self._lanes) - 1, self._lanes[-1], oldest - 1)
        for number, (mark, bounds) in enumerate(zip(self.classes.marks, self.classes.bounds, strict=True)):
            if not bounds.latest:
                self._forget(number, self._lanes[number], mark.taken)
                continue
            ended = self._ended[number]
            while ended and next(iter(ended.values())) <= mark.ended:
                topic, seq = ended.popitem(last=False)
                self.forget(topic, seq)

    def _forget(self, number: int, lane: OrderedDict[str, int], taken: int) -> None:
        while lane:
            topic, seq = next(iter(lane.items()))
            if seq > taken:
                break
            del lane[topic], self._first[topic]
            self._purged[number] = max(self._purged[number], seq)

    def forget(self, topic: str, seq: int) -> None:
        """Forget a topic if the event with this seq, which is gone, was its newest one."""
        number = self._lane_of(topic)
        if self._lanes[number].get(topic) == seq:
            del self._lanes[number][topic], self._first[topic]
            self._purged[number] = max(self._purged[number], seq)

    def _lane_of(self, topic: str) -> int:
        if not self.classes:
            return 0
        number = self.classes.of(topic)
        return number if topic in self._lanes[number] else len(self._lanes) - 1

    def newest(self, topic: str) -> int | None:
        """Return the seq of a topic's newest event, None if it has none."""
        return self._lanes[self._lane_of(topic)].get(topic)

    def first(self, topic: str) -> int | None:
        """Return the seq of a topic's first event, or a lower one if that event is gone; None if it has none."""
        return self._first.get(topic)

    def beyond(self, seq: int) -> Sequence[tuple[str, int]]:
        """Return the topics whose newest event is beyond `seq`, with its seq, in the order of these events."""
        found: list[tuple[str, int]] = []
        for lane in self._lanes:
            there = len(found)
            for each in reversed(lane.items()):
                if each[1] <= seq:
                    break
                found.append(each)
            if there and len(found) > there:
                found.sort(key=itemgetter(1), reverse=True)
        found.reverse()
        return found

    def all(self) -> Sequence[Topic]:
        """Return all topics, in the order of their newest events."""
        return [Topic(name, self._first[name], newest) for name, newest in self.beyond(0)]
