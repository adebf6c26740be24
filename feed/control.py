"""Control events: what the feed says about a stream itself, between its events, such as `feed.open` and `feed.gap`.

On SSE they are named events, which a plain `onmessage` never sees; elsewhere they are JSON objects. No published event
can have such a type.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import msgspec

from feed import wire

Reason = Literal["shutdown", "busy", "token-expired", "slow", "kicked"]

_MAX_REQUESTED = 128  # bytes of a client's id that are repeated back to it


class Control(msgspec.Struct, frozen=True, dict=True):
    """A control event. `text` is JSON; `retry` is in milliseconds and a field of SSE only.

    It has the attributes and the wire formats of an `Event`, so that a stream treats both alike.
    """

    type: str
    text: str
    id: str | None = None
    retry: int | None = None

    @property
    def topic(self) -> str:
        """The empty string, which no event has as its topic."""
        return ""

    @cached_property
    def sse(self) -> bytes:
        """The SSE frame."""
        return wire.sse(self.id, self.type, self.text, retry=self.retry)

    @property
    def envelope(self) -> bytes:
        """The SSE frame: it has its name with `?envelope=1`, too."""
        return self.sse

    @cached_property
    def message(self) -> bytes:
        """The JSON object."""
        return wire.control(self.type, self.text, self.id)

    @cached_property
    def line(self) -> bytes:
        """The JSON object as a line of NDJSON."""
        return self.message + b"\n"


class Gap(Control, frozen=True, dict=True):
    """Events may be missing between the ids `requested` and `resumed_from`: what was made of events has to be loaded
    afresh.

    `reason` is "expired" where the events after `requested` are no longer retained, and "unknown" where `requested` is
    not an id of this log, or lies beyond its end.
    """

    requested: str = ""
    resumed_from: str = ""
    reason: Literal["expired", "unknown"] = "unknown"


class Heartbeat(msgspec.Struct, frozen=True):
    """A sign of life on a quiet stream. `id` is the position, which the client has been told already; None within a
    snapshot, where no position may be told."""

    id: str | None

    @property
    def sse(self) -> bytes:
        """A comment."""
        return wire.HEARTBEAT

    envelope = sse

    @property
    def line(self) -> bytes:
        """The position once more, as NDJSON has no comments."""
        return b"\n" if self.id is None else moved(self.id).line

    @property
    def message(self) -> bytes:
        """Nothing, as a WebSocket has pings."""
        return b""


def opened(subscription: str, id: str, retry: int, *, complete: bool = True) -> Control:
    """Make the first thing on every stream. `id` is the position before the first event to come. Unless it is
    `complete`, events that were asked for are gone."""
    data: dict[str, str | int] = {"subscription": subscription}
    if not complete:
        data["complete"] = False
    return Control("feed.open", _json(data), id, retry)


def gap(requested: str, resumed_from: str, reason: Literal["expired", "unknown"]) -> Gap:
    """Make a `Gap`. Of a long `requested` only the beginning is repeated."""
    requested = requested.encode("utf-8", "replace")[:_MAX_REQUESTED].decode("utf-8", "ignore")
    data = _json({"requested": requested, "resumed_from": resumed_from, "reason": reason})
    return Gap("feed.gap", data, resumed_from, None, requested, resumed_from, reason)


def live(replayed: int, id: str | None = None) -> Control:
    """Say that the replay is done: what follows is live. To a reader of state, who gets an `id`, it says that the state
    is whole."""
    return Control("feed.live", _json({"replayed": replayed}), id)


def moved(id: str) -> Control:
    """Say that the log has moved on to `id` without an event for this reader, so that resuming there skips nothing."""
    return Control("feed.position", "{}", id)


def closing(reason: Reason, retry: int) -> Control:
    """Make the last thing on a stream that the server ends. `retry` says after how many milliseconds to come back."""
    return Control("feed.closing", _json({"reason": reason, "retry": retry}), None, retry)


def _json(value: dict[str, str | int]) -> str:
    return wire.json_object(value).decode()
