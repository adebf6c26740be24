"""Log lines that come again and again, but for some numbers: they are put together from a line that was made before.

Making a line of a record takes several times as long, and a publish has one. What a line looks like stands in the
formatters alone: here a line of theirs is cut where the numbers are.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import lru_cache

from feed.fastapi.logging.records import FactRecord
from feed.fastapi.logging.requests import REQUESTS, milliseconds, request_facts
from feed_server.logging.stderr import OutputHandler

# What stands in the line that is cut. A client could put the same into a path: then the line is not used.
_SECONDS, _IN, _OUT, _CLIENT = 86_523.57143, 7_214_639_851, 6_318_257_943, "198.51.100.231"
_CREATED = 86_399.571  # on the first day of 1970
_PLAIN = re.compile(r"[0-9A-Za-z.:]{1,128}")


class PreparedLine:
    """The line of one kind of request. `template` has places for the time, if `timed`, the milliseconds, the bytes in
    and out, and the client."""

    __slots__ = ("_put", "_stamps", "_template")

    def __init__(self, handler: OutputHandler, template: bytes, *, timed: bool) -> None:
        self._put = handler.output.put
        self._stamps = _stamps(handler.stamp) if timed else None
        self._template = template

    def write(self, seconds: float, bytes_in: int, bytes_out: int, client: str) -> bool:
        """Log a request that is over. False if this client cannot stand in the line as it is."""
        written = _plain(client)
        if written is None:
            return False
        ms = _milliseconds(int(seconds * 100_000 + 0.5))
        if self._stamps is None:
            self._put(self._template % (ms, bytes_in, bytes_out, written))
        else:
            self._put(self._template % (self._stamps.now(), ms, bytes_in, bytes_out, written))
        return True


class _Stamps:
    """The time as lines have it, made once a millisecond."""

    __slots__ = ("_at", "_make", "_text")

    def __init__(self, make: Callable[[float], str]) -> None:
        self._make = make
        self._at = 0
        self._text = b""

    def now(self) -> bytes:
        at = time.time_ns() // 1_000_000
        if at != self._at:
            self._at, self._text = at, self._make((at + 0.5) / 1000).encode()  # half a millisecond for what floats lose
        return self._text


@lru_cache(maxsize=4096)
def _milliseconds(hundredths: int) -> bytes:
    """Return a duration in hundredths of a millisecond as lines have it."""
    return b"%r" % milliseconds(hundredths / 100_000)


def prepared_line(
    handler: OutputHandler, level: int, method: str, path: str, status: int, principal: str | None
) -> PreparedLine | None:
    """Make the line of the requests with this path and outcome. None if it cannot be cut."""
    facts = request_facts(method, path, status, _SECONDS, _IN, _OUT, (_CLIENT, 0), principal)
    record = FactRecord(REQUESTS.name, level, facts)
    record.created, record.msecs = _CREATED, _CREATED % 1 * 1000
    line = handler.line(record)
    stamp = handler.stamp(_CREATED).encode()
    timed = stamp in line  # the journal knows the time itself
    varying = {repr(facts["ms"]): b"%b", f"{_IN}": b"%d", f"{_OUT}": b"%d", _CLIENT: b"%b"}
    if timed:
        varying = {stamp.decode(): b"%b", **varying}
    template, place = line.replace(b"%", b"%%"), -1
    for text, kind in varying.items():
        found = template.find(text.encode())
        if found < place or template.count(text.encode()) != 1:
            return None
        template, place = template.replace(text.encode(), kind), found
    return PreparedLine(handler, template, timed=timed)


@lru_cache(maxsize=8)
def _stamps(make: Callable[[float], str]) -> _Stamps:
    return _Stamps(make)


@lru_cache(maxsize=1024)
def _plain(client: str) -> bytes | None:
    """Return an address that looks the same in all lines, else None."""
    return client.encode() if _PLAIN.fullmatch(client) else None
