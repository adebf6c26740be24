"""SIGHUP, which has two meanings: the terminal was closed, or settings should be read again."""

from __future__ import annotations

import os
import signal


class Hangups:
    """Tells the two meanings apart. Make it before the process handles SIGHUP: with `nohup` the signal is ignored, and
    the process must outlive its terminal."""

    def __init__(self) -> None:
        self._may_end = _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN

    def is_end(self) -> bool:
        """Whether a SIGHUP that has just arrived means that the terminal was closed, and with it this process ends."""
        return self._may_end and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
