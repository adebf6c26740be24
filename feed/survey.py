"""Who listens, on all nodes: what the nodes ask each other, and how a node answers.

A node asks all others at once and waits for a moment. Nodes that do not answer are named, not left out silently. The
log carries the questions (`Log.ask_others`). A log in one process has no other nodes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from feed.broadcaster import Broadcaster
from feed.errors import FeedUnavailable
from feed.log.contract import Answers, Log
from feed.subscription import Subscription


class Subscriber(msgspec.Struct, frozen=True):
    """One subscription: what it asked for, when it began (milliseconds since 1970), the id up to which it has read, how
    many events wait in its queue, and whether it reads the log because it could not keep up or has just come back.

    `transport`, `address` and `subject` (None if the caller is not known) are those of its `Peer`. `bytes_sent`
    counts the bytes of the stream's body that were handed to the connection: on a WebSocket the text of the messages,
    without frames; 0 without a connection. A field that a node of an older version does not send is empty, 0 or None.
    """

    id: str
    node: str
    patterns: Sequence[str]
    types: Sequence[str]
    since: int
    position: str
    queued: int
    lagging: bool
    transport: str = ""
    address: str = ""
    bytes_sent: int = 0
    subject: str | None = None


class Subscribers(msgspec.Struct, frozen=True):
    """A page of subscriptions, in the order of their ids. `next` is the id to continue after, None at the end. `silent`
    are the nodes that did not answer in time."""

    subscribers: Sequence[Subscriber]
    next: str | None
    silent: Sequence[str]


class SilentNodes(FeedUnavailable):
    """Nodes did not answer in time, so their streams may still be open. `ended` streams of the other nodes were ended.
    `nodes` are the names of the silent ones."""

    def __init__(self, nodes: Sequence[str], ended: int = 0) -> None:
        done = f"; streams that were ended on other nodes: {ended:,}" if ended else ""
        super().__init__(f"these nodes did not answer: {', '.join(nodes)}{done}")
        self.nodes = nodes
        self.ended = ended


class ListSubscribers(msgspec.Struct, frozen=True, tag=True):
    """The first `limit` subscriptions whose id comes after `after`."""

    after: str
    limit: int


class EndSubscription(msgspec.Struct, frozen=True, tag=True):
    """End this one, with `feed.closing`, reason `kicked`."""

    id: str


class EndSubscriptionsOf(msgspec.Struct, frozen=True, tag=True):
    """End all of this subject in the same way. A node of an older version does not know the question, and is silent."""

    subject: str


_question = msgspec.msgpack.Decoder(ListSubscribers | EndSubscription | EndSubscriptionsOf)
_subscribers = msgspec.msgpack.Decoder(list[Subscriber])
_ended = msgspec.msgpack.Decoder(bool)
_count = msgspec.msgpack.Decoder(int)
_pack = msgspec.msgpack.Encoder().encode


T = TypeVar("T")

_UNKNOWN = "a node of another version"


def _understood(answers: Answers, decode: Callable[[bytes], T]) -> tuple[list[T], Sequence[str]]:
    """Return the answers, and the nodes without one. A node whose answer cannot be read is one of them."""
    given: list[T] = []
    strange: list[str] = []
    for answer in answers.given:
        try:
            given.append(decode(answer))
        except msgspec.MsgspecError:
            strange.append(_UNKNOWN)
    return given, (*answers.silent, *strange)


class Survey:
    """What one node does: it asks the others, and answers them."""

    def __init__(self, node: str, log: Log, broadcaster: Broadcaster) -> None:
        self._node = node
        self._log = log
        self._broadcaster = broadcaster

    async def subscribers(self, after: str, limit: int) -> Subscribers:
        """Return a page of the subscriptions of all nodes."""
        question = ListSubscribers(after, limit)
        answers = await self._log.ask_others(_pack(question))
        listed, silent = _understood(answers, _subscribers.decode)
        pages = [self._list(question), *listed]
        found = sorted((each for page in pages for each in page), key=lambda each: each.id)
        is_more = len(found) > limit or any(len(page) == limit for page in pages)
        found = found[:limit]
        return Subscribers(found, found[-1].id if is_more else None, silent)

    async def end(self, id: str) -> tuple[bool, Sequence[str]]:
        """End a subscription. Return whether a node had it, and the nodes that did not answer."""
        question = EndSubscription(id)
        if self._end(question):
            return True, ()
        answers = await self._log.ask_others(_pack(question))
        ended, silent = _understood(answers, _ended.decode)
        return any(ended), silent

    async def end_of(self, subject: str) -> tuple[int, Sequence[str]]:
        """End all subscriptions of a subject. Return how many there were, and the nodes that did not answer."""
        question = EndSubscriptionsOf(subject)
        ended = self._end_of(question)  # at once: the others may take a while to answer
        answers = await self._log.ask_others(_pack(question))
        counts, silent = _understood(answers, _count.decode)
        return ended + sum(counts), silent

    def answer(self, question: bytes) -> bytes:
        """Answer another node's question."""
        asked = _question.decode(question)
        if isinstance(asked, EndSubscriptionsOf):
            return _pack(self._end_of(asked))
        if isinstance(asked, EndSubscription):
            return _pack(self._end(asked))
        return _pack(self._list(asked))

    def _list(self, asked: ListSubscribers) -> list[Subscriber]:
        beyond = (each for each in self._broadcaster if each.id > asked.after)
        return [self._describe(each) for each in heapq.nsmallest(asked.limit, beyond, key=lambda each: each.id)]

    def _end(self, asked: EndSubscription) -> bool:
        subscription = self._broadcaster.find(asked.id)
        if subscription is not None:
            subscription.end("kicked")
        return subscription is not None

    def _end_of(self, asked: EndSubscriptionsOf) -> int:
        found = [each for each in self._broadcaster if each.peer.principal == asked.subject and each.reason is None]
        for subscription in found:
            subscription.end("kicked")
        return len(found)

    def _describe(self, subscription: Subscription) -> Subscriber:
        subscription.note_position()
        return Subscriber(
            id=subscription.id,
            node=self._node,
            patterns=subscription.selection.patterns,
            types=sorted(subscription.selection.types),
            since=subscription.since,
            position=self._log.id_at(subscription.cursor),
            queued=subscription.queued,
            lagging=subscription.behind,
            transport=subscription.peer.transport,
            address=subscription.peer.address,
            bytes_sent=subscription.sent,
            subject=subscription.peer.principal,
        )
