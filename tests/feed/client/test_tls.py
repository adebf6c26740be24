"""TLS that one thread reads while another writes, against `ssl` at the other end."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from feed.client.tls import Context, TLSSocket
from tests.support.certificate import certified
from tests.support.streams import eventually

SECONDS = 10.0
PIECES = 2_000
UP, DOWN = b"u" * 50, b"d" * 2_000


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For a server, and for a client that trusts it."""
    return certified(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def pair(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[tuple[ssl.SSLSocket, TLSSocket]]:
    """A server's end and a client's of one connection."""
    for_server, for_client = contexts
    with ThreadPoolExecutor(1) as threads, socket.create_server(("127.0.0.1", 0)) as listening:
        accepting = threads.submit(accepted, listening, for_server)
        client = Context(for_client).wrap_socket(plain(listening), server_hostname="127.0.0.1")
        with client, accepting.result(SECONDS) as server:
            yield server, client


def accepted(listening: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    connection, _ = listening.accept()
    connection.settimeout(SECONDS)
    return context.wrap_socket(connection, server_side=True)


def plain(listening: socket.socket, seconds: float = SECONDS) -> socket.socket:
    return socket.create_connection(listening.getsockname(), seconds)


def running(function: Callable[[], bytes | None]) -> Future[bytes | None]:
    """What a thread of its own makes of it; a thread that hangs does not keep the test from ending."""
    future: Future[bytes | None] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def read(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or all up to the end."""
    received = b""
    while len(received) < size and (data := connection.recv(65_536)):
        received += data
    return received


def test_what_one_thread_reads_and_another_writes_at_the_same_time_arrives(
    pair: tuple[ssl.SSLSocket, TLSSocket],
) -> None:
    server, client = pair

    def serve() -> bytes:
        received = b""
        for _ in range(PIECES):
            server.sendall(DOWN)
            received += server.recv(len(UP))
        return received + read(server, len(UP) * PIECES - len(received))

    def write() -> None:
        for _ in range(PIECES):
            client.sendall(UP)

    served, written = running(serve), running(write)
    assert read(client, len(DOWN) * PIECES) == DOWN * PIECES
    assert written.result(SECONDS) is None
    assert served.result(SECONDS) == UP * PIECES


def test_reading_goes_on_while_a_writer_waits_for_room(pair: tuple[ssl.SSLSocket, TLSSocket]) -> None:
    server, client = pair
    much = b"x" * (16 << 20)  # more than the buffers of a socket hold

    def serve() -> bytes:
        server.sendall(much)
        return read(server, len(much))

    served, written = running(serve), running(lambda: client.sendall(much))
    assert read(client, len(much)) == much
    assert written.result(SECONDS) is None
    assert served.result(SECONDS) == much


def test_all_that_has_come_is_given_at_once_as_nobody_would_hear_of_the_rest(
    pair: tuple[ssl.SSLSocket, TLSSocket],
) -> None:
    server, client = pair
    for number in range(200):
        server.sendall(b"%03d" % number)  # each in a record of its own
    expected = b"".join(b"%03d" % number for number in range(200))
    received = b""
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ)
        while len(received) < len(expected):
            assert selector.select(SECONDS), f"nothing more to read after {len(received)} bytes"
            received += client.recv(4096)
    assert received == expected


@pytest.mark.parametrize("goodbye", [True, False])
def test_an_end_can_be_waited_for_and_read(pair: tuple[ssl.SSLSocket, TLSSocket], goodbye: bool) -> None:
    server, client = pair
    server.sendall(b"the last")
    if goodbye:  # the connection itself stays open until the client has said goodbye, too
        server.settimeout(0)
        with contextlib.suppress(ssl.SSLWantReadError):
            server.unwrap()
    else:
        server.shutdown(socket.SHUT_WR)
    received: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ)
        while not received or received[-1]:
            assert selector.select(SECONDS), "nobody would notice the end"
            received.append(client.recv(4096))
    assert b"".join(received) == b"the last"
    assert client.recv(4096) == b"", "and it stays one"


def test_closing_it_wakes_the_thread_that_reads(pair: tuple[ssl.SSLSocket, TLSSocket]) -> None:
    server, client = pair
    client.settimeout(None)  # as websockets has it
    server.sendall(b"x")
    assert client.recv(1) == b"x"  # and the session tickets before it: nothing is left to be read
    reading = running(lambda: client.recv(4096))
    eventually(lambda: any(frame.f_code.co_name == "_receive" for frame in sys._current_frames().values()))
    client.close()
    eventually(reading.done)
    assert isinstance(reading.exception(), OSError) or reading.result() == b""


def test_who_is_not_trusted_is_refused_and_told(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    for_server, _ = contexts
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as threads:
        accepting = threads.submit(accepted, listening, for_server)
        connection = plain(listening)
        with pytest.raises(ssl.SSLCertVerificationError):
            Context(ssl.create_default_context()).wrap_socket(connection, server_hostname="127.0.0.1")
        assert connection.fileno() == -1, "the socket was taken over, and is closed"
        with pytest.raises(ssl.SSLError, match="alert unknown ca"):
            accepting.result(SECONDS).recv(1)


def test_a_server_that_shakes_hands_drop_by_drop_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connection = plain(listening, 0.5)
        server, _ = listening.accept()

        def drip() -> None:
            with server, contextlib.suppress(OSError):
                server.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")  # the head of a long message
                while True:
                    server.sendall(b"\x00")
                    time.sleep(0.05)

        dripping = running(drip)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            Context(ssl.create_default_context()).wrap_socket(connection, server_hostname="127.0.0.1")
        assert 0.4 < time.monotonic() - began < 5
        dripping.result(SECONDS)
