"""How much one client may publish: a token bucket for each subject or address."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice

from feed import Overloaded

_MOST = 100_000  # names that are remembered: some 15 MB
_LOOK_AT = 100  # of them are looked at, to find names that can be forgotten without loss


class Rate:
    """Allow each name `per_second` events, and as many as in a second at once, but at least one.

    A bucket fills steadily. A request may begin if there is room for one event. A batch is then taken whole, and may
    leave a debt, which time pays off before anything else passes. So any batch can pass, and the average holds.

    Only `most` names are remembered. A name whose bucket is full again is as good as a new one, and is forgotten first.
    If the names that were unused for longest are not full, the one unused for longest is forgotten, and starts with a
    full bucket when it comes back. So whoever can use more than 100,000 names is not limited by this.
    """

    def __init__(self, per_second: float, *, clock: Callable[[], float] = time.monotonic, most: int = _MOST) -> None:
        self._per_second = per_second
        self._burst = max(1.0, per_second)
        self._clock = clock
        self._most = most
        self._full_at: OrderedDict[str, float] = (
            OrderedDict()
        )  # when each bucket is full again, the name unused for longest first

    def take(self, name: str) -> None:
        """Count one event, whatever becomes of the request. Raises `Overloaded` if it is one too many."""
        self._take(name, 1, least=1.0)

    def take_more(self, name: str, events: int) -> None:
        """Count the other events of a batch whose first event is counted. For an empty batch `events` is -1, and the
        first one stays counted. Raises `Overloaded` if others have left a debt meanwhile."""
        if events > 0:
            self._take(name, events, least=0.0)

    def _take(self, name: str, events: int, *, least: float) -> None:
        now = self._clock()
        full_at = max(self._full_at.get(name, now), now)
        wait = full_at - now - (self._burst - least) / self._per_second
        if wait > 1e-9:  # the rounding of floats
            raise self._exceeded(math.ceil(wait))
        if name not in self._full_at and len(self._full_at) >= self._most:
            self._forget(now)
        self._full_at[name] = full_at + events / self._per_second
        self._full_at.move_to_end(name)

    def _exceeded(self, seconds: int) -> Overloaded:
        return Overloaded(
            f"one client may publish at most {self._per_second:g} events a second: try again in {seconds} s",
            retry_after=max(1, seconds),
        )

    def _forget(self, now: float) -> None:
        full = [name for name, full_at in islice(self._full_at.items(), _LOOK_AT) if full_at <= now]
        for name in full or [next(iter(self._full_at))]:
            del self._full_at[name]
