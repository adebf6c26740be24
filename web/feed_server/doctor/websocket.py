"""Whether a WebSocket opens, carries events both ways, resumes, and stays open while quiet."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from feed.client.environment import proxy_for
from feed.client.sockets import FAULTS, Unredirected
from feed_server.doctor.finding import Finding, fail, ok, unknown, warn
from feed_server.doctor.flow import SILENTLY_CUT
from feed_server.doctor.target import MAX_BODY, REDIRECTS, ROOM, Answer, Target, shortened

_TRIES = 20  # messages that are read for an expected one
_MAX_MESSAGE = 1 << 20  # bytes; ours are much smaller
_BUSY = 0.1  # seconds between two pings of a connection that is never quiet
_CLEAR = 1.5  # seconds: a connection that ends sooner may have been quiet as long between two pings

_UPGRADE = (
    "let the proxy pass Upgrade and Connection on over HTTP/1.1 (nginx: `proxy_http_version 1.1`, `proxy_set_header "
    "Upgrade $http_upgrade`, `proxy_set_header Connection $connection_upgrade`)"
)


class Socket(NamedTuple):
    """What came of a WebSocket. `handshake` is its answer, of status 101 if it succeeded. `opened` says whether the
    first message came, `acknowledged` whether a sent event was published, `heard` whether that event came back, and
    `resumed` whether a second WebSocket, opened with the position before it, got the event again; None if not tried.
    `refusal` is why nothing could be published."""

    handshake: Answer
    opened: bool = False
    acknowledged: bool | None = None
    heard: bool | None = None
    resumed: bool | None = None
    refusal: str = ""


class _Connect(Unredirected, connect):
    """A connection that does not follow redirects, as no browser does here."""


@contextlib.asynccontextmanager
async def _connected(target: Target, path: str) -> AsyncIterator[ClientConnection]:
    url = f"{'wss' if target.parsed.scheme == 'https' else 'ws'}{target.url.removeprefix(target.parsed.scheme)}{path}"
    async with _Connect(
        url,
        proxy=proxy_for(httpx.URL(url)),
        additional_headers=target.bearer,
        ssl=target.tls if target.parsed.scheme == "https" else None,
        open_timeout=target.patience,
        close_timeout=1,
        ping_interval=None,  # our pings would keep a connection open that the feed's do not
        max_size=_MAX_MESSAGE,
    ) as socket:
        yield socket


async def look_socket(target: Target, type: str) -> Socket:
    """Open a WebSocket, send an event, wait until it comes back, and open another WebSocket that resumes."""
    found = Socket(Answer(0))
    try:
        async with _connected(target, target.path("ws", type=type)) as socket:
            found = Socket(Answer(101))
            opening = await _message(target, socket, "feed.open")
            if opening is None:
                return found
            found = await _try_sending(target, socket, type, found._replace(opened=True))
        if not found.heard:
            return found
        async with _connected(target, target.path("ws", type=type, after=str(opening.get("id", "")))) as socket:
            return found._replace(resumed=await _message(target, socket, type) is not None)
    except InvalidStatus as refused:
        answer = refused.response
        headers = [(name.lower(), value) for name, value in answer.headers.raw_items()]
        return found._replace(handshake=Answer(answer.status_code, headers, bytes(answer.body or b"")[:MAX_BODY]))
    except (*FAULTS, TimeoutError) as error:
        why = shortened(str(error) or "nothing came in time")
        return found if found.opened else found._replace(handshake=Answer(0, error=why))


async def _try_sending(target: Target, socket: ClientConnection, type: str, found: Socket) -> Socket:
    await socket.send(orjson.dumps({"data": "feed doctor was here", "type": type, "ref": type}).decode())
    heard = acknowledged = False
    for _ in range(2):
        message = await _message(target, socket, type, "feed.ack", "feed.error")
        if message is None:
            break
        if message["type"] == "feed.error":
            data = message.get("data")
            why = f"{data.get('status')} {data.get('detail')}" if isinstance(data, dict) else "feed.error"
            return found._replace(acknowledged=False, refusal=shortened(why))
        heard, acknowledged = heard or message["type"] == type, acknowledged or message["type"] == "feed.ack"
    return found._replace(heard=heard, acknowledged=acknowledged)


async def _message(target: Target, socket: ClientConnection, *types: str) -> dict[str, Any] | None:
    """Return the next message of one of these types, None if it does not come."""
    with contextlib.suppress(TimeoutError, ConnectionClosed, orjson.JSONDecodeError):
        async with asyncio.timeout(target.moment):
            for _ in range(_TRIES):
                message = orjson.loads(await socket.recv())
                if isinstance(message, dict) and message.get("type") in types:
                    return message
    return None


def judge_socket(socket: Socket) -> Finding:
    """Judge whether a WebSocket works."""
    handshake = socket.handshake
    if handshake.status != 101:
        return _judge_handshake(handshake)
    if not socket.opened:
        return fail("websocket", "it opens, but nothing arrives over it", "turn the proxy's buffering off for it")
    if socket.acknowledged is False and socket.refusal:
        return unknown("websocket", f"it opens; nothing could be published over it: {socket.refusal}")
    if not socket.acknowledged or not socket.heard:
        return fail("websocket", "it opens, but an event sent over it does not come back", "turn off its buffering")
    if not socket.resumed:
        words = "it works, but does not resume: ?after= is lost on the way"
        return fail("websocket", words, "let the proxy pass the query on unchanged")
    return ok("websocket", "it opens, carries events both ways, and resumes")


def _judge_handshake(answer: Answer) -> Finding:
    if answer.status == 426:
        return fail("websocket", "the feed was asked for a plain page: the upgrade got lost on the way", _UPGRADE)
    if answer.is_busy:
        return unknown("websocket", f"the handshake arrives, but the feed turned it away: {answer}", ROOM)
    if answer.status in {401, 403} and answer.is_problem:
        return unknown("websocket", f"the handshake arrives, but is not allowed: {answer}")
    if answer.status in REDIRECTS:
        words = f"it is redirected, and browsers do not follow: {shortened(answer.one('location'))}"
        return fail("websocket", words, "let the proxy pass /ws to the feed without a redirect")
    return fail("websocket", f"it does not open: {answer}", _UPGRADE)


class QuietSocket(NamedTuple):
    """A WebSocket without events, watched for at most `asked` seconds. `ended` is after how many seconds it was closed,
    None if it was not, and `how` with which code; `answered` says whether the feed answered a ping at the end.
    `busy_ended` is after how many seconds another one was closed that was opened with it and never quiet; None if that
    outlived this one."""

    asked: float
    opened: bool
    ended: float | None = None
    how: str = ""
    answered: bool = False
    busy_ended: float | None = None


async def look_quiet_socket(target: Target, type: str) -> QuietSocket:
    """Watch a quiet WebSocket beside a busy one: if both are closed together, it was not because one was quiet."""
    busy = asyncio.create_task(_look_busy(target, type))
    try:
        found = await _look_quiet(target, type)
        if found.ended is None:
            return found
        await asyncio.wait({busy}, timeout=_together(found.ended))
        return found._replace(busy_ended=busy.result() if busy.done() else None)
    finally:
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)


def _together(seconds: float) -> float:
    """Return how many seconds apart two connections may end and count as closed together, after so many seconds."""
    return max(1.0, seconds / 10)


async def _look_busy(target: Target, type: str) -> float | None:
    """Return after how many seconds a WebSocket was closed that is pinged all the time; None if it never opened."""
    try:
        async with _connected(target, target.path("ws", type=type)) as socket:
            if await _message(target, socket, "feed.open") is None:
                return None
            began = time.monotonic()
            try:
                while True:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_BUSY):
                            await socket.recv()
                    await socket.ping()
            except ConnectionClosed:
                return time.monotonic() - began
    except (*FAULTS, TimeoutError):
        return None


async def _look_quiet(target: Target, type: str) -> QuietSocket:
    found = QuietSocket(target.idle, opened=False)
    try:
        async with _connected(target, target.path("ws", type=type)) as socket:
            if await _message(target, socket, "feed.open") is None:
                return found
            found = found._replace(opened=True)
            began = time.monotonic()
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(target.idle):
                        while True:
                            await socket.recv()
                pong = await socket.ping()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(target.moment):
                        await pong
                        return found._replace(answered=True)
            except ConnectionClosed as closed:
                how = (
                    "without a Close"
                    if closed.rcvd is None
                    else f"with {closed.rcvd.code} {closed.rcvd.reason}".strip()
                )
                return found._replace(ended=time.monotonic() - began, how=shortened(how))
    except (*FAULTS, TimeoutError):
        pass  # if it never opened, judge_socket says why
    return found


def judge_quiet_socket(quiet: QuietSocket) -> Finding:
    """Judge whether a WebSocket stays open while nothing happens."""
    check = "websocket idle"
    if not quiet.opened:
        return unknown(check, "there was no WebSocket to watch")
    if quiet.ended is None and not quiet.answered:
        words = f"a WebSocket that was quiet for {quiet.asked:.0f} s is dead without a Close: a ping is not answered"
        return fail(check, words, SILENTLY_CUT)
    if quiet.ended is None:
        return ok(check, f"a quiet WebSocket stays open for at least {quiet.asked:.0f} s")
    words = f"a quiet WebSocket is closed after {quiet.ended:.0f} s, {quiet.how}"
    if quiet.how.startswith("with 1001") or quiet.how.startswith("with 1008"):
        return warn(check, words, "the feed did that: see its log for the reason")
    if _is_limited(quiet.ended, quiet.busy_ended):
        words = f"a WebSocket is closed after {quiet.ended:.0f} s, {quiet.how}, quiet or not: something limits its time"
        return warn(check, words, "raise that limit: readers reconnect and miss nothing, but do so all the time")
    cure = "let the proxy wait for longer than FEED_HEARTBEAT (nginx: `proxy_read_timeout`, HAProxy: `timeout tunnel`)"
    return fail(check, words, cure)


def _is_limited(ended: float, busy_ended: float | None) -> bool:
    """Whether the quiet and the busy WebSocket were closed together."""
    return busy_ended is not None and ended >= _CLEAR and abs(busy_ended - ended) <= _together(ended)
