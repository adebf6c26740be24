"""The client for plain code and threads. It carries out, over httpx and websockets, what other modules decide."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from datetime import datetime
from functools import partial
from ssl import SSLContext
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import httpx
from websockets.sync.client import reconnect

from feed.arguments import check_text
from feed.client import sockets, tls
from feed.client.answers import is_stream
from feed.client.calls import (
    Body,
    Call,
    Parameters,
    newest_of,
    page_of,
    publishing,
    publishing_one,
    renewing,
    selected,
    topics_of,
    words,
)
from feed.client.errors import Again
from feed.client.frames import Frames, Received, of_frame, of_object
from feed.client.items import Item
from feed.client.processes import InThisProcess, PerProcess
from feed.client.reading import MAX_EVENT, Reading, Transport
from feed.client.server import Server, Token, bearer
from feed.client.waits import ANSWER, CONNECT, PATIENCE, SILENCE
from feed.event import DEFAULT_TYPE, Draft, Event, deletion, on_terms, value_draft
from feed.pages import (
    MAX_LAST,
    NEWEST_TIME,
    Page,
    PageRequest,
    Paging,
    TopicInfo,
    check_last,
    page_request,
)
from feed.terms import terms_of

A = TypeVar("A")


class Client:
    """A client of one feed, for the length of a `with` block. Threads may share it. Processes may share it too: each
    that is forked has connections of its own, and leaves alone those that were open at the fork.

    `token` says what this client may do. A function is called anew for each request and each connect, so that a
    subscription outlives its tokens. If it raises `OSError` or `httpx.TransportError`, the request is tried again.

    `patience` is how long a call is repeated, `silence` after which time without a byte a stream is dead, both in
    seconds. A server that takes in a large request a few bytes at a time can outlast `patience`: a thread that is
    sending cannot be interrupted. `max_event` is in bytes: a stream with a larger event is given up. `on_wait` is
    called with the reason before a call is tried again.

    With `trust_env`, proxies and certificates are those of the environment. `ssl` is a context with certificates of
    your own. Raises `Invalid` for a bad URL or token; and, here or at the first use, for a bad variable of the
    environment.
    """

    def __init__(
        self,
        url: str,
        token: Token = None,
        *,
        patience: float = PATIENCE,
        silence: float = SILENCE,
        max_event: int = MAX_EVENT,
        trust_env: bool = True,
        ssl: SSLContext | None = None,
        on_wait: Callable[[str], object] | None = None,
    ) -> None:
        self._server = Server(url, token, trust_env=trust_env, ssl=ssl)
        self._token = token
        self._patience = patience
        self._silence = silence
        self._max_event = max_event
        self._on_wait = on_wait
        self._is_closed = False
        self._http = PerProcess[httpx.Client]()

    def _new_http(self) -> httpx.Client:
        return httpx.Client(**self._server.http_options)

    @property
    def url(self) -> str:
        """The feed's URL, without a password."""
        return self._server.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of calls. A subscription has a connection and a block of its own."""
        self._is_closed = True
        http = self._http.existing()
        if http is not None:
            http.close()

    # Publishing.

    def publish(
        self,
        topic: str,
        data: object,
        *,
        type: str = DEFAULT_TYPE,
        key: str | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        ttl: float | None = None,
    ) -> str:
        """Publish one event, and return its id.

        `topic` says what the event is about: segments joined by `/`, such as `orders/1`, 256 bytes of UTF-8 at most.
        `type` is the event's kind, 128 bytes at most. `draft` says what `data` may be: a text, or what JSON has a form
        for. The server bounds its size.

        `key` is an idempotency key: 1 to 255 visible ASCII characters. For 24 hours the same event with the same key is
        committed once, and each call returns the id of the first. The client repeats the request until the server
        answers or `patience` is over, under this key or a random one. Only with a `key` of your own can you repeat the
        call too.

        With `if_match` the event is committed only if the newest one of its topic has this id, or, for `"*"`, if the
        topic has a value. With `if_none_match`, which has to be `"*"`, it is committed only if the topic has none, or
        was deleted. So of several writers who know the same event one wins. `PreconditionFailed` tells the others of
        the newest event: its id is `current`, None for who may not subscribe there.

        With `ttl` the topic is deleted after so many seconds, 1 to 604,800 (7 days), if this is still its newest event
        then. `renew` begins the time anew.

        Raises `Invalid` and `Malformed` for what cannot be sent, and `Refused` where the server says no. Raises
        `GaveUp` where the server does not answer. Then the event may have been published: the same call with the same
        `key` makes sure.
        """
        draft = on_terms(value_draft(topic, data, type), terms_of(if_match, if_none_match, ttl))
        return self._call(publishing_one(draft, key))

    def delete(self, topic: str, *, if_match: str | None = None, key: str | None = None) -> str:
        """Delete the value of a topic, and return the id of the tombstone, an event of type `feed.deleted`. Readers of
        state are told of it; later readers find nothing. A topic that is deleted already stays as it is: the id is that
        of its tombstone.

        `topic`, `if_match` and `key` are as for `publish`. Raises `NoEvents` for a topic without events, and what
        `publish` raises.
        """
        return self._call(publishing_one(deletion(topic, terms_of(if_match, None, delete=True)), key))

    def renew(self, topic: str, *, ttl: float) -> None:
        """Let the value of a `topic` run out `ttl` seconds from now, whether it had a lease before or not. Nothing is
        published: readers notice nothing. So presence costs one event when it begins, and one when it ends.

        Raises `Invalid` for a bad topic or time. Raises `NoEvents` for a topic that has no value, or no longer: publish
        it again. Raises `Refused` where the server says no, and `GaveUp` where it does not answer in time.
        """
        self._call(renewing(topic, ttl))

    def publish_batch(self, drafts: Iterable[Draft], *, key: str | None = None) -> list[str]:
        """Publish events, all of them or none, and return their ids, both in the order of `drafts`.

        `draft` makes each of the `drafts`, of which there may be 10,000. `key` is an idempotency key, as for `publish`,
        for the whole batch: the same events with the same key are committed once, and each call returns the first ids.

        Raises what `publish` raises, `Invalid` for an empty batch, and `TypeError` for what is not a draft.
        """
        return self._call(publishing(drafts, key))

    # The past.

    def history(
        self,
        *patterns: str | Iterable[str],
        types: Iterable[str] = (),
        after: str | None = None,
        before: str | None = None,
        since: str | datetime | None = None,
        last: int | None = None,
        limit: int | None = None,
        latest: bool = False,
    ) -> Generator[Page, None, None]:
        """Read page after page up to the newest event: `for page in client.history("orders/*")`.

        `patterns` and `types` choose the events, as for `subscribe`. Give at most one of `after`, `since`, `before` and
        `last`, which mean what they mean for `page`. Without any of them the pages begin with the oldest retained
        event. With `before` the pages go backwards to the oldest event. With `last` there is one page. `limit` is how
        many events a page holds at most: 1 to 1,000, 100 unless given. With `latest` the pages are of state (see
        `page`), and end when it is whole. Each page is read when it is asked for, and a page without events or a gap is
        left out.

        Raises `Invalid` at once for a bad pattern, type, time or number, and for two of `after`, `since`, `before` and
        `last` together. Iterating raises `Refused` and `GaveUp`.
        """
        request = page_request(after=after, before=before, since=since, last=last, limit=limit, latest=latest)
        return self._pages(selected(patterns, types, latest=latest), request)

    def _pages(self, parameters: Parameters, request: PageRequest) -> Generator[Page, None, None]:
        paging = Paging(request)
        while not paging.ended:
            page = self._call(page_of(parameters, paging.request))
            paging.turn(page)
            if page.events or page.gap:
                yield page

    def page(
        self,
        *patterns: str | Iterable[str],
        types: Iterable[str] = (),
        after: str | None = None,
        before: str | None = None,
        since: str | datetime | None = None,
        last: int | None = None,
        limit: int | None = None,
        latest: bool = False,
    ) -> Page:
        """Read one page of past events, the oldest first.

        `patterns` and `types` choose the events, as for `subscribe`. At most one of these says where the page begins or
        ends. `after` is an id: the page begins with the event that follows it. `since` is a time, an aware datetime or
        a text as in RFC 3339: the page begins with the first event that was committed then or later. `before` is an id:
        the page ends with the event in front of it. `last` is a number: the page holds the newest events, as many as
        that. Without any of them the page begins with the oldest retained event.

        `limit` is how many events the page holds at most. `limit` and `last` may be 1 to 1,000; without both, the limit
        is 100. A page can be shorter although there is more: it ends at 1 MiB. `Page.next` is the id to go on from.
        `Page.gap` says that events may be missing, as after an id that is no longer retained.

        With `latest` it is a page of state: of each topic the newest event only. Without `after` it begins anew; with
        `after`, the `next` of the page before, it goes on. `Page.live` tells that the state is whole. A gap means here:
        forget all of the pages before.

        Raises `Invalid` for a bad pattern, type, time or number, and for two of `after`, `since`, `before` and `last`
        together. Raises `Refused` where the server says no, and `GaveUp` where it does not answer in time.
        """
        request = page_request(after=after, before=before, since=since, last=last, limit=limit, latest=latest)
        return self._call(page_of(selected(patterns, types, latest=latest), request))

    def latest(self, topic: str) -> Event | None:
        """Return the newest event of a `topic`, None if it has none, or was deleted.

        Raises `Invalid` for a bad topic, `Refused` where the server says no, and `GaveUp` where it does not answer in
        time.
        """
        return self._call(newest_of(topic))

    def topics(
        self, *patterns: str | Iterable[str], after: str = "", limit: int = MAX_LAST
    ) -> Generator[TopicInfo, None, None]:
        """Iterate over the topics that have retained events, by name: `for topic in client.topics("orders/*")`.

        `patterns` are as for `subscribe`. `after` is the name of a topic: those behind it follow. `limit` is how many
        are asked for at once, 1 to 1,000.

        Raises `Invalid` at once for a bad pattern or limit. Iterating raises `Refused` and `GaveUp`.
        """
        parameters = selected(patterns, ())
        check_last(limit, "limit")
        return self._topics(parameters, check_text(after, "after"), limit)

    def _topics(self, parameters: Parameters, after: str, limit: int) -> Generator[TopicInfo, None, None]:
        following: str | None = after
        while following is not None:
            page = self._call(topics_of(parameters, following, limit))
            yield from page.topics
            following = page.next

    def now(self, *patterns: str | Iterable[str]) -> str:
        """Return the id for `after` from which on everything is new: what is committed later comes after it.

        Load your data after this call, and subscribe with `after` this id: then nothing is missed in between. The token
        has to allow `patterns`, which are `**` if none are given.

        Raises `Invalid` for a bad pattern, `Refused` where the server says no, and `GaveUp` where it does not answer in
        time.
        """
        parameters = selected(patterns or ("**",), ())
        # No event is from then, so that only the position comes.
        return (self._call(page_of(parameters, PageRequest(since=NEWEST_TIME, limit=1)))).next

    def _call(self, call: Call[A]) -> A:
        if self._is_closed:
            raise RuntimeError("this client is closed")
        call.begin(self.url, self._patience, renewable=callable(self._token))
        while True:
            try:
                return self._try(call)
            except httpx.RequestError as error:
                again = Again(words(error, "no answer"))
            except Again as error:
                again = error
            wait = call.wait(again)
            if self._on_wait is not None:
                self._on_wait(again.reason)
            time.sleep(wait)

    def _try(self, call: Call[A]) -> A:
        headers = {**call.headers, **_bearer(self._token)}
        with self._http.get(self._new_http).stream(
            call.method,
            call.path,
            params=call.parameters,
            headers=headers,
            content=call.content,
            timeout=call.timeout,
        ) as response:
            body = call.body(response)
            for chunk in response.iter_raw():
                if not body.takes(chunk):
                    break
            return call.answered(response, body)

    # Subscribing.

    def subscribe(
        self,
        *patterns: str | Iterable[str],
        types: Iterable[str] = (),
        after: str | None = None,
        last: int | None = None,
        latest: bool = False,
        every: float | None = None,
        transport: Transport = "sse",
    ) -> Subscription:
        """Subscribe for the length of a block: `with client.subscribe("orders/*") as items`.

        `patterns` are given one by one, or as a list of at most 100. A pattern is a topic in which a segment may be `*`
        (any one), and the last one `**` (one or more). With `types` only events of one of these types are wanted.

        `after` is an id: the stream begins with the event that follows it, with `EARLIEST` with the oldest retained
        event. Otherwise the stream begins with the newest `last` events (1 to 1,000), or, without both, with the next
        event that is published. `transport` is `"sse"` (Server-Sent Events) or `"websocket"`: both carry the same.

        Iterating yields each `Event` once and in order, over every broken connection and restarted server, a `Gap`
        where events may be missing, and `Reconnecting` and `Notice`. It does not end by itself.

        With `latest` the stream has the state: first the newest event of each topic, then each event that follows, less
        those that a later one of their topic has superseded before they were read. A topic that is deleted has an event
        of type `feed.deleted`. `Notice` of type `feed.live` says that the state is whole. A `Gap` then means: forget
        all that you hold, as the whole state follows. A stream that breaks may bring the newest event of a topic once
        more. `every` is a time in seconds, 0.1 to 60, in which at most one batch comes, with each topic at most once.
        `types` and `last` cannot be given.

        Raises `Invalid` at once for a bad pattern, type, `last`, `every` or `transport`. Iterating raises `Refused`
        when the server says no, and `TooLarge` for an event beyond `max_event`.
        """
        reading = Reading(
            patterns, types, after, last, transport, latest=latest, every=every, renewable=callable(self._token)
        )
        return Subscription(reading, partial(_Stream, self._server, self._token, self._silence, self._max_event))


class Subscription(Iterator[Item]):
    """The items of one subscription, without end, for the length of a `with` block. Without a block it ends when
    nothing refers to it any more: breaking out of a loop over it is enough.

    In a process that was forked the subscription goes on from its position at the fork, over a connection of its own.
    The other process keeps its connection.
    """

    def __init__(self, reading: Reading, begin: Callable[[], _Stream]) -> None:
        """`begin` makes the object that opens the streams of `reading`."""
        self._reading = reading
        self._begin = begin
        self._is_closed = False
        self._running = PerProcess[_Running]()

    @property
    def position(self) -> str:
        """The id after which to resume, with `subscribe(after=position)`: it lies behind all items so far, and behind
        the events that did not match. "" before the server has named one, which `after` takes as None."""
        return self._reading.position

    def __next__(self) -> Item:
        running = self._running.get(self._run)
        if self._is_closed:  # checked here, as another thread may have closed it just now
            running.stream.line.cut()
        return next(running.items)

    def _run(self) -> _Running:
        # The generator knows nothing of this object: no cycle keeps it alive.
        stream = self._begin()
        return _Running(stream, stream.items(self._reading))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the subscription, and close its connection. Another thread may call this: the loop of the reader then
        ends at once. If the connection is just being opened, that may take 10 s."""
        self._is_closed = True
        running = self._running.existing()
        if running is not None:
            running.stream.line.cut()
            with suppress(ValueError):  # another thread is in it, and about to leave
                running.items.close()


class _Running(NamedTuple):
    """A subscription in one process."""

    stream: _Stream
    items: Generator[Item, None, None]


class _Stream:
    """The streams of one subscription, one after the other."""

    def __init__(self, server: Server, token: Token, silence: float, max_event: int) -> None:
        self._server = server
        self._token = token
        self._silence = silence
        self._max_event = max_event
        self.line = _Line()

    def items(self, reading: Reading) -> Generator[Item, None, None]:
        """Yield the items of the subscription, until the line is cut."""
        open_stream = self._events if reading.transport == "sse" else self._messages
        while not self.line.is_cut():
            again = Again("the stream ended")
            try:
                with closing(open_stream(reading)) as stream:
                    for received in stream:
                        if self.line.is_cut():
                            return
                        if (item := reading.take(received)) is not None:
                            yield item
            except Again as error:
                again = error
            if self.line.is_cut():
                return
            reconnecting = reading.ended(again)
            yield reconnecting
            self.line.wait(reconnecting.wait)

    def _events(self, reading: Reading) -> Generator[Received, None, None]:
        headers = reading.headers(_bearer(self._token))
        timeout = httpx.Timeout(ANSWER, connect=CONNECT, read=self._silence)
        frames = Frames(self._max_event)
        try:
            with InThisProcess() as stack:
                stack.enter_context(self.line)
                http = stack.enter_context(httpx.Client(**self._server.http_options))
                opening = http.stream(
                    "GET",
                    "/events",
                    params=reading.parameters,
                    headers=headers,
                    timeout=timeout,
                    extensions={"trace": self._watch},
                )
                response = stack.enter_context(opening)
                if not is_stream(response.status_code, response.headers):
                    raise self._refusal(reading, response)
                reading.opened(response.headers)
                for chunk in response.iter_raw():
                    for frame in frames.feed(chunk):
                        yield of_frame(frame)
        except httpx.RequestError as error:
            raise Again(words(error, "it fell silent")) from error

    def _watch(self, happened: str, facts: dict[str, Any]) -> None:
        # The socket that another thread has to cut exists before there is an answer, and another one when TLS begins.
        if happened.endswith(("connect_tcp.complete", "start_tls.complete")):
            self.line.hold(facts["return_value"].get_extra_info("socket"))

    def _refusal(self, reading: Reading, response: httpx.Response) -> Exception:
        body = Body.of_refusal(time.monotonic() + ANSWER)
        for chunk in response.iter_raw():
            if not body.takes(chunk):
                break
        return reading.refused(response.status_code, response.reason_phrase, response.headers, body)

    def _messages(self, reading: Reading) -> Generator[Received, None, None]:
        headers = {**reading.headers(_bearer(self._token)), **self._server.password}
        url = self._server.socket_url(reading.parameters)
        options = sockets.options(self._server, url, self._silence, self._max_event)
        if "ssl" in options:
            options["ssl"] = tls.Context(options["ssl"])  # a thread of websockets' own reads, while this one writes
        try:
            with InThisProcess() as stack:
                stack.enter_context(self.line)
                connection = stack.enter_context(_Connect(str(url), additional_headers=headers, **options))
                self.line.hold(connection.socket)
                while True:
                    yield of_object(connection.recv())
        except sockets.FAULTS as error:
            raise sockets.meaning(reading, error, self._max_event) from error


class _Connect(sockets.Unredirected, reconnect):
    """A single connection: `reconnect` reconnects only in a loop over it."""


class _Line:
    """The socket that one thread reads and another thread may cut. The socket is open for the length of a block."""

    def __init__(self) -> None:
        self._cut = threading.Event()
        self._changing = threading.Lock()
        self._socket: socket.socket | None = None

    def is_cut(self) -> bool:
        """Return whether the stream has to end."""
        return self._cut.is_set()

    def hold(self, connection: socket.socket) -> None:
        """Use this socket from now on."""
        with self._changing:
            self._socket = connection
            if self.is_cut():
                self._shut()

    def cut(self) -> None:
        """End the stream: a thread that reads the socket finds it closed, and a thread that waits returns."""
        self._cut.set()
        with self._changing:
            self._shut()

    def wait(self, seconds: float) -> None:
        """Wait for this time, or until the line is cut."""
        self._cut.wait(seconds)

    def _shut(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                # Not the method of a TLS socket, which would destroy the state that the reading thread uses.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def __enter__(self) -> None:
        """Begin the block in which the socket is opened and read."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changing:
            self._socket = None


def _bearer(token: Token) -> dict[str, str]:
    if not callable(token):
        return bearer(token)
    try:
        return bearer(token())
    except (OSError, httpx.TransportError) as error:
        raise Again(f"no token: {error}") from error
