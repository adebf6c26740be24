"""The state of one subscription: where it is, what to ask for, what each thing means that comes, and how long to stay
away when the stream has ended. No sockets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import httpx

from feed.client.answers import Refusal, is_own, refusal
from feed.client.calls import Body, selected
from feed.client.errors import Again
from feed.client.frames import Control, Received, of_gap
from feed.client.items import Item, Notice, Reconnecting
from feed.client.waits import COME_BACK, FIRST_STREAM, LONGEST_STREAM, Waits, obeyed
from feed.errors import Invalid
from feed.event import Event, Placed
from feed.media_types import SSE
from feed.pages import check_after, check_every, check_last, check_latest
from feed.units import duration_text

Transport = Literal["sse", "websocket"]
"""The transport of a subscription: Server-Sent Events, or a WebSocket."""

MAX_EVENT = 16 << 20  # bytes: a server's largest body by default

_LONGEST_TOLD = 10**9  # milliseconds; `obeyed` is stricter


class Reading:
    """The state of a subscription.

    `position` is the id after which the stream resumes, "" before the server has named one. `back_at` is the time of
    the monotonic clock before which the stream is not opened again. Raises `Invalid` for what cannot be asked for.
    """

    def __init__(
        self,
        patterns: Iterable[str | Iterable[str]],
        types: Iterable[str],
        after: str | None,
        last: int | None,
        transport: Transport,
        *,
        latest: bool = False,
        every: float | None = None,
        renewable: bool,
    ) -> None:
        if transport not in ("sse", "websocket"):
            raise Invalid("transport", "has to be sse or websocket")
        check_last(last)
        after = check_after(after)
        self.transport = transport
        self.position = ""
        self.back_at = 0.0
        self._parameters = selected(patterns, types, latest=latest)
        check_latest(latest, {"last": last})
        every = check_every(every, latest=latest)
        if latest:
            self._parameters.append(("latest", "1"))
        if every is not None:
            self._parameters.append(("every", duration_text(every)))
        if after:
            self._parameters.append(("after", after))
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
        """The query parameters for the next connect."""
        own = [("envelope", "1")] if self.transport == "sse" else []
        return httpx.QueryParams((*own, *self._parameters))

    def headers(self, bearer: Mapping[str, str]) -> dict[str, str]:
        """Return the headers for the next connect."""
        headers = dict(bearer)
        if self.transport == "sse":
            headers |= {"Accept": SSE, "Cache-Control": "no-store"}
        if self.position:
            headers["Last-Event-ID"] = self.position
        return headers

    # What comes.

    def opened(self, headers: Mapping[str, str]) -> None:
        """Look at the headers of an SSE stream. Raises `Again` for a stream that cannot be read."""
        if headers.get("content-encoding", "identity") != "identity":
            raise Again("the stream is compressed, which was not asked for: a proxy in front of the feed does it")

    def refused(self, status: int, phrase: str, headers: Mapping[str, str], body: Body) -> Again | Refusal:
        """Return the error for an answer that is not a stream."""
        may_renew = self._may_renew
        self._may_renew = may_renew and not (status == 401 and is_own(status, headers, body))
        return refusal(status, phrase, headers, body, renewable=may_renew)

    def take(self, received: Received) -> Item | None:
        """Return the item to hand out, None for a message that only concerns the stream itself."""
        if isinstance(received, Placed):
            self.position = received.resume
            return received.event
        self.position = received.id or self.position
        if isinstance(received, Event):
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
            # Over a WebSocket it is only in the data.
            retry = control.data.get("retry", control.retry)
            # JSON's numbers may be of any length, and an int beyond the range of a float cannot be divided.
            self._sent_away = min(max(retry, 0), _LONGEST_TOLD) / 1000 if isinstance(retry, int | float) else None
        elif control.retry is not None:
            self._waits.begin(control.retry / 1000)

    # When it has ended.

    def ended(self, again: Again) -> Reconnecting:
        """Return how long to wait before the stream is opened again.

        A server that sends its readers away spreads them itself: its word is kept exactly. Only a server that has never
        opened a stream is asked less often each time.
        """
        if self._sent_away is not None and self._is_open:
            wait = obeyed(self._sent_away)
        else:
            wait = max(self._waits.next(), obeyed(self._sent_away or again.at_least))
        self._is_open, self._sent_away = False, None
        return Reconnecting(wait, again.reason)
