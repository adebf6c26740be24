"""Read whole request bodies, with bounds on the size and time of each, and on the memory of all together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from feed.fastapi.http.problems import Refused, UnreadProblem
from feed.fastapi.http.request import header_values
from feed.fastapi.logging.requests import request_log_of
from feed.fastapi.stepping import resume_stepped

MAX_BODIES = 256 << 20
BODY_SECONDS = 60.0

_RETRY_SECONDS = 1
_IN_PIECES = 0.75


class Bodies:
    """The room for all bodies that are being read or handled: `most` bytes.

    Each byte counts from its arrival until its request is answered. A body that would exceed `most` is refused with
    503. A body that is not complete after `seconds` is refused with 408.

    Bodies that arrive in pieces may use three quarters of the room. Clients that send bodies without an end can
    therefore keep out other large bodies until `seconds` are over, but never a body of a few kilobytes sent at once.
    """

    def __init__(self, most: int = MAX_BODIES, seconds: float = BODY_SECONDS) -> None:
        self.most = most
        self.seconds = seconds
        self.held = 0
        self._in_pieces = int(most * _IN_PIECES)

    def take(self, size: int, *, piece: bool = False) -> bool:
        """Reserve room for `size` more bytes, and return whether there was enough. `piece`: they are only a part of a
        body. The caller gives the room back with `release`."""
        if self.held + size > (self._in_pieces if piece else self.most):
            return False
        self.held += size
        return True

    def has_room(self, size: int) -> bool:
        """Return whether a whole body of `size` bytes could be taken now."""
        return self.held + size <= self.most

    def release(self, size: int) -> None:
        """Give back room that `take` reserved."""
        self.held -= size

    def read(self, request: Request, what: str, limit: int) -> Reading:
        """Read the whole body: `async with bodies.read(request, "data", limit) as body:`. Its room is held until the
        block ends.

        Raises `Refused`: with 413 as soon as the body is known to be larger than `limit` bytes (the answer calls it
        `what`), with 503 and 408 as described at `Bodies`. Raises `ClientDisconnect`.
        """
        return Reading(self, request, what, limit)


class Reading:
    """One body, while its request is handled. Not a generator, so that it costs a publish as little as possible."""

    __slots__ = ("_bodies", "_held", "_limit", "_request", "_what")

    def __init__(self, bodies: Bodies, request: Request, what: str, limit: int) -> None:
        self._bodies = bodies
        self._request = request
        self._what = what
        self._limit = limit
        self._held = 0

    async def __aenter__(self) -> bytes:
        length = next(iter(header_values(self._request.scope, b"content-length")), "")
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
        """Return the whole body: `parts`, then what `receiving` yields (if a receive is under way), then the rest."""
        more = True
        try:
            async with asyncio.timeout(self._bodies.seconds):
                while more:
                    message = await (receiving or self._request.receive())
                    receiving = None
                    part, more = self._part(message, first=not parts)
                    parts.append(part)
        except BaseException as error:  # `__aexit__` is not called when `__aenter__` raises
            self._release()
            if isinstance(error, TimeoutError):
                raise self._late() from None
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _part(self, message: Message, *, first: bool) -> tuple[bytes, bool]:
        """Return the part in a message, and whether more follow. Reserve room for it."""
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
        return Refused(UnreadProblem(408, f"the {self._what} did not arrive within {self._bodies.seconds:g} s"))

    def _no_room(self) -> Refused:
        return Refused(
            UnreadProblem(
                503,
                "this server has no room for more request bodies now, and nothing was published: try again",
                {"Retry-After": str(_RETRY_SECONDS)},
            )
        )
