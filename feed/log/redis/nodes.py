"""The nodes on one stream, and the questions that they ask each other over Redis's pub/sub.

Every few seconds each node gives a sign of life (`nodes`, a sorted set by time). It listens on two channels: one for
questions to all nodes, one for the answers to its own. Pub/sub loses what is sent to a node that is away. So an asker
waits a moment for the nodes that live, and names those that did not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from typing import Any

import msgspec

from feed.backoff import Backoff
from feed.errors import FeedUnavailable, Indeterminate
from feed.log.contract import Answers
from feed.log.redis.address import Address
from feed.log.redis.link import Link, Script

logger = logging.getLogger(__name__)

_PATIENCE = 2.0  # seconds that the other nodes have to answer
_BEAT = 2.0  # seconds between two signs of life
_DEAF = 4 * _BEAT  # seconds without any message, its own included: then the listening connection is deaf
_MAX_ASKING = 64  # questions that wait for answers at once


class _Question(msgspec.Struct, frozen=True, array_like=True):
    number: str
    asker: str
    question: bytes


class _Answer(msgspec.Struct, frozen=True, array_like=True):
    number: str
    node: str
    answer: bytes


class _Asked:
    """A question that waits for answers: those given, by node, and the nodes whose answers are awaited."""

    def __init__(self) -> None:
        self.awaited: set[str] = set()
        self.given: dict[str, bytes] = {}
        self.complete = asyncio.Event()

    def take(self, answer: _Answer) -> None:
        """Add an answer."""
        self.given[answer.node] = answer.answer
        if self.awaited <= self.given.keys():
            self.complete.set()


class Nodes:
    """One node among the others. `answer` answers their questions."""

    def __init__(self, address: Address, node: str, speaker: Link, listener: Link) -> None:
        self.answer: Callable[[bytes], bytes] | None = None
        self._name = f"{node} {secrets.token_hex(4)}"  # two nodes may have been given the same name
        self._speaker = speaker
        self._listener = listener
        self._nodes = address.key("nodes")
        self._questions = address.key("questions")
        self._replies = address.key("replies")
        self._asked: dict[str, _Asked] = {}
        self._hearing = asyncio.Event()
        self._tasks = [
            asyncio.create_task(self._listen(), name="feed-nodes-listen"),
            asyncio.create_task(self._live(), name="feed-nodes-live"),
        ]

    async def ask(self, question: bytes) -> Answers:
        """Ask the other nodes, and return their answers. Raises `FeedUnavailable` if Redis cannot say who they are."""
        if len(self._asked) >= _MAX_ASKING:
            raise FeedUnavailable("too many questions to the other nodes at once: ask again later")
        number = secrets.token_hex(8)
        asked = self._asked[number] = _Asked()
        try:
            names = await self._speaker.ask("ZRANGE", self._nodes, 0, -1)
            asked.awaited = {name.decode() for name in names} - {self._name}
            if asked.awaited:
                await self._say(self._questions, _Question(number, self._name, question))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PATIENCE):
                        await asked.complete.wait()
        except Indeterminate as error:
            raise FeedUnavailable("Redis does not answer") from error
        finally:
            del self._asked[number]
        silent = asked.awaited - asked.given.keys()
        return Answers(list(asked.given.values()), sorted(name.rpartition(" ")[0] for name in silent))

    async def close(self) -> None:
        """Leave the list of nodes, and close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(FeedUnavailable, Indeterminate):  # then the other nodes forget this one after a while
            await self._speaker.ask("ZREM", self._nodes, self._name)
        await self._speaker.close()
        await self._listener.close()

    async def _say(self, channel: str, message: _Question | _Answer) -> None:
        await self._speaker.ask("PUBLISH", channel, msgspec.msgpack.encode(message))

    async def _live(self) -> None:
        """Give signs of life until cancelled. The others do not ask a node without one, so after any error the next
        sign is tried."""
        sign = Script("live")
        while True:
            await self._hearing.wait()  # a node that does not hear questions must not be waited for
            try:
                await self._speaker.run(sign, self._nodes, self._name, int(_DEAF * 1000))
                await self._listener.say("PING")
            except (FeedUnavailable, Indeterminate):
                pass  # the follower logs it
            except Exception:
                logger.exception("this node could not give a sign of life; trying again")
            await asyncio.sleep(_BEAT)

    async def _listen(self) -> None:
        backoff = Backoff()
        while True:
            try:
                await self._listener.ask("SUBSCRIBE", self._questions)
                await self._listener.say("SUBSCRIBE", f"{self._replies}:{self._name}")
                self._hearing.set()
                while True:
                    message = await self._listener.listen(_DEAF)
                    backoff.reset()
                    await self._answered(message)
            except (FeedUnavailable, Indeterminate):
                pass  # the follower logs it
            except Exception:
                logger.exception("this node could not listen to the other nodes; trying again")
                await self._listener.drop()
            self._hearing.clear()
            await asyncio.sleep(backoff.next())

    async def _answered(self, message: Any) -> None:
        """Handle a message that may be anything: anybody may publish on a channel, and other nodes may have another
        version."""
        try:
            await self._hear(message)
        except (FeedUnavailable, Indeterminate):
            pass  # the node that asked names this one as silent
        except Exception:
            logger.exception("handling a question or an answer of another node failed; going on with the next one")

    async def _hear(self, message: Any) -> None:
        if not isinstance(message, list) or message[0] != b"message":
            return
        if message[1].decode() == self._questions:
            asked = msgspec.msgpack.decode(message[2], type=_Question)
            if asked.asker != self._name and self.answer is not None:
                answer = _Answer(asked.number, self._name, self.answer(asked.question))
                await self._say(f"{self._replies}:{asked.asker}", answer)
        else:
            answer = msgspec.msgpack.decode(message[2], type=_Answer)
            if (question := self._asked.get(answer.number)) is not None:
                question.take(answer)
