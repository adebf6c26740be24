"""uvicorn's WebSocket protocol, but for what it leaves undone when a connection is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


_LINGER = 2.0  # seconds


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """A handshake that cannot be read is answered and closed; uvicorn 0.54 leaves it open, and fails on it when it
    stops. After a frame that breaks the rules what still comes is read for a moment, so that the client sees with which
    code it was closed. A refusal by the application is no error."""

    def data_received(self, data: bytes) -> None:
        if self.close_sent and self.conn.parser_exc is not None:
            return
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.close_sent:
            self.transport.write(b"".join(self.conn.data_to_send()) or _BAD_REQUEST)
            self.handshake_complete = self.close_sent = True
            self.transport.close()

    def handle_parser_exception(self) -> None:
        close = self.conn.close_sent
        code, reason = (1006, "") if close is None else (close.code, close.reason)
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        # Closed with bytes unread, the kernel would reset the connection, and the close frame might never arrive.
        self.close_timer = self.loop.call_later(_LINGER, self.transport.close)

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # as far as it goes: uvicorn would log an error
