"""How many log lines were lost. A server's handler drops lines rather than wait, and the metrics show the number."""

from __future__ import annotations

import abc
import logging


class DroppingHandler(logging.Handler, abc.ABC):
    """A handler that drops a line where writing it would have to wait."""

    @property
    @abc.abstractmethod
    def dropped(self) -> int:
        """The number of lines that were dropped."""


def dropped_lines() -> int:
    """Return how many lines the handlers of this process have dropped."""
    return sum(handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, DroppingHandler))
