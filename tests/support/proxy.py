"""The proxy of `feed.testing`, to put between a node and its Redis."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from feed import testing

_PURPOSE = re.compile(rb"SETNAME\r\n\$\d+\r\nfeed-(\w+)-")


class Proxy(testing.Proxy):
    """Unless given the purpose of a connection is in the name that the node gives itself at Redis: `ask`, `read`,
    `append`, `follow`."""

    def __init__(self, target: int, purpose: re.Pattern[bytes] = _PURPOSE) -> None:
        super().__init__(target, purpose)

    def url(self, stream: str = "feed") -> str:
        """The feed's log behind it."""
        return f"redis://127.0.0.1:{self.port}/0?stream={stream}"


@contextlib.contextmanager
def proxy_to(port: int, purpose: re.Pattern[bytes] = _PURPOSE) -> Iterator[Proxy]:
    """A proxy for as long as the block lasts."""
    proxy = Proxy(port, purpose)
    try:
        yield proxy
    finally:
        proxy.close()
