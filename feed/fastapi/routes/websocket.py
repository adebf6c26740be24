"""The WebSocket: the same events as over SSE, and publishing by what the client sends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable

import msgspec
from starlette.types import Message, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from feed import FeedError, Invalid, TooLarge
from feed.batch import Wire
from feed.control import Reason
from feed.event import DEFAULT_TYPE, check_json_size, json_draft, text_draft
from feed.fastapi.auth.grants import Grants
from feed.fastapi.http.json_body import UNREADABLE, Kind
from feed.fastapi.http.problems import deny, problem_of, status_of
from feed.fastapi.logging.requests import stream_ended, streaming
from feed.fastapi.outlet import BATCH, ONE_A_MESSAGE, Wires, outlet_for
from feed.fastapi.routes.gate import Gate, principal
from feed.fastapi.routes.refusals import publish_refused, read_refused
from feed.fastapi.routes.subscribe import subscribe_request
from feed.feed import idempotency_key
from feed.json_rules import BOM
from feed.subscription import Subscription
from feed.wire import json_text

logger = logging.getLogger(__name__)

_CLOSE_CODES = {"shutdown": 1001, "token-expired": 1008, "kicked": 1008, "slow": 1013, "busy": 1013}


BATCH_PROTOCOL = "feed.batch"
"""The subprotocol whose messages hold several events, as JSON objects, one a line."""


class Published(msgspec.Struct, forbid_unknown_fields=True):
    """What a client may send to say more than the data. `ref` comes back with the answer, as it is."""

    data: msgspec.Raw
    topic: str | None = None
    type: str = DEFAULT_TYPE
    key: str | None = None
    ref: msgspec.Raw = msgspec.Raw(b"")


_message = Kind(Published, "a message")
_BOM = BOM.decode()
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def max_message(max_data: int) -> int:
    """Bytes of the largest message worth reading: the data may be escaped, six bytes a character, in its envelope."""
    return 6 * max_data + 4096


async def serve_websocket(gate: Gate, websocket: WebSocket, send: Send | None = None) -> None:
    """One connection, from before it opens to its end. `send` is the server's own, where nothing wraps it."""
    feed = gate.feed
    try:
        wanted = await subscribe_request(gate, websocket, "websocket")
        subscription = await wanted.attach(gate)
    except FeedError as error:
        read_refused(feed.figures, error)
        await deny(websocket, problem_of(error))
        return
    except Exception as error:  # the application around the feed answers
        read_refused(feed.figures, error)
        raise
    streaming(websocket.scope)
    try:
        batch = BATCH_PROTOCOL in websocket.scope["subprotocols"]
        await websocket.accept(BATCH_PROTOCOL if batch else None)
        stop = _stream(websocket, subscription, BATCH if batch else ONE_A_MESSAGE, send)
        try:
            code = await _receive(gate, wanted.grants, websocket, subscription, wanted.pattern)
        finally:
            stop()
        if code is not None and not subscription.closed:
            await websocket.close(code)
    except WebSocketDisconnect:
        pass
    finally:
        feed.detach(subscription)
        stream_ended(subscription)


def _stream(websocket: WebSocket, subscription: Subscription, wires: Wires, send: Send | None) -> Callable[[], object]:
    """Let the subscription flow: by the pump if that is possible, else by a task. Gives what stops it."""
    outlet = None if send is None else outlet_for(websocket.scope, send, subscription, _close)
    if outlet is None:
        return asyncio.create_task(_send(websocket, subscription, wires.messages)).cancel
    if not outlet.closed:
        subscription.flow_into(outlet, outlet.wire(wires))
    return outlet.close


def _close(reason: Reason | None) -> Message:
    return {"type": "websocket.close", "code": _CLOSE_CODES.get(reason or "", 1011)}


async def _send(websocket: WebSocket, subscription: Subscription, messages: Wire) -> None:
    """Everything the subscription hands out; then the close that its end calls for."""
    reason = None
    try:
        while items := await subscription.take():
            written, sent = messages(items)
            subscription.sent += sent
            for message in written:
                await websocket.send(message)
        reason = subscription.reason
    except WebSocketDisconnect:
        return
    except Exception:
        logger.exception("a WebSocket's stream broke")
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await websocket.send(_close(reason))


async def _receive(
    gate: Gate, grants: Grants, websocket: WebSocket, subscription: Subscription, topic: str | None
) -> int | None:
    """Publish what the client sends, one message after the other, until it leaves. Gives the code to close with, if
    it is for us to close."""
    while True:
        received = await websocket.receive()
        if received["type"] == "websocket.disconnect":
            return None
        text = received.get("text")
        if text is None:
            return 1003
        if len(text) > max_message(gate.feed.options.max_data):
            publish_refused(gate.feed.figures, TooLarge("data", gate.feed.options.max_data))
            return 1009
        try:
            answer = await _publish(gate, grants, websocket, text, topic)
        except TooLarge:
            return 1009
        try:
            await websocket.send({"type": "websocket.send", "text": answer})
        except RuntimeError:
            return None  # it was closed meanwhile: the stream has ended, or the client broke the rules
        subscription.sent += len(answer) if answer.isascii() else len(answer.encode())
        await asyncio.sleep(0)  # a flood of messages must not hold up everybody else


async def _publish(gate: Gate, grants: Grants, websocket: WebSocket, text: str, topic: str | None) -> str:
    """Publish one message. Gives the answer to its sender, good or bad; raises `TooLarge`, and what nobody foresaw."""
    ref = b""
    try:
        grants.check_not_expired()  # the stream is about to end, and may take a moment
        gate.count(websocket, grants)
        message = _parse(text)
        if message is None:
            draft, key = text_draft(_topic(None, topic), text), None
        else:
            ref = _on_one_line(message.ref)
            raw = check_json_size(bytes(message.data), gate.feed.options.max_data)
            draft = json_draft(_topic(message.topic, topic), raw, message.type)
            owner = principal(websocket, grants)
            key = None if message.key is None else idempotency_key(owner, message.key, [draft])
        grants.check_publish(draft.topic)
        gate.topics.check(draft)
        appended = await gate.feed.append([draft], key)
    except Exception as error:
        publish_refused(gate.feed.figures, error)
        if not isinstance(error, FeedError) or isinstance(error, TooLarge):
            raise
        ref = ref or _ref(text)  # whoever is refused wants to know for what
        return _answer("feed.error", ref, b'"status":%d,"detail":%b' % (status_of(error), json_text(str(error))))
    return _answer("feed.ack", ref, b'"id":"%b"' % appended.ids[0].encode())


def _parse(text: str) -> Published | None:
    """The message, if the text is a JSON object with the key `data`; else the text itself is the data."""
    text = text.removeprefix(_BOM)
    try:
        return _message.one.decode(text)
    except UNREADABLE as error:
        if _has_data(text):
            raise _message.fault(error, text.encode(), "message") from None
    return None


def _ref(text: str) -> bytes:
    try:
        return _on_one_line(_message.one.decode(text.removeprefix(_BOM)).ref)
    except UNREADABLE:
        return b""


def _on_one_line(ref: msgspec.Raw) -> bytes:
    """With `feed.batch` an object is a line. A line break can stand only between the tokens of JSON."""
    return bytes(ref).replace(b"\r", b" ").replace(b"\n", b" ")


def _has_data(text: str) -> bool:
    try:
        return "data" in _object.decode(text)
    except UNREADABLE:
        return _meant_as_message(text)  # the first thing that was wrong with it was not the last


def _meant_as_message(text: str) -> bool:
    """Whether what is not JSON to msgspec (a lone surrogate, deep nesting) is an object with the key `data` all the
    same. Numbers are left alone: Python refuses to read very long ones."""
    try:
        value = json.loads(text, parse_int=str, parse_float=str)
    except RecursionError:
        return text.lstrip().startswith("{")
    except ValueError:
        return False
    return isinstance(value, dict) and "data" in value


def _topic(own: str | None, of_url: str | None) -> str:
    if own is not None:
        return own
    if of_url is None or "*" in of_url:
        raise Invalid("topic", "is missing: this connection's URL does not name a single one")
    return of_url


def _answer(type: str, ref: bytes, data: bytes) -> str:
    reference = b'"ref":%b,' % ref if ref else b""
    return (b'{"type":"%b","data":{%b%b}}' % (type.encode(), reference, data)).decode()
