"""One subscription: where it is, what to ask for, what each thing that comes means, and how long to stay away when the
stream has ended. The sockets are elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import httpx

from feed.client.answers import is_own, refusal
from feed.client.calls import Body, selected
from feed.client.errors import Again, Refused
from feed.client.frames import Control, Received, of_gap
from feed.client.items import Item, Message, Notice, Reconnecting
from feed.client.waits import COME_BACK, FIRST_STREAM, LONGEST_STREAM, Waits, obeyed
from feed.errors import Invalid
from feed.media_types import SSE

Transport = Literal["sse", "websocket"]

MAX_EVENT = 16 << 20  # bytes, as a server's largest body by default

_LONGEST_TOLD = 10**9  # milliseconds; `obeyed` is stricter


class Reading:
    """The state of a subscription. `position` is the id that a resume names, "" before the server has named one;
    `back_at` is for whoever reads, who has a clock: not before then is the stream to be opened."""

    def __init__(
        self,
        patterns: Sequence[str],
        types: Iterable[str],
        after: str | None,
        last: int | None,
        transport: Transport,
        *,
        renewable: bool,
    ) -> None:
        if transport not in ("sse", "websocket"):
            raise Invalid("transport", "is sse or websocket")
        self.transport = transport
        self.position = ""
        self.back_at = 0.0
        self._parameters = selected(patterns, types)
        if after is not None:
            self._parameters.append(("last_event_id", after))
        if last is not None:
            self._parameters.append(("last", str(last)))
        self._waits = Waits(FIRST_STREAM, LONGEST_STREAM)
        self._is_open = False
        self._sent_away: float | None = None
        self._renewable = renewable
        self._may_renew = renewable

    # What is asked for.

    @property
    def parameters(self) -> httpx.QueryParams:
        """Of the URL."""
        own = [("envelope", "1")] if self.transport == "sse" else []
        return httpx.QueryParams((*own, *self._parameters))

    def headers(self, bearer: Mapping[str, str]) -> dict[str, str]:
        """Of the request that opens the stream."""
        headers = dict(bearer)
        if self.transport == "sse":
            headers |= {"Accept": SSE, "Cache-Control": "no-store"}
        if self.position:
            headers["Last-Event-ID"] = self.position
        return headers

    # What comes.

    def opened(self, headers: Mapping[str, str]) -> None:
        """A stream of SSE has begun. Raises `Again` for one that nothing can be made of."""
        if headers.get("content-encoding", "identity") != "identity":
            raise Again("the stream is compressed, against its request; something between compresses it")

    def refused(self, status: int, phrase: str, headers: Mapping[str, str], body: Body) -> Again | Refused:
        """The server has answered, and not with a stream: what it means."""
        may_renew = self._may_renew
        self._may_renew = may_renew and not (status == 401 and is_own(status, headers, body))
        return refusal(status, phrase, headers, body, renewable=may_renew)

    def take(self, received: Received) -> Item | None:
        """What to hand out for what came; None for what only the stream itself needs to know."""
        self.position = received.id or self.position
        if isinstance(received, Message):
            return received
        self._learn(received)
        match received.type:
            case "":
                return None
            case "feed.gap":
                return of_gap(received)
        return Notice(received.type, received.data)

    def _learn(self, control: Control) -> None:
        if control.type == "feed.open":
            self._is_open = True
            self._may_renew = self._renewable
            self._waits.begin(COME_BACK if control.retry is None else control.retry / 1000)
        elif control.type == "feed.closing":
            # A WebSocket has it in the data alone.
            retry = control.data.get("retry", control.retry)
            # JSON's numbers may be of any length, and what is beyond a float cannot be divided.
            self._sent_away = min(max(retry, 0), _LONGEST_TOLD) / 1000 if isinstance(retry, int | float) else None
        elif control.retry is not None:
            self._waits.begin(control.retry / 1000)

    # When it has ended.

    def ended(self, again: Again) -> Reconnecting:
        """How long to wait before it is opened anew.

        A server that sends its readers away spreads them itself, and is obeyed to the letter; only one that never let
        us in is asked less often each time.
        """
        if self._sent_away is not None and self._is_open:
            wait = obeyed(self._sent_away)
        else:
            wait = max(self._waits.next(), obeyed(self._sent_away or again.at_least))
        self._is_open, self._sent_away = False, None
        return Reconnecting(wait, again.reason)
