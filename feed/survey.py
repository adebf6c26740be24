"""Who listens, on all nodes: what nodes ask each other, and how one answers.

A node asks all others at once and waits for a moment; those that said nothing are named, rather than left out in
silence. How questions travel is the log's business (`Log.ask_others`): a log in one process has no others.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from feed.broadcaster import Broadcaster
from feed.log.contract import Answers, Log
from feed.subscription import Subscription


class Subscriber(msgspec.Struct, frozen=True):
    """One subscription: what it asked for, when it began (milliseconds since 1970), the id up to which it has read, how
    many events wait in its queue, and whether it reads the log because it could not keep up or has just come back.

    `transport` and `address` are its `Peer`'s. `bytes_sent` is what of its stream's body was handed to the connection:
    on HTTP the body, on a WebSocket what the text messages hold, without chunks and frames; 0 where there is no
    connection. What a node of an older version does not tell is empty, or 0.
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


class Subscribers(msgspec.Struct, frozen=True):
    """A page of them, in the order of their ids. `next` is the id to go on after, None at the end; `silent` are the
    nodes that did not answer in time."""

    subscribers: Sequence[Subscriber]
    next: str | None
    silent: Sequence[str]


class ListSubscribers(msgspec.Struct, frozen=True, tag=True):
    """The first `limit` subscriptions whose id comes after `after`."""

    after: str
    limit: int


class EndSubscription(msgspec.Struct, frozen=True, tag=True):
    """End this one, and let it say that it was kicked."""

    id: str


_question = msgspec.msgpack.Decoder(ListSubscribers | EndSubscription)
_subscribers = msgspec.msgpack.Decoder(list[Subscriber])
_ended = msgspec.msgpack.Decoder(bool)
_pack = msgspec.msgpack.Encoder().encode


T = TypeVar("T")

_UNKNOWN = "a node of another version"


def _understood(answers: Answers, decode: Callable[[bytes], T]) -> tuple[list[T], Sequence[str]]:
    """What was said, and those that did not answer: one whose answer means nothing here is one of them."""
    given: list[T] = []
    strange: list[str] = []
    for answer in answers.given:
        try:
            given.append(decode(answer))
        except msgspec.MsgspecError:
            strange.append(_UNKNOWN)
    return given, (*answers.silent, *strange)


class Survey:
    """A node's side of it: it asks the others, and answers them."""

    def __init__(self, node: str, log: Log, broadcaster: Broadcaster) -> None:
        self._node = node
        self._log = log
        self._broadcaster = broadcaster

    async def subscribers(self, after: str, limit: int) -> Subscribers:
        """Ask everybody, this node too."""
        question = ListSubscribers(after, limit)
        answers = await self._log.ask_others(_pack(question))
        listed, silent = _understood(answers, _subscribers.decode)
        pages = [self._list(question), *listed]
        found = sorted((each for page in pages for each in page), key=lambda each: each.id)
        is_more = len(found) > limit or any(len(page) == limit for page in pages)
        found = found[:limit]
        return Subscribers(found, found[-1].id if is_more else None, silent)

    async def end(self, id: str) -> tuple[bool, Sequence[str]]:
        """Whether a node had it and ended it; and the nodes that did not say."""
        question = EndSubscription(id)
        if self._end(question):
            return True, ()
        answers = await self._log.ask_others(_pack(question))
        ended, silent = _understood(answers, _ended.decode)
        return any(ended), silent

    def answer(self, question: bytes) -> bytes:
        """What this node says to another's question."""
        asked = _question.decode(question)
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
        )
