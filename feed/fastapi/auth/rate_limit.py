"""How much one client may publish: a token bucket for each token or address."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice

from feed import Overloaded

_MOST = 100_000  # names that are remembered: some 15 MB
_LOOK_AT = 100  # of them, for one that can be forgotten without loss


class Rate:
    """`per_second` events for each name, and a second's worth of them at once, at least one.

    A bucket is filled steadily. What it takes to begin is one event's worth; a batch is then taken whole and may leave
    a debt, which time pays off before anything more passes: so any batch can pass, and the average holds.

    So many names are remembered and no more. One whose bucket is full again is the same as one that never came, and is
    forgotten first; where none of the longest unused is full, the very longest unused goes, and if it comes back it
    begins with a full bucket. So whoever has more than 100,000 names to use is not bound by this.
    """

    def __init__(self, per_second: float, *, clock: Callable[[], float] = time.monotonic, most: int = _MOST) -> None:
        self._per_second = per_second
        self._burst = max(1.0, per_second)
        self._clock = clock
        self._most = most
        self._full_at: OrderedDict[str, float] = (
            OrderedDict()
        )  # when each bucket is full again; the longest unused first

    def take(self, name: str) -> None:
        """Take one event's worth, whatever comes of the request. Raises `Overloaded` if it is not there."""
        self._take(name, 1, least=1.0)

    def take_more(self, name: str, events: int) -> None:
        """Take for the other events of a batch whose first has been taken for: of an empty one they are -1, and what
        was taken stays. Raises `Overloaded` if others have left a debt meanwhile."""
        if events > 0:
            self._take(name, events, least=0.0)

    def _take(self, name: str, events: int, *, least: float) -> None:
        now = self._clock()
        full_at = max(self._full_at.get(name, now), now)
        wait = full_at - now - (self._burst - least) / self._per_second
        if wait > 1e-9:  # of the float's own rounding
            raise self._exceeded(math.ceil(wait))
        if name not in self._full_at and len(self._full_at) >= self._most:
            self._forget(now)
        self._full_at[name] = full_at + events / self._per_second
        self._full_at.move_to_end(name)

    def _exceeded(self, seconds: int) -> Overloaded:
        return Overloaded(
            f"at most {self._per_second:g} events a second may be published by one client; go on in {seconds} s",
            retry_after=max(1, seconds),
        )

    def _forget(self, now: float) -> None:
        full = [name for name, full_at in islice(self._full_at.items(), _LOOK_AT) if full_at <= now]
        for name in full or [next(iter(self._full_at))]:
            del self._full_at[name]
