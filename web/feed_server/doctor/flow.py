"""Whether a stream flows: events at once and one by one, not compressed, not out of a cache, and kept while quiet."""

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

SPACING = 0.3
"""Seconds between the events that are timed."""

_EVENTS = 4
_LATE = 1.0  # seconds: nothing on the way has a reason to take longer …
_TRIPS = 3  # … but where a request and its answer take so long themselves
_PADDING = (4 << 10, 16 << 10, 64 << 10)  # bytes that make a buffer run over
_LONGER = 20.0  # seconds: a feed that says nothing for longer was told to (FEED_HEARTBEAT is 15 s)

_SLACK = 1.0  # seconds by which a sign of life may be late

SILENTLY_CUT = (
    "something on the way forgets connections without ending them: let it keep them for longer than FEED_HEARTBEAT, or "
    "set FEED_HEARTBEAT to less than that"
)
"""The cure where neither end is told."""

_UNBUFFER = (
    "turn response buffering off for the feed (nginx: `proxy_buffering off`, and no `proxy_ignore_headers "
    "X-Accel-Buffering`); ask your CDN how"
)
_UNCOMPRESS = "do not compress text/event-stream and application/x-ndjson (nginx: leave them out of `gzip_types`)"


class Seen(NamedTuple):
    """What came on one stream. `opened` is how long its first event took, in seconds, None if it never came; `position`
    that event's id; `refused` what the feed itself said where there was no stream to be had."""

    opened: float | None
    arrived: Mapping[str, float]
    encoding: str = ""
    subscription: str = ""
    cache: tuple[str, str, str] = ("", "", "")
    """Its Cache-Control, Age, and what a cache says of itself."""
    refused: Answer | None = None
    away: str = ""
    """In which words the feed turned it away, if it did."""
    position: str = ""


class Flow(NamedTuple):
    """Events that were `sent`, each with its id and when that was known, and what came of them on a stream that takes
    compression, as browsers do, on one that does not, and on one of JSON lines.

    `trip` is the longest that publishing one took. `refused` is the answer where none could be published. `released` is
    how many bytes had to follow before the first came, None where that did not help or was not tried.
    """

    sent: Sequence[tuple[str, float]]
    browser: Seen
    plain: Seen
    lines: Seen
    refused: Answer | None = None
    released: int | None = None
    trip: float = 0.0


async def look_flow(target: Target, type: str) -> Flow:
    """Publish some events apart from each other, and see when they come."""
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
            await asyncio.sleep(SPACING)
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
    """Whether streams are compressed for those who take that, as all browsers do."""
    if flow.browser.away or flow.plain.away:
        return unknown("compression", f"the feed turned the stream away: {flow.browser.away or flow.plain.away}", ROOM)
    if _is_late(flow, flow.browser) and not _is_late(flow, flow.plain):
        words = "streams are compressed for those who take that, and the compressor keeps the events"
        return fail("compression", words, _UNCOMPRESS)
    if flow.browser.encoding:
        words = f"streams are compressed on the way ({flow.browser.encoding}): memory and work for each reader"
        return warn("compression", words, _UNCOMPRESS)
    if flow.browser.opened is None:
        return unknown("compression", "nothing came on the stream")
    return ok("compression", "streams are not compressed, and so nothing waits for more")


def judge_buffering(flow: Flow) -> Finding:
    """Whether events come at once, one by one."""
    if away := flow.plain.away or flow.lines.away:
        return unknown("buffering", f"the feed turned the stream away: {away}", ROOM)
    if flow.plain.refused is not None:
        words = f"not looked at, as no stream may be read: {flow.plain.refused}"
        return unknown("buffering", words, "give a token that may publish to the topic and read it")
    if not flow.sent:
        return _judge_unsent(flow)
    held = [_is_late(flow, seen) for seen in (flow.plain, flow.lines)]
    if not any(held):
        # Where only the compressed one is late, that is what judge_compression says.
        worst = max(_worst(flow.sent, flow.plain), _worst(flow.sent, flow.lines))
        return ok("buffering", f"events come at once, one by one ({max(0.0, worst) * 1000:.0f} ms at most)")
    if held == [False, True]:
        words = "streams of JSON lines (Accept: application/x-ndjson) are held back; Server-Sent Events come at once"
        return warn("buffering", words, "turn off buffering for them, too (Caddy: `flush_interval -1`)")
    return _judge_held(flow)


def _judge_held(flow: Flow) -> Finding:
    arrived = flow.plain.arrived
    seen = (flow.browser, flow.plain, flow.lines)
    ids = {id for id, _ in flow.sent} | {each.position for each in seen if each.position}
    if len({id.rpartition("-")[0] for id in ids}) > 1:
        words = "what is published is in several logs, and comes only where it is published by chance"
        return fail("buffering", words, "let all nodes behind the proxy share one log (FEED_LOG=redis://…)")
    if flow.released is not None:
        words = f"events are held back until more follows: the first came after {flow.released >> 10} KiB"
        return fail("buffering", words, _UNBUFFER)
    if len(arrived) < len(flow.sent):
        words = f"events are held back: {len(arrived)} of {len(flow.sent)} came while the stream was open"
        return fail("buffering", words, _UNBUFFER)
    times = [arrived[id] for id, _ in flow.sent]
    late = _worst(flow.sent, flow.plain)
    if max(times) - min(times) < SPACING * (len(times) - 1) / 2:
        return fail("buffering", f"events that were apart come together, up to {late:.1f} s late", _UNBUFFER)
    return warn("buffering", f"events are {late:.1f} s late", "is the way that long, or the server that busy?")


def _judge_unsent(flow: Flow) -> Finding:
    if flow.refused is not None and flow.plain.opened is None:
        return fail("buffering", "not even the first bytes of a stream come", _UNBUFFER)
    words = f"the first bytes of a stream come, but whether events do was not timed: publishing: {flow.refused}"
    return unknown("buffering", words, "give a token that may publish to the topic")


def _is_late(flow: Flow, seen: Seen) -> bool:
    return _worst(flow.sent, seen) >= max(_LATE, _TRIPS * flow.trip)


def _worst(sent: Sequence[tuple[str, float]], seen: Seen) -> float:
    """The longest that an event took, in seconds; infinite where one never came."""
    if seen.opened is None:
        return float("inf")
    return max((seen.arrived.get(id, float("inf")) - at for id, at in sent), default=0.0)


def judge_caching(flow: Flow) -> Finding:
    """Whether each reader has a stream of its own, fresh from the feed."""
    control, age, said = flow.plain.cache
    cure = "let no cache keep what is below /events, nor join requests for it"
    if flow.plain.opened is None:
        return unknown("caching", "nothing came on the stream")
    if flow.plain.subscription == flow.browser.subscription:
        return fail("caching", "two readers were given one stream: a cache on the way joins or repeats them", cure)
    if age not in {"", "0"} or "hit" in said.lower():
        return fail("caching", f"a cache on the way answered (Age: {age or '-'}, {said or 'no X-Cache'})", cure)
    if "no-store" not in control:
        words = f"Cache-Control is {control!r} by the time it is here, and not no-store"
        return warn("caching", words, "let the proxy leave Cache-Control as it is")
    return ok("caching", "each reader has a stream of its own, and nothing is to be kept")


class Quiet(NamedTuple):
    """A stream on which nothing was published, watched for `asked` seconds at most. `beats` are the seconds after its
    first event at which it gave a sign of life, `ended` those after which it ended, None if it did not, and `how`."""

    asked: float
    opened: bool
    beats: Sequence[float] = ()
    ended: float | None = None
    how: str = ""


async def look_quiet(target: Target, type: str) -> Quiet:
    """Watch one."""
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
    """Whether a stream is kept while nothing happens."""
    if not quiet.opened:
        return unknown("idle", f"nothing came on the stream{f': {quiet.how}' if quiet.how else ''}")
    if quiet.ended is None:
        return _judge_kept(quiet)
    after = f"{quiet.ended:.0f} s"
    if quiet.how.startswith("feed.closing"):
        return warn("idle", f"the feed itself ended a stream after {after}: {quiet.how}", "see why in its log")
    if not quiet.beats:
        words = f"a quiet stream is cut after {after}, before the feed's first sign of life"
        cure = "let the proxy wait for longer than FEED_HEARTBEAT (nginx: `proxy_read_timeout`, HAProxy: `timeout "
        return fail("idle", words, f"{cure}server`), or set FEED_HEARTBEAT to less than that")
    words = f"a stream is cut after {after}, though it was alive: something limits how long a request may take"
    return warn("idle", words, "raise that limit: readers come back and miss nothing, but all the time")


def _judge_kept(quiet: Quiet) -> Finding:
    if quiet.beats:
        times = [0.0, *quiet.beats]
        longest = max(later - earlier for earlier, later in pairwise(times))
        if quiet.asked - times[-1] > 1.5 * longest + _SLACK:
            words = f"a quiet stream falls silent after {times[-1]:.0f} s, and nothing says that it has ended"
            return fail("idle", words, SILENTLY_CUT)
        words = f"a quiet stream is kept, for {quiet.asked:.0f} s at least, with a sign of life every {longest:.0f} s"
        return ok("idle", words)
    words = f"a quiet stream was kept for {quiet.asked:.0f} s, without a sign of life"
    if quiet.asked < _LONGER:
        return unknown("idle", words, "watch it for longer: --idle 75s")
    return warn("idle", words, "is FEED_HEARTBEAT that long, or is it held back? It is what keeps proxies from cutting")
