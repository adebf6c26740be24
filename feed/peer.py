"""Who is at the other end of a subscription, as far as the feed has to know."""

from __future__ import annotations

import ipaddress
import math
from functools import lru_cache

import msgspec

_PREFIX_V6 = 64  # bits: what one household or machine is given, and may take its addresses from at will


class Peer(msgspec.Struct, frozen=True):
    """`transport` is how it reads (`sse`, `ndjson`, `websocket`, `poll`, or `library`), `address` the client's own, ''
    inside this process. At `expires`, in seconds since 1970, its right to read ends, and the stream with it.
    `principal` is who it is, for those who look after the feed, where that is known."""

    transport: str = "library"
    address: str = ""
    expires: float = math.inf
    principal: str | None = None


@lru_cache(maxsize=4096)
def address_key(address: str) -> str:
    """Under what name limits per address count this one: IPv6 by its network of 64 bits, anything else as it is."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), _PREFIX_V6), strict=False))
