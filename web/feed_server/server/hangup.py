"""SIGHUP, which means two things: the terminal has been closed, or somebody wants something to be read anew."""

from __future__ import annotations

import os
import signal


class Hangups:
    """Made before the process takes the signal: whoever was started by `nohup` is to outlive its terminal."""

    def __init__(self) -> None:
        self._may_end = _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN

    def is_end(self) -> bool:
        """Whether one that has just come is the end of the terminal, and so of what was started there."""
        return self._may_end and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
