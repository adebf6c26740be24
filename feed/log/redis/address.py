"""The address of a stream on a Redis: `redis://HOST:PORT/DB?stream=NAME`."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from feed.errors import LogRefused

SCHEMES = ("redis", "rediss", "unix")

_KEYS = (
    *("events", "epochs", "state", "answers", "expiries", "topics", "firsts", "leases", "ttls"),
    *("classes", "old", "values", "ends", "lanes"),  # for classes of retention
)
_STREAM = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_FILE, _SWITCH = r".+", r"(?i:true|false|yes|no|1|0)"
_OPTIONS = {
    "db": r"\d+",
    "ssl_ca_certs": _FILE,
    "ssl_cert_reqs": r"none|optional|required",
    "ssl_certfile": _FILE,
    "ssl_check_hostname": _SWITCH,
    "ssl_keyfile": _FILE,
}
"""The values that each option may have, so that a bad one is refused here, in our words, and not by redis-py."""


class Address(NamedTuple):
    """A stream on a Redis. redis-py connects to `url`."""

    url: str
    stream: str

    @property
    def keys(self) -> list[str]:
        """All keys of the log. They share a hash tag, so that a Redis Cluster keeps them on one node."""
        return [f"{{{self.stream}}}:{name}" for name in _KEYS]

    def key(self, name: str) -> str:
        """Return another key, or channel, of the same feed."""
        return f"{{{self.stream}}}:{name}"


def parse_address(url: str) -> Address:
    """Return the address. Raises `LogRefused`, which says what is wrong with the URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise LogRefused("the URL of Redis is not a valid URL: use redis://HOST:PORT/DB?stream=NAME") from None
    query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    stream = query.pop("stream", "feed")
    shown = without_password(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0 or (parts.scheme == "unix" and not parts.path) or (parts.scheme != "unix" and not parts.hostname):
        raise LogRefused(f"{shown!r} does not name a Redis: use redis://HOST:PORT/DB?stream=NAME")
    if parts.scheme != "unix" and not re.fullmatch(r"/?|/\d+", parts.path):
        raise LogRefused(f"{shown!r}: the path must be the number of a database, such as /0")
    if not _STREAM.fullmatch(stream):
        raise LogRefused(f"{shown!r}: the stream's name must be 1 to 100 characters of A-Z a-z 0-9 . _ : -")
    if unknown := query.keys() - _OPTIONS.keys():
        known = ", ".join(["stream", *sorted(_OPTIONS)])
        raise LogRefused(f"{shown!r}: there is no option {min(unknown)!r}; the options are {known}")
    for name, value in query.items():
        if not re.fullmatch(_OPTIONS[name], value):
            raise LogRefused(f"{shown!r}: {name!r} cannot be {value!r}")
        if name.startswith("ssl_") and parts.scheme != "rediss":
            raise LogRefused(f"{shown!r}: {name!r} works with rediss:// only, where the connection is encrypted")
    return Address(parts._replace(query=urlencode(query)).geturl(), stream)


def without_password(url: str) -> str:
    """Return the URL with its password hidden, to be shown."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    user = unquote(parts.username or "")
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{user}:***@{host}").geturl()
