"""TLS over a socket that one thread reads while another writes, as a WebSocket without asyncio needs it.

OpenSSL allows one call at a time for one connection, and `ssl.SSLSocket` does not ensure that. When the server's
session tickets arrived while the request was being sent, one connection in some six hundred stood still until its
timeout; with traffic both ways most break. Here OpenSSL works in memory, under a lock that is never held while waiting
for the network. (websockets has such a socket for TLS within TLS, without a lock.)
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from ssl import MemoryBIO, SSLContext, SSLEOFError, SSLWantReadError
from threading import Lock

_RECORD = 1 << 14  # bytes in a TLS record at most (RFC 8446, 5.1)


class Context:
    """Stands for an `SSLContext` when websockets connects: it has the one method that is called then."""

    def __init__(self, context: SSLContext) -> None:
        self._context = context

    def wrap_socket(self, plain: socket.socket, *, server_hostname: str) -> TLSSocket:
        """Shake hands, within the timeout of `plain`. Raises `OSError`, of which `ssl.SSLError` is a kind."""
        return TLSSocket(plain, self._context, server_hostname)


class TLSSocket(socket.socket):
    """A client's socket, in place of `plain`. One thread may be in `recv` while another is in `sendall`. The other
    methods of a socket for reading and writing would bypass the encryption."""

    def __init__(self, plain: socket.socket, context: SSLContext, server_hostname: str) -> None:
        seconds = plain.gettimeout()
        super().__init__(plain.family, plain.type, plain.proto, plain.detach())
        self._incoming, self._outgoing = MemoryBIO(), MemoryBIO()
        self._turn = Lock()  # to call OpenSSL, and for its memory
        self._sending = Lock()  # so that data is sent in the order of its encryption
        try:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
            self._shake_hands(seconds)
            self.settimeout(seconds)
        except BaseException:
            self.close()
            raise

    def _shake_hands(self, seconds: float | None) -> None:
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            try:
                self._tls.do_handshake()
            except SSLWantReadError:
                self._send()
            except OSError:
                with suppress(OSError):
                    self._send()  # the server is told why, if it listens
                raise
            else:
                self._send()
                return
            if deadline is not None:
                self.settimeout(max(0.001, deadline - time.monotonic()))
            self._receive(_RECORD)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Return what has come, `b""` at the end. It may be more than `size`: data that stayed in here would not wake a
        thread that waits for the socket. What OpenSSL answers by itself (to new keys: RFC 8446, 4.6.3) is sent with the
        next write, so that reading never waits for writing."""
        while True:
            with self._turn:
                found = self._decrypted()
            if found is not None:
                return found
            self._receive(size)

    def _decrypted(self) -> bytes | None:
        """Return all decrypted data that is there, None if there is none yet."""
        found = b""
        try:
            while chunk := self._tls.read(_RECORD):
                found += chunk
        except SSLWantReadError:
            return found or None
        except SSLEOFError:  # an end without goodbye: a WebSocket says its own
            pass
        with suppress(OSError):
            self.shutdown(socket.SHUT_RD)  # it can be read now: `b""`, though the other end has closed nothing but TLS
        return found

    def _receive(self, size: int) -> None:
        data = super().recv(size)
        with self._turn:
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    def sendall(self, data: bytes, flags: int = 0, /) -> None:  # type: ignore[override]
        """Encrypt all the data, and send it."""
        rest = memoryview(data)
        with self._sending:
            while rest:
                with self._turn:
                    rest = rest[self._tls.write(rest) :]
                self._send()

    def _send(self) -> None:
        with self._turn:
            encrypted = self._outgoing.read()
        if encrypted:
            super().sendall(encrypted)

    def close(self) -> None:
        """Close the socket, and wake a thread that waits in `recv`."""
        with suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)
        super().close()
