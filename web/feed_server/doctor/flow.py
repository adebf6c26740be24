"""Whether a stream flows: events arrive at once and one by one, not compressed, not from a cache, and a quiet stream is
kept open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import NamedTuple

from feed.media_types import NDJSON
from feed_server.doctor.finding import Finding, fail, ok, unknown, warn
from feed_server.doctor.target import REFUSED, ROOM, Answer, Reading, Target

_SPACING = 0.3
"""Seconds between the events that are timed."""

_EVENTS = 4
_LATE = 1.0  # seconds: nothing on the way has a reason to take longer …
_TRIPS = 3  # … unless a request and its answer take that long: an event may take so many trips
_PADDING = (4 << 10, 16 << 10, 64 << 10)  # bytes that fill a buffer, so that it is flushed
_LONGER = 20.0  # seconds: longer than FEED_HEARTBEAT, which is 15 s by default

_SLACK = 1.0  # seconds by which a heartbeat may be late

SILENTLY_CUT = (
    "something on the way forgets connections without closing them: let it keep them for longer than FEED_HEARTBEAT, "
    "or make FEED_HEARTBEAT shorter than that time"
)
"""The cure where neither end is told that the connection is gone."""

_UNBUFFER = (
    "turn response buffering off for the feed (nginx: `proxy_buffering off`, and no `proxy_ignore_headers "
    "X-Accel-Buffering`); ask your CDN how"
)
_UNCOMPRESS = "do not compress text/event-stream and application/x-ndjson (nginx: leave them out of `gzip_types`)"


class Seen(NamedTuple):
    """What came on one stream. `opened` is how many seconds its first event took, None if it never came; `position` is
    that event's id; `arrived` are the times at which events came, by id; `refused` is the feed's answer if it refused
    the stream."""

    opened: float | None
    arrived: Mapping[str, float]
    encoding: str = ""
    subscription: str = ""
    cache: tuple[str, str, str] = ("", "", "")
    """The headers Cache-Control and Age, and what a cache says of itself (X-Cache and its kin)."""
    refused: Answer | None = None
    away: str = ""
    """The feed's words if it turned the stream away."""
    position: str = ""


class Flow(NamedTuple):
    """The events that were `sent`, each with its id and the time when the id was known, and what came of them on three
    streams: one that accepts compression, as browsers do, one that does not, and one of JSON lines.

    `trip` is the longest time that one publish took. `refused` is the answer if nothing could be published. `released`
    is how many bytes had to follow before the first event came, None if that did not help or was not tried.
    """

    sent: Sequence[tuple[str, float]]
    browser: Seen
    plain: Seen
    lines: Seen
    refused: Answer | None = None
    released: int | None = None
    trip: float = 0.0


async def look_flow(target: Target, type: str) -> Flow:
    """Publish some events at intervals, and note when they arrive."""
    path = target.path(type=type)
    async with AsyncExitStack() as stack:
        readings = [
            await stack.enter_async_context(target.reading(path, headers))
            for headers in (
                {"Accept-Encoding": "gzip, deflate"},
                {"Accept-Encoding": "identity"},
                {"Accept-Encoding": "identity", "Accept": NDJSON},
            )
        ]
        await asyncio.gather(*(_opened(target, reading) for reading in readings))
        sent: list[tuple[str, float]] = []
        refused, released, trip = None, None, 0.0
        for _ in range(_EVENTS):
            began = time.monotonic()
            answer = await target.publish(type)
            if not answer.published:
                refused = answer
                break
            sent.append((answer.published, time.monotonic()))
            trip = max(trip, time.monotonic() - began)
            await asyncio.sleep(_SPACING)
        ids = {id for id, _ in sent}
        await asyncio.gather(*(_arrived(target, reading, ids) for reading in readings))
        if sent and not _ids(readings[1]) and readings[1].end != REFUSED:
            released = await _pad(target, type, readings[1])
        browser, plain, lines = map(_seen, readings)
    return Flow(sent, browser, plain, lines, refused, released, trip)


async def _opened(target: Target, reading: Reading) -> bool:
    return await reading.until(lambda: reading.opened is not None, target.moment)


async def _arrived(target: Target, reading: Reading, ids: set[str]) -> bool:
    return await reading.until(lambda: ids <= _ids(reading).keys(), target.moment)


async def _pad(target: Target, type: str, reading: Reading) -> int | None:
    size = 0
    for more in _PADDING:
        size += more
        await target.publish(type, "x" * more)
        if await reading.until(lambda: _ids(reading), 1.0):
            return size
    return None


def _ids(reading: Reading) -> dict[str, float]:
    return {piece.id: piece.at for piece in reading.pieces if piece.id and not piece.event.startswith("feed.")}


def _seen(reading: Reading) -> Seen:
    head = reading.head or Answer(0)
    opening = reading.first("feed.open")
    cache = head.one("x-cache") or head.one("cf-cache-status") or head.one("x-cache-status")
    return Seen(
        reading.opened,
        _ids(reading),
        head.one("content-encoding"),
        "" if opening is None else opening.data,
        (head.one("cache-control"), head.one("age"), cache),
        head if head.is_problem else None,
        reading.turned_away,
        "" if opening is None else opening.id,
    )


def judge_compression(flow: Flow) -> Finding:
    """Judge whether streams are compressed for clients that accept it, as all browsers do."""
    if flow.browser.away or flow.plain.away:
        return unknown("compression", f"the feed turned the stream away: {flow.browser.away or flow.plain.away}", ROOM)
    if _is_late(flow, flow.browser) and not _is_late(flow, flow.plain):
        words = "streams are compressed for clients that accept it, and the compressor holds events back"
        return fail("compression", words, _UNCOMPRESS)
    if flow.browser.encoding:
        words = (
            f"streams are compressed on the way ({flow.browser.encoding}), which costs memory and CPU for each reader"
        )
        return warn("compression", words, _UNCOMPRESS)
    if flow.browser.opened is None:
        return unknown("compression", "nothing came on the stream")
    return ok("compression", "streams are not compressed, so that no event waits for more data")


def judge_buffering(flow: Flow) -> Finding:
    """Judge whether events arrive at once, one by one."""
    if away := flow.plain.away or flow.lines.away:
        return unknown("buffering", f"the feed turned the stream away: {away}", ROOM)
    if flow.plain.refused is not None:
        words = f"not checked, because no stream may be read: {flow.plain.refused}"
        return unknown("buffering", words, "give a token that may publish and subscribe to the topic")
    if not flow.sent:
        return _judge_unsent(flow)
    held = [_is_late(flow, seen) for seen in (flow.plain, flow.lines)]
    if not any(held):
        # If only the compressed stream is late, judge_compression says so.
        worst = max(_worst(flow.sent, flow.plain), _worst(flow.sent, flow.lines))
        return ok("buffering", f"events arrive at once, one by one (within {max(0.0, worst) * 1000:.0f} ms)")
    if held == [False, True]:
        words = "streams of JSON lines (Accept: application/x-ndjson) are held back; Server-Sent Events arrive at once"
        return warn("buffering", words, "turn buffering off for them, too (Caddy: `flush_interval -1`)")
    return _judge_held(flow)


def _judge_held(flow: Flow) -> Finding:
    arrived = flow.plain.arrived
    seen = (flow.browser, flow.plain, flow.lines)
    ids = {id for id, _ in flow.sent} | {each.position for each in seen if each.position}
    if len({id.rpartition("-")[0] for id in ids}) > 1:
        words = "the nodes have different logs: an event arrives only at readers of the node that it was published to"
        return fail("buffering", words, "let all nodes behind the proxy share one log (FEED_LOG=redis://…)")
    if flow.released is not None:
        words = f"events are held back until more data follows: the first came after {flow.released >> 10} KiB"
        return fail("buffering", words, _UNBUFFER)
    if len(arrived) < len(flow.sent):
        words = f"events are held back: {len(arrived)} of {len(flow.sent)} came while the stream was open"
        return fail("buffering", words, _UNBUFFER)
    late = _worst(flow.sent, flow.plain)
    if _come_together(flow.sent, flow.plain):
        return fail(
            "buffering", f"events that were published one by one come together, up to {late:.1f} s late", _UNBUFFER
        )
    return warn("buffering", f"events are {late:.1f} s late", "is the network that slow, or the server that busy?")


def _judge_unsent(flow: Flow) -> Finding:
    if flow.refused is not None and flow.plain.opened is None:
        return fail("buffering", "not even the first bytes of a stream arrive", _UNBUFFER)
    words = f"the first bytes of a stream arrive, but events could not be timed: publishing: {flow.refused}"
    return unknown("buffering", words, "give a token that may publish to the topic")


def _is_late(flow: Flow, seen: Seen) -> bool:
    worst = _worst(flow.sent, seen)
    # Where all is slow an event may take its time, but events that come together were held back.
    return worst >= max(_LATE, _TRIPS * flow.trip) or (worst >= _LATE and _come_together(flow.sent, seen))


def _come_together(sent: Sequence[tuple[str, float]], seen: Seen) -> bool:
    """Return whether events that were published one by one all came, within less than half of that time."""
    if len(sent) < 2 or any(id not in seen.arrived for id, _ in sent):
        return False
    times = [seen.arrived[id] for id, _ in sent]
    return max(times) - min(times) < (sent[-1][1] - sent[0][1]) / 2


def _worst(sent: Sequence[tuple[str, float]], seen: Seen) -> float:
    """Return the longest time that an event took, in seconds; infinite if one never came."""
    if seen.opened is None:
        return float("inf")
    return max((seen.arrived.get(id, float("inf")) - at for id, at in sent), default=0.0)


def judge_caching(flow: Flow) -> Finding:
    """Judge whether each reader has a stream of its own, fresh from the feed."""
    control, age, said = flow.plain.cache
    cure = "let no cache store answers below /events, or merge requests for them"
    if flow.plain.opened is None:
        return unknown("caching", "nothing came on the stream")
    if flow.plain.subscription == flow.browser.subscription:
        return fail(
            "caching", "two readers got the same stream: a cache on the way merges requests or repeats answers", cure
        )
    if age not in {"", "0"} or "hit" in said.lower():
        return fail("caching", f"a cache on the way answered (Age: {age or '-'}, {said or 'no X-Cache'})", cure)
    if "no-store" not in control:
        words = f"Cache-Control arrives as {control!r} instead of no-store"
        return warn("caching", words, "let the proxy leave Cache-Control unchanged")
    return ok("caching", "each reader has a stream of its own, and no cache may store it")


class Quiet(NamedTuple):
    """A stream without events, watched for at most `asked` seconds. `beats` are the seconds after its first event at
    which heartbeats came; `ended` is after how many seconds it ended, None if it did not, and `how` is why."""

    asked: float
    opened: bool
    beats: Sequence[float] = ()
    ended: float | None = None
    how: str = ""


async def look_quiet(target: Target, type: str) -> Quiet:
    """Watch a quiet stream."""
    async with target.reading(target.path(type=type)) as reading:
        if not await _opened(target, reading):
            return Quiet(target.idle, opened=False, how=reading.end)
        began = reading.pieces[0].at
        await reading.until(lambda: reading.first("feed.closing") is not None, target.idle)
        beats = [piece.at - began for piece in reading.pieces[1:] if piece.event in {":", "feed.position"}]
        closing = reading.first("feed.closing")
        if closing is not None:
            return Quiet(target.idle, True, beats, closing.at - began, f"feed.closing {closing.data}")
        return Quiet(target.idle, True, beats, reading.ended_at - began if reading.end else None, reading.end)


def judge_quiet(quiet: Quiet) -> Finding:
    """Judge whether a stream stays open while nothing happens."""
    if not quiet.opened:
        return unknown("idle", f"nothing came on the stream{f': {quiet.how}' if quiet.how else ''}")
    if quiet.ended is None:
        return _judge_kept(quiet)
    after = f"{quiet.ended:.0f} s"
    if quiet.how.startswith("feed.closing"):
        return warn("idle", f"the feed itself ended a stream after {after}: {quiet.how}", "see its log for the reason")
    if not quiet.beats:
        words = f"a quiet stream is cut after {after}, before the feed's first heartbeat"
        cure = "let the proxy wait for longer than FEED_HEARTBEAT (nginx: `proxy_read_timeout`, HAProxy: `timeout "
        return fail("idle", words, f"{cure}server`), or make FEED_HEARTBEAT shorter than that time")
    words = f"a stream is cut after {after}, although it was alive: something limits how long a request may take"
    return warn("idle", words, "raise that limit: readers reconnect and miss nothing, but do so all the time")


def _judge_kept(quiet: Quiet) -> Finding:
    if quiet.beats:
        times = [0.0, *quiet.beats]
        longest = max(later - earlier for earlier, later in pairwise(times))
        if quiet.asked - times[-1] > 1.5 * longest + _SLACK:
            words = f"a quiet stream falls silent after {times[-1]:.0f} s, and its client is not told that it has ended"
            return fail("idle", words, SILENTLY_CUT)
        words = f"a quiet stream stays open for at least {quiet.asked:.0f} s, with a heartbeat every {longest:.0f} s"
        return ok("idle", words)
    words = f"a quiet stream stayed open for {quiet.asked:.0f} s, without a heartbeat"
    if quiet.asked < _LONGER:
        return unknown("idle", words, "watch a stream for longer: --idle 75s")
    return warn(
        "idle",
        words,
        "is FEED_HEARTBEAT that long, or are heartbeats held back? Without them proxies cut quiet streams",
    )
