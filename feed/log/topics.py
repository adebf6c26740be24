"""The index of a log: its topics, each with the seqs of its first event and of its newest one.

It is changed in the same step as events come and go. Topics are kept in the order of their newest events. So those that
have changed since a position are found without a look at the others, and those whose newest event is no longer retained
are the first ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from feed.event import Event
from feed.log.contract import Topic


class LogTopics:
    """The topics of a log, or of the part of it that a process has seen. For one thread only.

    `purged` is the highest seq of an event that was its topic's newest when retention removed it. Whoever has seen the
    log up to there, or further, knows nothing of a topic that the log has forgotten since.
    """

    def __init__(self, topics: Iterable[Topic] = (), purged: int = 0) -> None:
        topics = sorted(topics, key=lambda topic: topic.newest)
        self._newest = OrderedDict((topic.name, topic.newest) for topic in topics)
        self._first = {topic.name: topic.first for topic in topics}
        self.purged = purged

    def __len__(self) -> int:
        return len(self._newest)

    def note(self, events: Iterable[Event]) -> None:
        """Note newly committed events."""
        newest = self._newest
        for event in events:
            topic, seq = event.topic, event.seq
            if topic in newest:
                newest.move_to_end(topic)
                if newest[topic] > seq:  # the index was read when the log was ahead
                    continue
            else:
                self._first[topic] = seq
            newest[topic] = seq

    def forget_before(self, oldest: int) -> None:
        """Forget the topics that have no event from `oldest` on."""
        newest = self._newest
        while newest:
            topic, seq = next(iter(newest.items()))
            if seq >= oldest:
                break
            del newest[topic], self._first[topic]
            self.purged = seq

    def newest(self, topic: str) -> int | None:
        """Return the seq of a topic's newest event, None if it has none."""
        return self._newest.get(topic)

    def first(self, topic: str) -> int | None:
        """Return the seq of a topic's first event, or a lower one if that event is gone; None if it has none."""
        return self._first.get(topic)

    def beyond(self, seq: int) -> Sequence[tuple[str, int]]:
        """Return the topics whose newest event is beyond `seq`, with its seq, in the order of these events."""
        found: list[tuple[str, int]] = []
        for each in reversed(self._newest.items()):
            if each[1] <= seq:
                break
            found.append(each)
        found.reverse()
        return found

    def all(self) -> Sequence[Topic]:
        """Return all topics, in the order of their newest events."""
        return [Topic(name, self._first[name], newest) for name, newest in self._newest.items()]
