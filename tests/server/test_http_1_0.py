"""Clients of HTTP/1.0, which know no chunks: such as nginx towards a feed, unless it is told otherwise."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.running import RunningServer
from tests.support.streams import eventually


class Old:
    """One such client: a request, and what has come of the answer."""

    def __init__(self, server: RunningServer, request: str, more: bytes = b"") -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        self._socket.sendall(f"{request} HTTP/1.0\r\nHost: localhost\r\n".encode() + (more or b"\r\n"))
        self.got = b""

    def until(self, part: bytes) -> bytes:
        """What came up to this, and with it."""
        while part not in self.got:
            chunk = self._socket.recv(65536)
            assert chunk, self.got
            self.got += chunk
        return self.got

    def rest(self) -> bytes:
        """All up to the end of the connection."""
        while chunk := self._socket.recv(65536):
            self.got += chunk
        return self.got

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def streaming(server: RunningServer) -> Iterator[Old]:
    client = Old(server, "GET /events/old")
    yield client
    client.close()


def parts(answer: bytes) -> tuple[list[str], str]:
    """The head's lines in lower case, and the body."""
    head, _, body = answer.decode().partition("\r\n\r\n")
    return head.lower().split("\r\n"), body


def test_a_stream_has_no_chunks_and_says_that_it_ends_with_the_connection(
    server: RunningServer, streaming: Old
) -> None:
    streaming.until(b"feed.open")
    id = server.publish("old", "one")
    server.publish("old", "two\nlines")
    head, body = parts(streaming.until(b"data: lines\n\n"))
    assert not [line for line in head if line.startswith("transfer-encoding")]
    assert [line for line in head if line.startswith("connection")] == ["connection: close"]
    assert body.partition("}\n\n")[2].startswith(f"id: {id}\ndata: one\n\n")
    assert body.endswith("data: two\ndata: lines\n\n")


def test_a_stream_that_the_server_ends_is_whole_and_closed(server: RunningServer, streaming: Old) -> None:
    streaming.until(b"feed.open")
    listed = server.http.get(f"{server.url}/subscriptions").json()["subscriptions"]
    [id] = [each["id"] for each in listed if each["patterns"] == ["old"]]
    assert server.http.delete(f"{server.url}/subscriptions/{id}").status_code == 204
    _, body = parts(streaming.rest())
    assert "event: feed.closing\n" in body
    assert body.endswith("\n\n")


def test_an_answer_of_known_length_has_it_and_is_closed(server: RunningServer) -> None:
    client = Old(server, "POST /events/old?type=x", b"Content-Length: 5\r\nConnection: keep-alive\r\n\r\nhello")
    head, body = parts(client.rest())
    assert head[0] == "http/1.1 201 created"
    assert f"content-length: {len(body)}" in head
    assert "connection: close" in head
    client.close()


def test_a_head_alone_has_no_body(server: RunningServer) -> None:
    client = Old(server, "HEAD /events/old")
    head, body = parts(client.rest())
    assert head[0] == "http/1.1 200 ok"
    assert body == ""
    client.close()


def test_a_file_in_pieces_is_whole(server: RunningServer) -> None:
    page = server.http.get(f"{server.url}/docs").text
    client = Old(server, "GET /docs")
    assert parts(client.rest())[1] == page
    client.close()


def test_a_reader_that_leaves_is_gone(server: RunningServer, streaming: Old) -> None:
    streaming.until(b"feed.open")
    streaming.close()

    def nobody() -> bool:
        listed = server.http.get(f"{server.url}/subscriptions").json()["subscriptions"]
        return not [each for each in listed if each["patterns"] == ["old"]]

    eventually(nobody)
