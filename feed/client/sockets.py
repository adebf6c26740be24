"""WebSockets, as both clients open them: where, with which options, and what their errors mean."""

from __future__ import annotations

from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidProxy, InvalidStatus, InvalidURI, WebSocketException
from websockets.frames import CloseCode

from feed.client.calls import Body
from feed.client.errors import Again
from feed.client.frames import no_feed
from feed.client.reading import Reading
from feed.client.server import Server
from feed.client.waits import CONNECT
from feed.errors import Invalid, TooLarge

_QUEUE = 16  # messages that wait for the reader; beyond, the socket is not read
_CLOSE = 1.0  # seconds for the other end to say goodbye

FAULTS = (OSError, EOFError, WebSocketException)
"""Whatever opening a WebSocket and reading it may raise."""


def options(server: Server, silence: float, max_event: int) -> dict[str, Any]:
    """For `connect`. There is a ping every half of `silence`, and as long for its answer."""
    found: dict[str, Any] = {
        "compression": None,
        "proxy": True if server.trust_env else None,
        "open_timeout": CONNECT,
        "ping_interval": silence / 2,
        "ping_timeout": silence / 2,
        "close_timeout": _CLOSE,
        "max_size": max_event,
        "max_queue": _QUEUE,
    }
    return found if server.ssl is None else {**found, "ssl": server.ssl}


def meaning(reading: Reading, error: BaseException, max_event: int) -> Exception:
    """What to raise for one of `FAULTS`."""
    match error:
        case InvalidStatus(response=response) if response.status_code != 200:
            body = Body.of_refusal()
            body.takes(bytes(response.body or b""))
            headers = {name.lower(): value for name, value in response.headers.raw_items()}
            return reading.refused(response.status_code, response.reason_phrase, headers, body)
        case InvalidStatus():
            return no_feed()
        case InvalidProxy() | InvalidURI():
            return Invalid("url", str(error))
        case ConnectionClosed(sent=sent, rcvd=rcvd):
            if sent is not None and sent.code == CloseCode.MESSAGE_TOO_BIG and not error.rcvd_then_sent:
                return TooLarge("an event", max_event)
            if rcvd is not None:
                return Again("the stream ended")
            fell_silent = sent is not None and sent.code == CloseCode.INTERNAL_ERROR  # no answer to a ping
            return Again("it fell silent" if fell_silent else "the connection broke")
        case OSError():
            return Again("cannot connect")
    return Again("the connection broke")
