"""The command line: the command `feed`, and `python -m feed`. It needs the extra `server`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. If its dependencies are missing, exit with one line that says how to install them."""
    try:
        from feed_server.cli.main import (
            main as run,  # the one import upward: the command is the library's, its code the server's
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
