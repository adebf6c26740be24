"""The command `feed`, and `python -m feed`: the command line. It needs what the extra `server` installs."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; where its dependencies are missing, say in one line how to install them."""
    try:
        from feed_server.cli.main import (
            main as run,  # the one arrow upward: a script's name is the library's, its code the server's
        )
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in {"feed", "feed_server"}:
            raise
        sys.exit(
            f"feed: the command needs the server's dependencies ({error.name} is missing): pip install 'feed[server]'"
        )
    run()


if __name__ == "__main__":
    main()
