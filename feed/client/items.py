"""Items that a subscription yields besides events and gaps."""

from __future__ import annotations

from typing import Any

import msgspec

from feed.control import Gap
from feed.event import Event


class Notice(msgspec.Struct, frozen=True):
    """A message of the server about the stream itself: `feed.open`, `feed.live`, `feed.position` or `feed.closing`."""

    type: str
    data: dict[str, Any]


class Reconnecting(msgspec.Struct, frozen=True):
    """The stream broke, for `reason`, and is opened again in `wait` seconds, where it was. No event is lost."""

    wait: float
    reason: str


Item = Event | Gap | Notice | Reconnecting
"""The items that a subscription yields."""
