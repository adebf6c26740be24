"""The command line: `feed serve`."""

from __future__ import annotations
import sys
from feed import FeedError
from web.server import serve
from web.settings import Settings


def main() -> None:
    kw = {}
    a = sys.argv[2:]
    for k, v in zip(a[::2], a[1::2]):
        kw[k[2:].replace("-", "_")] = v
    try:
        serve(Settings(**kw))
    except FeedError as e:
        print(f"feed: {e}", file=sys.stderr)
        sys.exit(1)
