"""The protocol of a WebSocket connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Opcode
from websockets.server import ServerProtocol

from feed.fastapi.http.problems import LINGER_SECONDS
from feed.fastapi.outlet import EXTENSION
from feed_server.server.protocol.common import ServerLimits, Streaming, unlink_scope

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
    from websockets.frames import Frame
    from websockets.http11 import Request

_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_HEARD_AT_ONCE = 16  # messages that a listener handles before others have their turn
_SLICE = 4 << 10  # bytes of frames that are read in one turn: at most 700 frames, some milliseconds

_CLOSE = 0x88  # the first byte of a Close frame
_MASKED = 0x80  # in the second byte, beside the length
_CLOSE_HEAD = 6  # bytes, the mask included
_MOST_IN_CLOSE = 125
_LONGEST_CLOSE = _CLOSE_HEAD + _MOST_IN_CLOSE


class _Conversation(ServerProtocol):
    """The library's protocol, which takes a Close between the fragments of a message for an error. It is not one: a
    control frame may stand there (RFC 6455, 5.4), and a client that leaves need not send the rest."""

    def recv_frame(self, frame: Frame) -> None:
        """Handle a frame. A Close ends the message that has begun."""
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)


class WebSocketProtocol(Streaming, WebSocketsSansIOProtocol):
    """A WebSocket that is read in slices, as the application, the socket and the other connections have time.

    Nothing is read before the handshake is answered, while messages wait for the application, or while the socket does
    not accept what waits to be written: so a client that sends a flood of messages, pings or fragments fills only its
    own socket. A message that has begun must end in time, and counts among the bodies until it is handled.

    A handshake that cannot be read is answered and closed; uvicorn 0.54 leaves it open, and fails on it when it stops.
    After a frame that breaks the rules the connection is read on for a moment, or until the client answers with a
    Close, so that the client sees the code. A refusal by the application, or a client that breaks the rules, is not
    logged as an error.
    """

    __slots__ = ("_begun", "_handled", "_heard", "_held", "_in_turn", "_last", "_limits", "_unread")

    def __init__(self, *arguments: Any, limits: ServerLimits, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn.parser.close()  # parser and connection refer to each other
        self.conn = _Conversation(max_size=self.config.ws_max_size, logger=self.logger)
        self._limits = limits
        self._last = b""  # the end of what came after the rules were broken
        self._unread = bytearray()  # not parsed yet
        self._in_turn = False  # whether a slice waits for its turn
        self._begun = False  # whether a part of a message has come
        self._heard = 0  # messages of this slice that the listener has handled
        self._held = 0  # bytes of it, and of messages that the application has not handled
        self._handled = 0  # of these, the bytes of whole messages

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # They refer to each other, and garbage is not collected while there are many connections (see
        # feed_server.server.gc).
        self.conn.parser.close()
        self.conn.parser_exc = None
        self._unread.clear()
        self._limits.messages.end(self)
        self._limits.bodies.release(self._held)
        self._held = 0
        if self.handshake_initiated and hasattr(self, "scope"):
            unlink_scope(self.scope)

    def late(self) -> None:
        """Close the WebSocket: a message has begun and did not end in time."""
        if not self.close_sent and not self.transport.is_closing():
            self._fail(1008, "a message did not arrive in time")

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        self.read_paused = True  # by the HTTP connection, until the handshake is answered
        if not self.close_sent:
            self.scope["extensions"] = {**(self.scope["extensions"] or {}), EXTENSION: {"connection": self}}

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            self._read(data)
            if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.close_sent:
                self.transport.write(b"".join(self.conn.data_to_send()) or _BAD_REQUEST)
                self.handshake_complete = self.close_sent = True
                self.transport.close()
        elif self._broken:
            self._look_for_close(self._last + data)
        elif self._unread or len(data) > _SLICE or self.write_paused or self.read_paused:
            self._unread += data
            self.go_on()
        else:
            self._read(data)

    @property
    def _broken(self) -> bool:
        """Whether the WebSocket is being closed because the client broke the rules. What comes now is ignored."""
        return self.close_sent and (self.conn.parser_exc is not None or self.conn.eof_sent)

    @property
    def _free(self) -> bool:
        """Whether more can be read: the messages before were handled, and the answers to them written."""
        taken = self.handshake_complete and (self.queue.empty() or self.close_sent)
        return taken and not self.write_paused and not (self.listener is not None and self.listener.is_busy())

    def go_on(self) -> None:
        """Read on if that is possible now, else pause."""
        if self.transport.is_closing() or self.disconnected:
            return
        if self._handled and self.listener is not None and not self.listener.is_busy() and self.queue.empty():
            self._handled = 0
            self._account()
        if self._broken:
            self._unread.clear()
        free = self._free
        if free and not self._unread:
            if self.read_paused:
                self.read_paused = False
                self.transport.resume_reading()
            return
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()
        if free and not self._in_turn:
            self._in_turn = True
            self._limits.turns.later(self._read_slice)

    def _read_slice(self) -> None:
        self._in_turn = False
        if self._free and not self._broken and not self.disconnected:
            data = bytes(self._unread[:_SLICE])
            del self._unread[:_SLICE]
            self._read(data)
        self.go_on()

    def _read(self, data: bytes) -> None:
        self._heard = 0
        super().data_received(data)
        if self.handshake_initiated and not self.disconnected:
            self._account()
            if self._broken:
                self._look_for_close(data + self._last)

    def _look_for_close(self, received: bytes) -> None:
        """Close at once when both sides have sent a Close (RFC 6455, 5.5.1). Where frames begin is not known any more,
        but a Close is the last frame that a client sends."""
        self._last = received[-_LONGEST_CLOSE:]
        if ends_with_close(self._last) and self.close_timer is not None:
            self.close_timer.cancel()
            self.close_timer = None
            self.transport.close()

    def _account(self) -> None:
        """Count the bytes of messages, and start or stop their deadline."""
        partial = len(self.conn.reader.buffer) + sum(map(len, self.frames))
        begun = partial > 0 or self.conn.current_size is not None
        if self._broken:
            partial, begun = 0, False
        if begun is not self._begun:
            self._begun = begun
            if begun:
                self._limits.messages.begin(self)
            else:
                self._limits.messages.end(self)
        held = partial + self._handled
        if self._broken:
            held = min(held, self._held)  # a close for lack of room must not ask for room again
        if held <= self._held:
            self._limits.bodies.release(self._held - held)
        elif not self._limits.bodies.take(held - self._held, piece=begun):
            self._fail(1013, "this server already reads as many bytes at once as it may: try again")
            return
        self._held = held

    def _fail(self, code: int, reason: str) -> None:
        """Close the WebSocket, and read nothing more."""
        if not self.conn.eof_sent:
            self.conn.fail(code, reason)
        self.handle_parser_exception()

    def handle_cont(self, event: Frame) -> None:
        # A list of the fragments would take more memory than they hold, without limit if they are empty.
        frames = cast("list[bytes | bytearray]", self.frames)
        if not isinstance(frames[0], bytearray):
            frames[0] = bytearray(frames[0])
        frames[0] += event.data
        if event.fin:
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        data, self.frames = self.frames[0], []
        if self._begun:  # the next message has a deadline of its own
            self._begun = False
            self._limits.messages.end(self)
        if self.close_sent:
            return
        if self.curr_msg_data_type == "bytes":
            self.queue.put_nowait({"type": "websocket.receive", "bytes": bytes(data)})
        else:
            try:
                text = data.decode()
            except UnicodeDecodeError:
                self._fail(1007, "not UTF-8")
                return
            if self._is_heard(text, len(data)):
                return
            self.queue.put_nowait({"type": "websocket.receive", "text": text})
        self._handled += len(data)
        self.go_on()

    def _is_heard(self, text: str, size: int) -> bool:
        """Have the listener handle a message, if there is nothing before it, and room for it."""
        listener = self.listener
        if (
            listener is None
            or listener.is_busy()
            or self._heard >= _HEARD_AT_ONCE
            or not self.queue.empty()
            or not self._limits.bodies.has_room(size - self._held)
        ):
            return False
        self._heard += 1
        if not listener.heard(text):
            return False
        if listener.is_busy():
            self._handled += size
            self.go_on()
        return True

    async def receive(self) -> ASGIReceiveEvent:
        if self.queue.empty() and self._handled:
            self._handled = 0
            self._account()
        self.go_on()  # the listener is not busy any more
        message = await self.queue.get()
        self.go_on()
        return message

    def resume_writing(self) -> None:
        super().resume_writing()
        self.go_on()

    def handle_parser_exception(self) -> None:
        close = self.conn.close_sent
        code, reason = (1006, "") if close is None else (close.code, close.reason)
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        if self.stream is not None:
            self.stream.block()
            self.stream = None  # nothing comes after the close
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._last = bytes(self._unread[-_LONGEST_CLOSE:])
        self._unread.clear()
        self.frames = []
        self._account()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        # A close with unread bytes would make the kernel reset the connection, and the Close might not arrive.
        self.close_timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.accept":
            del self.request, self.response  # kilobytes that are not needed any more
            self.go_on()
        elif message["type"] == "websocket.close":
            self.go_on()  # to the client's own close
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # by a refusal; else uvicorn would log an error


def ends_with_close(received: bytes) -> bool:
    """Whether bytes from a client end with a Close frame."""
    return any(
        received[start] == _CLOSE and received[start + 1] == _MASKED | len(received) - _CLOSE_HEAD - start
        for start in range(max(0, len(received) - _LONGEST_CLOSE), len(received) - _CLOSE_HEAD + 1)
    )
