"""The WebSocket: it sends the same events as SSE, and publishes what the client sends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import msgspec
from starlette.types import Message, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from feed import FeedError, Invalid, PreconditionFailed, TooLarge
from feed.batch import Encoder
from feed.control import Reason
from feed.event import DEFAULT_TYPE, Draft, text_draft
from feed.fastapi.auth.grants import Grants
from feed.fastapi.http.json_body import UNREADABLE, Kind
from feed.fastapi.http.problems import deny, problem_of, status_of
from feed.fastapi.http.request import address
from feed.fastapi.logging.requests import log_stream, record_stream
from feed.fastapi.outlet import BATCH, ONE_A_MESSAGE, Encoders, FramedOutlet, SteppedOutlet, outlet_for, text_frame
from feed.fastapi.routes.gate import Gate, principal
from feed.fastapi.routes.publish import draft_of
from feed.fastapi.routes.refusals import publish_refused, read_refused
from feed.fastapi.routes.subscribe import subscribe_request
from feed.fastapi.routes.terms import told_to
from feed.fastapi.stepping import run_stepped
from feed.json_rules import BOM
from feed.log.contract import Appended
from feed.log.idempotency import IdempotencyKey, idempotency_key
from feed.subscription import Subscription
from feed.terms import check_ttl
from feed.wire import json_text

logger = logging.getLogger(__name__)

_CLOSE_CODES = {"shutdown": 1001, "token-expired": 1008, "kicked": 1008, "slow": 1013, "busy": 1013}


BATCH_PROTOCOL = "feed.batch"
"""The subprotocol whose messages hold several events: JSON objects, one a line."""


class Published(msgspec.Struct, forbid_unknown_fields=True):
    """A message with which a client says more than the data. `ref` is returned unchanged with the answer. With `delete`
    there is no data, and the topic is deleted. With `renew` there is none, and its value runs out in `ttl` from now.
    The conditions and `ttl` are those of `Terms`."""

    data: msgspec.Raw = msgspec.Raw(b"")
    topic: str | None = None
    type: str = DEFAULT_TYPE
    key: str | None = None
    ref: msgspec.Raw = msgspec.Raw(b"")
    delete: bool = False
    if_match: str | None = None
    if_none_match: str | None = None
    ttl: float | str | None = None
    renew: bool = False


_message = Kind(Published, "a message")
_BOM = BOM.decode()
_OBJECT = ("{", " ", "\t", "\r", "\n")  # how a text begins that may be an object
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def max_message(max_data: int) -> int:
    """Return the size limit of a message, in bytes: its data may be escaped, up to six bytes for one."""
    return 6 * max_data + 4096


async def serve_websocket(gate: Gate, websocket: WebSocket, send: Send | None = None) -> None:
    """Serve one connection, from its handshake to its end. `send` is the server's own, if nothing wraps it."""
    feed = gate.feed
    try:
        wanted = await subscribe_request(gate, websocket, "websocket")
        subscription = await wanted.attach(gate)
    except FeedError as error:
        read_refused(feed.counters, error)
        await deny(websocket, problem_of(error))
        return
    except Exception as error:  # the application around the feed answers
        read_refused(feed.counters, error)
        raise
    record_stream(websocket.scope)
    try:
        batch = BATCH_PROTOCOL in websocket.scope["subprotocols"]
        await websocket.accept(BATCH_PROTOCOL if batch else None)
        outlet = None if send is None else outlet_for(websocket.scope, send, subscription, _close)
        stop = _stream(websocket, subscription, BATCH if batch else ONE_A_MESSAGE, outlet)
        publishing = _Publishing(gate, wanted.grants, address(websocket), subscription, wanted.pattern)
        if isinstance(outlet, FramedOutlet):
            publishing.answer_into(outlet)
        try:
            code = await _receive(publishing, websocket)
        finally:
            stop()
        if code is not None and not subscription.closed:
            await websocket.close(code)
    except WebSocketDisconnect:
        pass
    finally:
        feed.detach(subscription)
        log_stream(subscription)


def _stream(
    websocket: WebSocket, subscription: Subscription, encoders: Encoders, outlet: FramedOutlet | SteppedOutlet | None
) -> Callable[[], object]:
    """Start writing the subscription, with the pump if possible, else with a task. Return what stops it."""
    if outlet is None:
        return asyncio.create_task(_send(websocket, subscription, encoders.messages)).cancel
    if not outlet.closed:
        if subscription.is_of_state and isinstance(outlet, FramedOutlet):
            outlet.hold_little()
        subscription.flow_into(outlet, outlet.encoder_of(encoders))
    return outlet.close


def _close(reason: Reason | None) -> Message:
    return {"type": "websocket.close", "code": _CLOSE_CODES.get(reason or "", 1011)}


async def _send(websocket: WebSocket, subscription: Subscription, messages: Encoder) -> None:
    """Send what the subscription hands out, then close with the code for its end."""
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


class _Publishing:
    """Publishes the messages of one WebSocket, one after the other."""

    def __init__(self, gate: Gate, grants: Grants, address: str, subscription: Subscription, topic: str | None) -> None:
        self.gate = gate
        self.subscription = subscription
        self.busy = False
        self._idle: asyncio.Future[None] | None = None  # done when a message that was heard is answered
        self._grants = grants
        self._address = address
        self._topic = topic
        self._outlet: FramedOutlet | None = None

    def read(self, text: str) -> _Message | _Renewal:
        """Return what a message asks to publish, or to renew. Raises `FeedError`: who may not publish there cannot."""
        grants, gate = self._grants, self.gate
        grants.check_not_expired()  # the stream ends when they expire, but perhaps a moment later
        message = _parse(text)
        if message is None:
            draft, key, ref = text_draft(_topic(None, self._topic), text), None, b""
        else:
            ref = _on_one_line(message.ref)
            if message.renew:
                return self._renewal(message, ref)
            draft = draft_of(_topic(message.topic, self._topic), message, gate.feed.options.max_data, _message)
            owner = principal(grants, self._address)
            key = None if message.key is None else idempotency_key(owner, message.key, [draft])
        grants.check_publish(draft.topic)
        gate.topics.check(draft)
        return _Message(draft, key, ref)

    def _renewal(self, message: Published, ref: bytes) -> _Renewal:
        topic = _topic(message.topic, self._topic)
        self._grants.check_publish(topic)
        given = message.data or message.delete or message.if_match or message.if_none_match or message.key
        if given or message.type != DEFAULT_TYPE or message.ttl is None:
            raise Invalid("renew", "takes topic, ttl and ref, and nothing else")
        return _Renewal(topic, check_ttl(message.ttl) / 1000, ref)

    async def idle(self) -> None:
        """Wait until the message before was answered."""
        while self.busy:
            self._idle = asyncio.get_running_loop().create_future()
            try:
                await self._idle
            finally:
                self._idle = None

    async def publish(self, text: str) -> str:
        """Publish one message, and return the answer for its sender. Raises `TooLarge`, and what is not a
        `FeedError`."""
        ref = b""
        try:
            self.gate.count(self._address, self._grants)
            message = self.read(text)
            ref = message.ref
            if isinstance(message, _Renewal):
                await self.gate.feed.renew(message.topic, ttl=message.ttl)
                return _answer("feed.ack", ref, b'"topic":%b' % json_text(message.topic))
            appended = await self.gate.feed.append([message.draft], message.key)
        except Exception as error:  # noqa: BLE001  it is answered, or raised again
            return self._refused(error, ref or _ref(text))
        return _acknowledged(ref, appended)

    def _refused(self, error: BaseException, ref: bytes) -> str:
        """Return the answer that says why a message was not published. Raises `TooLarge`, and what is not a
        `FeedError`."""
        publish_refused(self.gate.feed.counters, error)
        if not isinstance(error, FeedError) or isinstance(error, TooLarge):
            raise error
        data = b'"status":%d,"detail":%b' % (status_of(error), json_text(str(error)))
        if isinstance(error, PreconditionFailed) and (current := told_to(self._grants, error).current) is not None:
            data += b',"current":%b' % json_text(current)
        return _answer("feed.error", ref, data)

    # As a listener of our own server: what would be refused goes the way of ASGI, which then says why.

    def answer_into(self, outlet: FramedOutlet) -> None:
        """Listen to the connection of this outlet, and write the answers there."""
        self._outlet = outlet
        outlet.listen(self)

    def is_busy(self) -> bool:
        """See `Listener`. Also while a message that went the way of ASGI is about to be published."""
        return self.busy or self._idle is not None

    def heard(self, text: str) -> bool:
        """See `Listener`."""
        outlet, options = self._outlet, self.gate.feed.options
        if (
            outlet is None
            or outlet.is_full
            or outlet.is_left
            or self.subscription.closed
            or len(text) > max_message(options.max_data)
        ):
            return False
        try:
            message = self.read(text)
            if isinstance(message, _Renewal) or message.draft.data_bytes > options.max_data:
                return False
            self.gate.count(self._address, self._grants)  # the last check: ASGI would count once more
        except Exception:  # noqa: BLE001  whatever it is, ASGI meets it too, and answers or logs it
            return False
        self.busy = True
        run_stepped(self.gate.feed.append((message.draft,), message.key), partial(self._heard, message.ref))
        return True

    def _heard(self, ref: bytes, outcome: Appended | BaseException) -> None:
        self.busy, outlet = False, self._outlet
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        if outlet is None:
            return
        # Nothing may follow a Close (RFC 6455, 5.5.1).
        if not (outlet.closed or outlet.is_left or self.subscription.closed):
            self._answer(ref, outcome, outlet)
        outlet.go_on()

    def _answer(self, ref: bytes, outcome: Appended | BaseException, outlet: FramedOutlet) -> None:
        if isinstance(outcome, BaseException):
            try:
                answer = self._refused(outcome, ref)
            except BaseException as error:
                logger.error("a WebSocket's message could not be published", exc_info=error)
                outlet.finish(None)
                return
        else:
            answer = _acknowledged(ref, outcome)
        payload = answer.encode()
        self.subscription.sent += len(payload)
        outlet.write(text_frame(payload))


class _Message(NamedTuple):
    draft: Draft
    key: IdempotencyKey | None
    ref: bytes


class _Renewal(NamedTuple):
    topic: str
    ttl: float
    ref: bytes


async def _receive(publishing: _Publishing, websocket: WebSocket) -> int | None:
    """Publish what the client sends, one message after the other, until it leaves. Return the code to close with, None
    if the connection is closed already."""
    gate, subscription = publishing.gate, publishing.subscription
    while True:
        received = await websocket.receive()
        if received["type"] == "websocket.disconnect":
            return None
        text = received.get("text")
        if text is None:
            return 1003
        if len(text) > max_message(gate.feed.options.max_data):
            publish_refused(gate.feed.counters, TooLarge("data", gate.feed.options.max_data))
            return 1009
        await publishing.idle()
        publishing.busy = True
        try:
            answer = await publishing.publish(text)
            if not await _sent(websocket, answer):
                return None
        except TooLarge:
            return 1009
        finally:
            publishing.busy = False
        subscription.sent += len(answer) if answer.isascii() else len(answer.encode())
        await asyncio.sleep(0)  # a flood of messages must not hold up other connections


async def _sent(websocket: WebSocket, answer: str) -> bool:
    """Send an answer. Return whether that was possible."""
    try:
        await websocket.send({"type": "websocket.send", "text": answer})
    except RuntimeError:
        return False  # closed meanwhile: the stream has ended, or the client violated the protocol
    return True


def _parse(text: str) -> Published | None:
    """Return the message if the text is a JSON object with the key `data`, or a command, all of whose keys are known.
    Else None: the text itself is the data."""
    text = text.removeprefix(_BOM)
    if not text.startswith(_OBJECT):
        return None
    try:
        message = _message.one.decode(text)
    except UNREADABLE as error:
        if _has_data(text):
            raise _message.fault(error, text.encode(), "message") from None
        return None
    return message if message.data or message.delete or message.renew else None


def _ref(text: str) -> bytes:
    try:
        return _on_one_line(_message.one.decode(text.removeprefix(_BOM)).ref)
    except UNREADABLE:
        return b""


def _on_one_line(ref: msgspec.Raw) -> bytes:
    """Put JSON on one line, as `feed.batch` needs it. In JSON, line breaks can only stand between tokens."""
    return bytes(ref).replace(b"\r", b" ").replace(b"\n", b" ")


def _has_data(text: str) -> bool:
    try:
        return "data" in _object.decode(text)
    except UNREADABLE:
        return _meant_as_message(text)  # the parser stopped at the first error, so `data` may come later


def _meant_as_message(text: str) -> bool:
    """Return whether text that msgspec refuses (a lone surrogate, deep nesting) is still an object with the key `data`.
    Numbers are not converted: Python refuses very long ones."""
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
        raise Invalid(
            "topic", "is missing: name it in the message, as this connection's URL does not name a single topic"
        )
    return of_url


def _acknowledged(ref: bytes, appended: Appended) -> str:
    return _answer("feed.ack", ref, b'"id":"%b-%d"' % (appended.epoch.encode(), appended.first))


def _answer(type: str, ref: bytes, data: bytes) -> str:
    reference = b'"ref":%b,' % ref if ref else b""
    return (b'{"type":"%b","data":{%b%b}}' % (type.encode(), reference, data)).decode()
