"""The WebSocket: the same events, order and resume as SSE, and publishing by what the client sends."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.conftest import Serve
from tests.support.awkward_texts import AWKWARD
from tests.support.running import RunningServer
from tests.support.streams import eventually, subscribed

WAIT_SECONDS = 10.0


class Client:
    """A WebSocket client that waits for what it needs, with a limit."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def raw(self) -> str:
        message = self.connection.recv(WAIT_SECONDS)
        assert isinstance(message, str), "text frames only"
        return message

    def object(self) -> Any:
        return json.loads(self.raw())

    def send(self, message: Any) -> None:
        self.connection.send(message if isinstance(message, (str, bytes)) else json.dumps(message))

    def objects(self, count: int) -> list[Any]:
        return [self.object() for _ in range(count)]

    def event(self) -> Any:
        """The next object that is an event."""
        while (message := self.object())["type"].startswith("feed."):
            pass
        return message

    def close_code(self) -> int | None:
        """Read on until it is closed."""
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                self.connection.recv(WAIT_SECONDS)
        return closed.value.rcvd.code if closed.value.rcvd else None


@contextmanager
def connected(server: RunningServer, path: str, *, opened: bool = True, **options: Any) -> Iterator[Client]:
    url = server.url.replace("http", "ws") + path
    with connect(url, open_timeout=WAIT_SECONDS, max_size=2**24, **options) as connection:
        client = Client(connection)
        if opened:
            assert client.object()["type"] == "feed.open"
        yield client


def listeners(server: RunningServer) -> int:
    """How many sockets the server holds, besides its own."""
    count = 0
    for descriptor in Path(f"/proc/{server.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it is closed meanwhile
            count += str(descriptor.readlink()).startswith("socket:")
    return count


# The scenario: who gets what, step by step.

SCENARIO = [
    ("A connects", {}),
    ("B connects", {}),
    ("A sends Hello", {"A": "Hello", "B": "Hello"}),
    ("B sends Hi", {"A": "Hi", "B": "Hi"}),
    ("A leaves", {}),
    ("B sends Bye", {"B": "Bye"}),
    ("B leaves", {}),
]


class OverWebSocket:
    """A client that publishes over the connection it listens on."""

    def __init__(self, stack: ExitStack, server: RunningServer) -> None:
        self.client = stack.enter_context(connected(server, "/ws/chat"))

    def send(self, text: str) -> None:
        self.client.send(text)

    def next_text(self) -> Any:
        return self.client.event()["data"]


class OverSSE:
    """A client that listens over SSE and publishes by POST."""

    def __init__(self, stack: ExitStack, server: RunningServer) -> None:
        self.server = server
        self.stream = stack.enter_context(subscribed(f"{server.url}/events/chat"))

    def send(self, text: str) -> None:
        self.server.publish("chat", text)

    def next_text(self) -> Any:
        return self.stream.frame().data


@pytest.mark.parametrize("kind_of_a", [OverWebSocket, OverSSE])
def test_the_scenario_of_two_clients(serve: Serve, kind_of_a: type[OverWebSocket] | type[OverSSE]) -> None:
    server = serve("--log", "memory:")
    server.http.close()  # the server's sockets are then just those of A and B
    server.http = httpx.Client(headers={"Connection": "close"}, verify=False)
    nobody = listeners(server)
    kinds = {"A": kind_of_a, "B": OverWebSocket}
    stacks = {name: ExitStack() for name in kinds}
    present: dict[str, OverWebSocket | OverSSE] = {}
    try:
        for step, expected in SCENARIO:
            name, verb, *words = step.split()
            if verb == "connects":
                present[name] = kinds[name](stacks[name], server)
            elif verb == "leaves":
                del present[name]
                stacks[name].close()
                eventually(lambda: listeners(server) == nobody + len(present))
            else:
                present[name].send(words[0])
            for listener, text in expected.items():
                assert present[listener].next_text() == text, step
        assert listeners(server) == nobody
        assert [event["data"] for event in server.history("chat")["events"]] == ["Hello", "Hi", "Bye"]
    finally:
        for stack in stacks.values():
            stack.close()


# The same events as SSE.


def test_the_first_message_is_feed_open_with_the_position(server: RunningServer) -> None:
    with connected(server, "/ws/open", opened=False) as client:
        opening = client.object()
        assert set(opening) == {"type", "id", "data"}
        assert opening["type"] == "feed.open"
        assert list(opening["data"]) == ["subscription"]


def test_an_event_is_one_object_with_five_fields(server: RunningServer) -> None:
    with connected(server, "/ws/object/*") as client:
        id = server.publish("object/1?type=t", '{"a": 1}', **{"Content-Type": "application/json"})
        event = client.object()
        assert event.pop("time").endswith("Z")
        assert event == {"id": id, "topic": "object/1", "type": "t", "data": {"a": 1}}


@pytest.mark.parametrize(
    ("query", "first", "replayed"),
    [("last_event_id={3}", 4, 6), ("lastEventId={8}", 9, 1), ("last=2", 8, 2), ("last_event_id=earliest", 0, 10)],
)
def test_it_resumes_like_sse(server: RunningServer, query: str, first: int, replayed: int) -> None:
    topic = f"ws-resume-{first}"
    ids = [server.publish(topic, str(number)) for number in range(10)]
    with connected(server, f"/ws/{topic}?{query.format(*ids)}") as client:
        assert [event["id"] for event in client.objects(replayed)] == ids[first:]
        assert client.object() == {"type": "feed.live", "data": {"replayed": replayed}}
        assert server.publish(topic) == client.object()["id"]


def test_a_last_event_id_header_resumes_too(server: RunningServer) -> None:
    ids = [server.publish("ws-header", str(number)) for number in range(3)]
    with connected(server, "/ws/ws-header", additional_headers={"Last-Event-ID": ids[0]}) as client:
        assert [event["id"] for event in client.objects(2)] == ids[1:]


def test_a_gap_is_announced_as_on_sse(server: RunningServer) -> None:
    with connected(server, "/ws/ws-gap?last_event_id=nonsense", opened=False) as client:
        opening, gap = client.objects(2)
        assert gap["type"] == "feed.gap"
        assert gap["data"] == {"requested": "nonsense", "resumed_from": opening["id"], "reason": "unknown"}
        assert gap["id"] == opening["id"]


def test_patterns_and_types_may_be_in_the_query(server: RunningServer) -> None:
    with connected(server, "/ws?topic=wq/*&topic=wz&type=t") as client:
        ids = [server.publish(path) for path in ("wq/1?type=t", "wq/1", "wz?type=t", "wx?type=t")]
        assert [event["id"] for event in client.objects(2)] == [ids[0], ids[2]]


def test_w2_awkward_texts_and_json_are_exact(server: RunningServer) -> None:
    raw = '{"n":123456789012345678901234567890,"a":1,"a":2}'
    with connected(server, "/ws/exact") as client:
        for text in AWKWARD:
            server.publish("exact", text)
        server.publish("exact", raw, **{"Content-Type": "application/json"})
        assert [client.object()["data"] for _ in AWKWARD] == AWKWARD
        assert f'"data":{raw},' in client.raw()


def test_a_quiet_websocket_learns_of_a_moved_position(serve: Serve) -> None:
    server = serve("--log", "memory:", heartbeat="300ms")
    with connected(server, "/ws/quiet") as client:
        id = server.publish("elsewhere")
        assert client.object() == {"type": "feed.position", "id": id, "data": {}}


# Publishing over it.


def answers(client: Client) -> Any:
    """The next `feed.ack` or `feed.error`."""
    while (message := client.object())["type"] not in {"feed.ack", "feed.error"}:
        pass
    return message


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Hello", {"data": "Hello", "type": "message"}),
        ("", {"data": "", "type": "message"}),
        ("[1, 2]", {"data": "[1, 2]", "type": "message"}),
        ('{"no": "data"}', {"data": '{"no": "data"}', "type": "message"}),
        ('{"data": broken', {"data": '{"data": broken', "type": "message"}),
        ('"text"', {"data": '"text"', "type": "message"}),
        ({"data": {"a": 1}}, {"data": {"a": 1}, "type": "message"}),
        ({"data": "text", "type": "t"}, {"data": "text", "type": "t"}),
        ('\ufeff{"data": {"a": 1}, "type": "t"}', {"data": {"a": 1}, "type": "t"}),
        ("\ufeffa BOM and text", {"data": "\ufeffa BOM and text", "type": "message"}),
        ({"data": None, "topic": "say/other"}, {"data": None, "type": "message", "topic": "say/other"}),
    ],
)
def test_what_is_sent_is_published_to_everybody_the_sender_too(
    server: RunningServer, message: Any, expected: dict[str, Any]
) -> None:
    with connected(server, "/ws/say/one?topic=say/*") as sender, connected(server, "/ws?topic=say/*") as other:
        # The path holds the topic to publish to.
        sender.send(message)
        got, theirs = sender.event(), other.event()
        assert got == theirs
        assert {name: got[name] for name in expected} == expected
        assert got["topic"] == expected.get("topic", "say/one")


def test_the_sender_gets_an_ack_with_its_ref_and_the_id(server: RunningServer) -> None:
    with connected(server, "/ws/ack") as client:
        for ref in (7, "r", {"a": [1]}, None):
            client.send({"data": "x", "ref": ref})
            both = client.objects(2)
            ack = next(message for message in both if message["type"] == "feed.ack")
            event = next(message for message in both if message["type"] == "message")
            assert ack == {"type": "feed.ack", "data": {"ref": ref, "id": event["id"]}}
        client.send("no ref")
        assert set(answers(client)["data"]) == {"id"}


def test_a_key_makes_it_safe_to_repeat(server: RunningServer) -> None:
    with connected(server, "/ws/key") as client:
        ids = []
        for _ in range(2):
            client.send({"data": "x", "key": "k-ws"})
            ids.append(answers(client)["data"]["id"])
        assert ids[0] == ids[1]
        client.send({"data": "y", "key": "k-ws"})
        assert answers(client)["data"]["status"] == 422


def test_a_key_is_the_same_over_http(server: RunningServer) -> None:
    """Whichever comes first, and however it is said there."""
    json_body = {"Content-Type": "application/json"}
    with connected(server, "/ws/key/both") as client:
        client.send({"data": "first", "key": "k-1"})
        id = answers(client)["data"]["id"]
        assert server.publish("key/both", "first", **{"Idempotency-Key": "k-1"}) == id
        envelope = '{"topic": "key/both", "data": "first"}'
        headers = {**json_body, "Idempotency-Key": "k-1"}
        assert server.http.post(f"{server.url}/events", content=envelope, headers=headers).json()["id"] == id
        id = server.publish("key/both", '{"n": 1}', **json_body, **{"Idempotency-Key": "k-2"})
        client.send('{"data": {"n": 1}, "key": "k-2"}')
        assert answers(client)["data"]["id"] == id
        batch = {**json_body, "Idempotency-Key": "k-1"}
        answer = server.http.post(f"{server.url}/events", content=f"[{envelope}]", headers=batch)
        assert answer.status_code == 422, "a batch has another answer"
    assert len(server.history("key/both")["events"]) == 2


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_an_answer_is_one_line_whatever_its_ref(server: RunningServer, line_end: str) -> None:
    ref = {"a": ["\n", 1]}
    spread = json.dumps(ref, indent=1).replace("\n", line_end)
    with connected(server, "/ws/spread", subprotocols=["feed.batch"]) as client:
        for message, type in (('"x"', "feed.ack"), ('"x", "topic": "*"', "feed.error")):
            client.send(f'{{"data": {message}, "ref": {spread}}}')
            text = client.raw()
            while type not in text:
                text = client.raw()
            [answer] = [line for line in text.split("\n") if type in line]
            assert "\r" not in text
            assert json.loads(answer)["data"]["ref"] == ref


@pytest.mark.parametrize(
    ("path", "message", "status"),
    [
        ("/ws/bad/*", "no single topic", 422),
        ("/ws?topic=bad", "no topic in the path", 422),
        ("/ws/bad", {"data": 1, "topic": "a b"}, 422),
        ("/ws/bad", {"data": 1, "topic": "a/*"}, 422),
        ("/ws/bad", {"data": 1, "topic": 5}, 422),
        ("/ws/bad", {"data": 1, "type": "feed.gap"}, 422),
        ("/ws/bad", {"data": 1, "unknown": 1}, 422),
        ("/ws/bad", {"data": 1, "key": "a b"}, 422),
        ("/ws/bad", '{"data": "\\ud800"}', 400),
        ("/ws/bad", '{"data": ' + "[" * 101 + "]" * 101 + "}", 400),
    ],
)
def test_what_cannot_be_published_is_answered_with_feed_error_and_the_socket_stays(
    server: RunningServer, path: str, message: Any, status: int
) -> None:
    before = server.history()["next"]
    with connected(server, path) as client:
        client.send(message)
        error = answers(client)
        assert error["type"] == "feed.error"
        assert error["data"]["status"] == status
        assert error["data"]["detail"]
        assert server.history()["next"] == before
        client.send({"data": "good", "topic": "after/bad", "ref": 1})
        assert answers(client)["data"]["ref"] == 1


def test_an_error_carries_the_ref(server: RunningServer) -> None:
    with connected(server, "/ws/bad") as client:
        client.send({"data": 1, "topic": "a b", "ref": "mine"})
        assert answers(client)["data"]["ref"] == "mine"


# How it is refused and closed.


@pytest.mark.parametrize("path", ["/ws", "/ws/", "/ws/a*b", "/ws/a//b", "/ws/a?type=open", "/ws/a?last=0", "/ws/a%20b"])
def test_a_bad_request_is_an_http_status_before_it_opens(server: RunningServer, path: str) -> None:
    with pytest.raises(InvalidStatus) as refused, connected(server, path):
        pass
    response = refused.value.response
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert json.loads(response.body or b"")["status"] == 422


def test_w4_binary_is_closed_with_1003(server: RunningServer) -> None:
    with connected(server, "/ws/binary") as client:
        client.send(b"\x00\x01")
        assert client.close_code() == 1003


def test_w3_invalid_utf_8_is_closed_with_1007_and_nothing_is_stored(server: RunningServer) -> None:
    before = server.history()["next"]
    with connected(server, "/ws/utf8") as client:
        client.connection.send(b"\xff\xfe", text=True)
        assert client.close_code() == 1007
    assert server.history()["next"] == before


@pytest.mark.parametrize(
    "message",
    ["x" * 262_145, json.dumps({"data": "x" * 262_145}), "x" * 2_000_000, json.dumps({"data": "x" * 2_000_000})],
)
def test_a_message_over_the_limit_is_closed_with_1009(server: RunningServer, message: str) -> None:
    before = server.history()["next"]
    with connected(server, "/ws/large") as client:
        client.send(message)
        assert client.close_code() == 1009
    assert server.history()["next"] == before


@pytest.mark.parametrize("message", ["x" * 262_144, json.dumps({"data": "\n" * 262_144})])
def test_a_message_at_the_limit_is_taken_with_its_escapes(server: RunningServer, message: str) -> None:
    with connected(server, "/ws/at-limit") as client:
        client.send(message)
        assert answers(client)["type"] == "feed.ack"


def test_a_stopping_server_says_so_and_closes_with_1001(serve: Serve) -> None:
    server = serve("--log", "memory:")
    with connected(server, "/ws/a") as client:
        server.signal(15)
        closing = client.object()
        assert closing["type"] == "feed.closing"
        assert closing["data"]["reason"] == "shutdown"
        assert closing["data"]["retry"] > 0
        assert client.close_code() == 1001
    assert server.wait() == 0


def test_while_draining_a_websocket_gets_503(serve: Serve) -> None:
    server = serve("--log", "memory:", drain=20)
    with socket.create_connection(("127.0.0.1", server.port)) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.sendall(b"GET /events/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert stuck.recv(15) == b"HTTP/1.1 200 OK"
        for _ in range(100):
            server.publish("a", "x" * 200_000)
        server.signal(15)
        eventually(lambda: server.http.get(f"{server.url}/readyz").status_code == 503)
        with pytest.raises(InvalidStatus) as refused, connected(server, "/ws/a"):
            pass
        assert refused.value.response.status_code == 503
        assert int(refused.value.response.headers["retry-after"]) >= 1


def test_no_compression_is_agreed_on(server: RunningServer) -> None:
    with connected(server, "/ws/plain") as client:
        assert client.connection.response is not None
        assert "sec-websocket-extensions" not in client.connection.response.headers


@pytest.mark.parametrize("depth", [500, 1_000, 1_020, 1_024, 1_100, 50_000])
@pytest.mark.parametrize("field", ["data", "ref"])
def test_w3_nesting_of_any_depth_is_answered_and_the_socket_stays(
    server: RunningServer, depth: int, field: str
) -> None:
    nested = "[" * depth + "]" * depth
    message = f'{{"data": {nested}}}' if field == "data" else f'{{"data": 1, "ref": {nested}}}'
    with connected(server, "/ws/nested") as client:
        client.send(message)
        answer = answers(client)
        if field == "data":
            assert answer["data"]["status"] == 400
        client.send({"data": "still", "ref": "here"})
        assert answers(client)["data"]["ref"] == "here"


def test_a_server_that_stops_while_a_socket_publishes_logs_no_error(serve: Serve, tmp_path: Path) -> None:
    server = serve("--log", f"sqlite:{tmp_path / 'feed.db'}")
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(server, "/ws/a")) for _ in range(5)]
        for client in clients:
            for _ in range(50):
                client.send("x")
        server.signal(15)
        for client in clients:
            assert client.close_code() == 1001
    assert server.wait() == 0
    assert "Traceback" not in server.output


def test_a_hundred_long_topics_fit_into_the_url(server: RunningServer) -> None:
    topics = [f"hundred/{number}/" + "x" * 240 for number in range(100)]
    with connected(server, "/ws?" + "&".join(f"topic={topic}" for topic in topics)) as client:
        id = server.publish(topics[-1])
        assert client.object()["id"] == id


@pytest.mark.parametrize(
    "extra",
    [
        b"Cookie: " + b"x" * 200_000,
        b"\r\n".join(b"X-%d: y" % number for number in range(300)),
        b"Content-Length: 5",
        b"Sec-WebSocket-Version: 12",
    ],
)
def test_a_handshake_that_cannot_be_read_is_answered_and_never_in_the_way(serve: Serve, extra: bytes) -> None:
    server = serve("--log", "memory:")
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS) as connection:
        connection.sendall(
            b"GET /ws/a HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + extra + b"\r\n\r\n"
        )
        answer = connection.recv(65536)
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 101 ")), answer
        assert server.stop() == 0
    assert "Traceback" not in server.output


def test_a_refused_websocket_is_nothing_for_the_log(serve: Serve) -> None:
    server = serve("--log", "memory:")
    with pytest.raises(InvalidStatus), connected(server, "/ws/a*b"):
        pass
    server.stop()
    assert server.remarks == ""


def test_a_number_longer_than_python_reads_is_never_published_as_text(server: RunningServer) -> None:
    with connected(server, "/ws/long-number") as client:
        for message in ('{"data":' + "9" * 5_000 + "}", '{"data":"\\ud800","n":' + "9" * 5_000 + "}"):
            client.send(message)
            assert answers(client)["data"]["status"] == 400


@pytest.mark.parametrize("path", ["/ws", "/ws/a", "/ws/a/*"])
def test_a_request_that_is_no_handshake_is_told_what_a_proxy_has_to_pass_on(server: RunningServer, path: str) -> None:
    answer = server.http.get(f"{server.url}{path}")
    assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
    assert "proxy" in answer.json()["detail"]
