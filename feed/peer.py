"""The client behind a subscription, as far as the feed has to know it."""

from __future__ import annotations

import ipaddress
import math
from functools import lru_cache

import msgspec

_PREFIX_V6 = 64  # bits: one household or machine is given such a network, and may use any address in it


class Peer(msgspec.Struct, frozen=True):
    """`transport` is how the client reads (`sse`, `ndjson`, `websocket`, `poll`, or `library`). `address` is the
    client's own, '' inside this process. At `expires`, in seconds since 1970, its right to read ends, and so does the
    stream. `principal` names the client to operators, where the name is known."""

    transport: str = "library"
    address: str = ""
    expires: float = math.inf
    principal: str | None = None


@lru_cache(maxsize=4096)
def address_key(address: str) -> str:
    """Return the name under which limits for each address count this one: an IPv6 address by its network of 64 bits,
    any other address as it is."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), _PREFIX_V6), strict=False))
