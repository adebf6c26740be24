"""The bodies of requests: read whole, but never more of one than its limit, nor longer than its time, nor of all
together more than this process has room for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from feed.fastapi.http.problems import Refused, UnreadProblem
from feed.fastapi.logging.requests import request_log_of
from feed.fastapi.stepping import resume_stepped

MAX_BODIES = 256 << 20
BODY_SECONDS = 60.0

_RETRY_SECONDS = 1
_IN_PIECES = 0.75


class Bodies:
    """The room for all bodies that are being read or handled: `most` bytes.

    A body counts from when it has come until its request has been answered; what is beyond `most` is refused with 503
    as it comes. `seconds` is how long the whole of one may take from when it is asked for; then it is refused with 408.

    Bodies that come in pieces have three quarters of the room. So clients that fill it with bodies that never end keep
    out other large ones until their time is over, but nobody who sends a few kilobytes at once.
    """

    def __init__(self, most: int = MAX_BODIES, seconds: float = BODY_SECONDS) -> None:
        self.most = most
        self.seconds = seconds
        self.held = 0
        self._in_pieces = int(most * _IN_PIECES)

    def take(self, size: int, *, piece: bool = False) -> bool:
        """Take room for `size` bytes more, if there is as much; `piece` if they are not all there is of a body.
        Whoever took it gives it back by `release`."""
        if self.held + size > (self._in_pieces if piece else self.most):
            return False
        self.held += size
        return True

    def release(self, size: int) -> None:
        """Give back what was taken."""
        self.held -= size

    def read(self, request: Request, what: str, limit: int) -> Reading:
        """`async with bodies.read(request, "data", limit) as body:` reads the whole body, and holds its room until the
        block ends, however it does.

        Raises `Refused`: with 413 as soon as it is known to be larger than `limit` bytes, `what` being its name in the
        answer, with 503 and 408 as said above. Raises `ClientDisconnect`.
        """
        return Reading(self, request, what, limit)


class Reading:
    """One body, while its request is handled. What costs a publish as little as possible: no generator."""

    __slots__ = ("_bodies", "_held", "_limit", "_request", "_what")

    def __init__(self, bodies: Bodies, request: Request, what: str, limit: int) -> None:
        self._bodies = bodies
        self._request = request
        self._what = what
        self._limit = limit
        self._held = 0

    async def __aenter__(self) -> bytes:
        length = self._request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > self._limit):
            raise self._too_large()
        receiving = self._request.receive().__await__()
        try:
            waiting = next(receiving)
        except StopIteration as there:
            body, more = self._part(there.value, first=True)
            if not more:
                return body
            return await self._rest([body], None)
        return await self._rest([], resume_stepped(receiving, waiting))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._release()

    async def _rest(self, parts: list[bytes], receiving: Awaitable[Message] | None) -> bytes:
        """The whole body, of which these parts are there, and the next one is being received or not."""
        more = True
        try:
            async with asyncio.timeout(self._bodies.seconds):
                while more:
                    message = await (receiving or self._request.receive())
                    receiving = None
                    part, more = self._part(message, first=not parts)
                    parts.append(part)
        except BaseException as error:  # this block is not entered, so it will not be left
            self._release()
            if isinstance(error, TimeoutError):
                raise self._late() from None
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _part(self, message: Message, *, first: bool) -> tuple[bytes, bool]:
        """What has come, and whether there is more to come. Takes room for it."""
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        if self._held + len(part) > self._limit:
            raise self._too_large()
        if not self._bodies.take(len(part), piece=more or not first):
            raise self._no_room()
        self._held += len(part)
        return part, more

    def _release(self) -> None:
        if (log := request_log_of(self._request.scope)) is not None:
            log.bytes_in = self._held
        self._bodies.release(self._held)
        self._held = 0

    def _too_large(self) -> Refused:
        return Refused(UnreadProblem(413, f"the {self._what} is larger than {self._limit:,} bytes, the limit here"))

    def _late(self) -> Refused:
        return Refused(UnreadProblem(408, f"the {self._what} did not come within {self._bodies.seconds:g} s"))

    def _no_room(self) -> Refused:
        return Refused(
            UnreadProblem(
                503,
                "this server is reading as many bytes at once as it may: nothing was published",
                {"Retry-After": str(_RETRY_SECONDS)},
            )
        )
