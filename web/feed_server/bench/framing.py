"""How events are found in the bytes of a stream: quickly for most readers, and in full for the one that is audited.

A `Form` is one way a target sends events. Its `key` is a regular expression for the shortest piece that tells an event
from all others, an id if the target gives one, with the token that follows it. `scan` cuts received bytes into keys
and what is left over. `audit` reads a whole stream by the rules of its protocol and gives the same keys.

`scan` takes the key from wherever it stands, so a server that cut a frame of SSE in two HTTP chunks just there would
be said to have lost it. None that is measured here does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import orjson

from feed_server.bench.payload import TOKEN_BYTES, make_data

_ID = re.compile(rb"[0-9A-Za-z-]+")


@dataclass(frozen=True)
class Form:
    """How a target sends events to one kind of reader."""

    name: str
    is_websocket: bool
    gives_ids: bool
    """Whether the target answers a publish with the event's id, which its readers then see."""
    opening: bytes
    """What says that a reader is registered: everything after it is sent to it."""
    key: re.Pattern[bytes]
    subprotocol: str | None = None


_FEED_WS_KEY = re.compile(rb'\{"id":"([0-9A-Za-z-]+","topic":"[^"]+","type":"message","data":\{"n":"[0-9-]{28})"')

FEED_SSE = Form(
    "sse", False, True, b"event: feed.open\n", re.compile(rb'id: ([0-9A-Za-z-]+\ndata: \{"n":"[0-9-]{28})"')
)
FEED_WS = Form("ws", True, True, b'{"type":"feed.open"', _FEED_WS_KEY)
FEED_WS_BATCH = Form("ws-batch", True, True, b'{"type":"feed.open"', _FEED_WS_KEY, "feed.batch")
PLAIN_SSE = Form("sse", False, False, b"\r\n\r\n", re.compile(rb'\ndata: \{"n":"([0-9-]{28})"'))
PLAIN_WS = Form("ws", True, False, b"\r\n\r\n", re.compile(rb'\{"n":"([0-9-]{28})"'))


def token_of(key: bytes) -> bytes:
    """The token in a key."""
    return key[-TOKEN_BYTES:]


def id_of(key: bytes) -> bytes:
    """The id in a key of a form that gives ids."""
    found = _ID.match(key)
    return found[0] if found else b""


def plain(form: Form, key: bytes) -> bytes:
    """A key without what only tells how it was sent: the id, if there is one, and the token."""
    return b"%b %b" % (id_of(key), token_of(key)) if form.gives_ids else token_of(key)


class Piece:
    """Received bytes, and what was found in them. Many readers get the same bytes: they are scanned once."""

    __slots__ = ("count", "data", "fits_at", "keys", "live", "pings", "rest")

    def __init__(self, data: bytes, keys: list[bytes], rest: bytes, pings: list[bytes]) -> None:
        self.data = data
        self.keys = keys
        self.count = len(keys)
        self.rest = rest
        self.pings = pings
        self.live = b"feed.live" in data
        self.fits_at = -1
        """Where in the reference order the keys are known to stand."""


def scan(form: Form, data: bytes) -> Piece:
    """Cut `data`, which begins where a record does, into the keys of its whole records and what is left over."""
    if form.is_websocket:
        return _scan_frames(form, data)
    end = data.rfind(b"\n\n") + 2
    if end < 2:
        return Piece(data, [], data, [])
    rest = data[end:]
    # What ends an HTTP chunk is no part of the next record.
    return Piece(data, form.key.findall(data, 0, end), b"" if rest == b"\r\n" else rest, [])


def _scan_frames(form: Form, data: bytes) -> Piece:
    place, size = 0, len(data)
    pings: list[bytes] = []
    while size - place >= 2:
        length, head = _frame(data, place)
        end = place + head + length
        if head == 0 or end > size:
            break
        opcode = data[place] & 0x0F
        if opcode == 0x9:
            pings.append(data[place + head : end])
        place = end
    return Piece(data, form.key.findall(data, 0, place), data[place:], pings)


def _frame(data: bytes, place: int) -> tuple[int, int]:
    """The length of a frame's payload and of its header; a header of 0 is not there yet in full."""
    length = data[place + 1]
    if length < 126:
        return length, 2
    if length == 126:
        return int.from_bytes(data[place + 2 : place + 4], "big"), 4 if len(data) >= place + 4 else 0
    return int.from_bytes(data[place + 2 : place + 10], "big"), 10 if len(data) >= place + 10 else 0


def frame(opcode: int, payload: bytes) -> bytes:
    """A short frame as a client has to send it: masked, here with zeros."""
    return bytes((0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0)) + payload


class Garbled(ValueError):
    """A stream that breaks its protocol, or carries what was not published."""


def audit(form: Form, stream: bytes, size: int) -> list[bytes]:
    """The plain keys of a whole stream, from its first byte on, read by the rules and with all data compared.

    What is cut off at the end is left out. Raises `Garbled`.
    """
    head, _, body = stream.partition(b"\r\n\r\n")
    if form.is_websocket:
        texts = [line for message in _messages(body) for line in message.split(b"\n")]
        keys = [key for text in texts if (key := _read_object(form, text, size)) is not None]
    else:
        if b"\r\ntransfer-encoding: chunked" in head.lower():
            body = _joined_chunks(body)
        keys = [key for text in body.split(b"\n\n")[:-1] if (key := _read_sse(form, text, size)) is not None]
    return [plain(form, key) for key in keys]


def _joined_chunks(body: bytes) -> bytes:
    chunks = []
    place = 0
    while (end := body.find(b"\r\n", place)) >= 0:
        try:
            length = int(body[place:end], 16)
        except ValueError:
            raise Garbled(f"not a chunk size: {body[place:end]!r}") from None
        if length == 0 or len(body) < end + 2 + length + 2:
            break
        chunks.append(body[end + 2 : end + 2 + length])
        place = end + 2 + length + 2
        if body[place - 2 : place] != b"\r\n":
            raise Garbled(f"a chunk of {length} bytes does not end with CRLF")
    return b"".join(chunks)


def _messages(body: bytes) -> list[bytes]:
    messages = []
    place = 0
    while len(body) - place >= 2:
        length, head = _frame(body, place)
        end = place + head + length
        if head == 0 or end > len(body):
            break
        first = body[place]
        if first == 0x81:
            messages.append(body[place + head : end])
        elif first & 0x0F < 0x8:
            raise Garbled(f"a frame that begins with {first:#04x}")
        place = end
    return messages


def _read_sse(form: Form, text: bytes, size: int) -> bytes | None:
    fields: dict[bytes, bytes] = {}
    for line in text.split(b"\n"):
        name, colon, value = line.partition(b":")
        if not colon:
            raise Garbled(f"a line without a colon: {line[:80]!r}")
        if name in fields and name:
            raise Garbled(f"a field twice: {line[:80]!r}")
        fields[name] = value.removeprefix(b" ")
    if b"data" not in fields or fields.get(b"event", b"").startswith(b"feed."):
        return None
    token = _checked(fields[b"data"], size)
    return fields[b"id"] + b'\ndata: {"n":"' + token if form.gives_ids else token


def _read_object(form: Form, text: bytes, size: int) -> bytes | None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Garbled(f"not JSON: {text[:80]!r}: {error}") from None
    if not form.gives_ids:
        return _checked(text, size)
    if value["type"].startswith("feed."):
        return None
    found = form.key.match(text)
    if found is None or value["id"].encode() != id_of(found[1]):
        raise Garbled(f"not an event: {text[:80]!r}")
    token = token_of(found[1])
    if value["data"] != orjson.loads(make_data(token, size)):
        raise Garbled(f"the data of another event: {text[:80]!r}")
    return found[1]


def _checked(data: bytes, size: int) -> bytes:
    token = data[6 : 6 + TOKEN_BYTES]
    try:
        expected = make_data(token, size)
    except ValueError:
        expected = b""
    if data != expected:
        raise Garbled(f"not what was published: {data[:80]!r}")
    return token
