"""WebSockets, as both clients open them: their options, and what their errors mean."""

from __future__ import annotations

from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed, InvalidProxyStatus, InvalidStatus, ProxyError, WebSocketException
from websockets.frames import CloseCode

from feed.client.calls import Body, no_connection
from feed.client.errors import Again
from feed.client.reading import Reading
from feed.client.server import Server
from feed.client.waits import CONNECT
from feed.errors import TooLarge

_QUEUE = 16  # messages that wait for the reader; with more, the socket is not read
_CLOSE = 1.0  # seconds for the other end to say goodbye

FAULTS = (OSError, EOFError, WebSocketException)
"""Exceptions that opening and reading a WebSocket can raise."""


def options(server: Server, url: httpx.URL, silence: float, max_event: int) -> dict[str, Any]:
    """Return the options of `connect` to `url`. A ping is sent after half of `silence`, and its answer may take the
    other half. Raises `Invalid` for a proxy that cannot be used."""
    found: dict[str, Any] = {
        "compression": None,
        "proxy": server.proxy_for(url),
        "open_timeout": CONNECT,
        "ping_interval": silence / 2,
        "ping_timeout": silence / 2,
        "close_timeout": _CLOSE,
        "max_size": max_event,
        "max_queue": _QUEUE,
    }
    tls = server.ssl
    return found if tls is None else {**found, "ssl": tls}


class Unredirected:
    """A `connect` that does not follow redirects, as a token is only for this server."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """See `websockets`."""
        return exc


def meaning(reading: Reading, error: BaseException, max_event: int) -> Exception:
    """Return what to raise for one of `FAULTS`."""
    match error:
        case InvalidStatus(response=response):
            body = Body.of_refusal()
            body.takes(bytes(response.body or b""))
            headers = {name.lower(): value for name, value in response.headers.raw_items()}
            return reading.refused(response.status_code, response.reason_phrase, headers, body)
        case InvalidProxyStatus(response=response):
            return Again(f"the proxy refuses with {response.status_code}")
        case ProxyError():
            return Again("cannot connect through the proxy")
        case ConnectionClosed(sent=sent, rcvd=rcvd):
            if sent is not None and sent.code == CloseCode.MESSAGE_TOO_BIG and not error.rcvd_then_sent:
                return TooLarge("an event", max_event)
            if rcvd is not None:
                return Again("the stream ended")
            fell_silent = sent is not None and sent.code == CloseCode.INTERNAL_ERROR  # no answer to a ping
            return Again("it fell silent" if fell_silent else "the connection broke")
        case OSError():
            return Again(no_connection(error))
    return Again("the connection broke")
