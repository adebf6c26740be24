"""Sizes and durations as people write them."""

from __future__ import annotations

import math
import re
from typing import Any

from feed.errors import Invalid

_SIZE = re.compile(r"(\d+)\s*(|[kmg]i?b?|b)", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(|ms|s|m|h|d)", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_size(value: Any) -> Any:
    """Return bytes for a number, or for one with K, M or G (of 1024): `16M`. Raises `ValueError`."""
    if isinstance(value, str):
        if (parts := _SIZE.fullmatch(value.strip())) is None:
            raise ValueError("a size is a number of bytes, or one with K, M or G: 65536, 64K, 16M")
        return int(parts[1]) << {"k": 10, "m": 20, "g": 30}.get(parts[2][:1].lower(), 0)
    return value


def parse_duration(value: Any) -> Any:
    """Return seconds for a number, or for one with ms, s, m, h or d: `7d`. Raises `ValueError`."""
    if isinstance(value, str):
        if (parts := _DURATION.fullmatch(value.strip())) is None:
            raise ValueError("a duration is a number of seconds, or one with ms, s, m, h or d: 15, 500ms, 7d")
        return float(parts[1]) * _SECONDS[parts[2].lower()]
    return value


def bounded_duration(value: float | str, name: str, least: float, most: float, allowed: str) -> float:
    """Return seconds as `parse_duration` does. Raises `Invalid` for what is no duration between the bounds, which
    `allowed` puts in words."""
    try:
        seconds = float(parse_duration(value))
    except ValueError:
        seconds = math.nan
    if not least <= seconds <= most:
        raise Invalid(name, f"has to be from {allowed}")
    return seconds


def size_text(size: int) -> str:
    """Return bytes as `parse_size` reads them, as short as possible: `16M`."""
    for unit, shift in (("G", 30), ("M", 20), ("K", 10)):
        if size and size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return str(size)


def duration_text(seconds: float) -> str:
    """Return seconds as `parse_duration` reads them, with up to six digits: `7d`, `90s`."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds // length:g}{unit}"
    return f"{seconds:g}s"
