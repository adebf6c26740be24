"""Streams as a client sees them: frames out of the raw bytes, with a limit on how long anything is waited for.

They are parsed here once more, and not by `feed.client`, which is compared with them.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

WAIT_SECONDS = 10.0


@dataclass
class Frame:
    """One SSE frame: the fields it had; None for those it had not."""

    id: str | None = None
    event: str | None = None
    data: str | None = None
    retry: str | None = None

    @property
    def json(self) -> Any:
        """The data, parsed."""
        assert self.data is not None
        return json.loads(self.data)


class Stream:
    """An open SSE or NDJSON response."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.comments = 0
        self._chunks = response.iter_raw()
        self._buffer = b""

    def line(self) -> str:
        """The next line, without its LF. Raises `EOFError` at the end of the stream."""
        while b"\n" not in self._buffer:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise EOFError(self._buffer)
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.decode()

    def frame(self) -> Frame:
        """The next SSE frame; comments are counted and passed over."""
        frame = Frame()
        while line := self.line():
            if line.startswith(":"):
                self.comments += 1
                continue
            name, colon, value = line.partition(":")
            assert colon, f"a line without a colon: {line!r}"
            value = value.removeprefix(" ")
            if name == "data" and frame.data is not None:
                value = f"{frame.data}\n{value}"
            setattr(frame, name, value)
        return frame

    def frames(self, count: int) -> list[Frame]:
        """The next `count` frames."""
        return [self.frame() for _ in range(count)]

    def until(self, event: str) -> list[Frame]:
        """All frames up to and with the first one of this name."""
        frames = [self.frame()]
        while frames[-1].event != event:
            frames.append(self.frame())
        return frames

    def rest(self) -> list[Frame]:
        """All frames up to the end of the stream."""
        frames = []
        with contextlib.suppress(EOFError):
            while True:
                frames.append(self.frame())
        return frames

    def object(self) -> Any:
        """The next line of NDJSON."""
        return json.loads(self.line())


@contextlib.contextmanager
def subscribed(
    url: str, headers: Mapping[str, str] | Mapping[bytes, bytes] | None = None, *, opened: bool = True, **named: str
) -> Iterator[Stream]:
    """A stream at `url`, for as long as the block lasts. Unless `opened` is false, `feed.open` is taken off first.

    Headers may be given by name too: `Last_Event_ID="…"`.
    """
    asked = httpx.Headers(headers)
    asked.update({name.replace("_", "-"): value for name, value in named.items()})
    timeout = httpx.Timeout(WAIT_SECONDS)
    # Loading certificates takes longer than all else here; none of these servers is asked for who it is.
    with httpx.stream("GET", url, headers=asked, timeout=timeout, verify=False) as response:
        stream = Stream(response)
        if opened:
            assert response.status_code == 200, response.read()
            is_lines = "ndjson" in response.headers["content-type"]
            assert (stream.object()["type"] if is_lines else stream.frame().event) == "feed.open"
        yield stream


def eventually(condition: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """Ask until the answer is true, and give it. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.01)
    return answer
