"""The client for plain code and threads: httpx and websockets, and nothing decided here."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from datetime import datetime
from functools import partial
from ssl import SSLContext
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import httpx
from websockets.sync.client import reconnect

from feed.client import sockets, tls
from feed.client.answers import is_stream
from feed.client.calls import Body, Call, Paging, page_of, publishing, publishing_one, words
from feed.client.errors import Again
from feed.client.frames import Frames, Received, of_frame, of_object
from feed.client.items import Item, Outgoing, Page
from feed.client.processes import InThisProcess, PerProcess
from feed.client.reading import MAX_EVENT, Reading, Transport
from feed.client.server import Server, Token, bearer
from feed.client.waits import ANSWER, CONNECT, PATIENCE, SILENCE

A = TypeVar("A")


class Client:
    """One feed, for the length of a `with` block. Threads may share it, and processes: each that is forked has
    connections of its own, and leaves alone those that were open at the fork.

    `token` says what this client may do. One that is called is asked anew for each request and each connect, so that a
    reader outlives its tokens; where it raises `OSError` or `httpx.TransportError` that is tried again like the rest.
    `patience` and `silence` are in seconds, `max_event` in bytes: a stream with a larger one is given up. A server that
    takes a large request drop by drop can outlast `patience`: no thread can be called back from there. `trust_env`:
    proxies and certificates as the environment has them; `ssl` is for certificates of one's own. `on_wait` is called
    with the reason before a call is tried again. Raises `Invalid` for a URL or token that is none, and here or where
    it is used for a variable of the environment that is no good.
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
        """Where the feed is, without a password."""
        return self._server.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of calls. A subscription has its own, and its own block."""
        self._is_closed = True
        http = self._http.existing()
        if http is not None:
            http.close()

    # Publishing.

    def publish(self, topic: str, data: object, *, type: str = "message", key: str | None = None) -> str:
        """Publish one event, and give its id. What `data` may be is said at `Outgoing`.

        It is repeated until the server answers or `patience` is over, and is there once all the same: `key`, or one
        of its own, makes sure of it. Raises `Refused`, `GaveUp`, and `Malformed` or `Invalid` for what cannot be sent.
        """
        return self._call(publishing_one(Outgoing(topic, data, type), key))

    def publish_batch(self, events: Sequence[Outgoing], *, key: str | None = None) -> list[str]:
        """Publish events, all of them or none, in order, and give their ids. Else as `publish`."""
        return self._call(publishing(events, key))

    # The past.

    def page(
        self,
        *patterns: str,
        types: Iterable[str] = (),
        after: str | None = None,
        before: str | None = None,
        since: str | datetime | None = None,
        last: int | None = None,
        limit: int | None = None,
    ) -> Page:
        """One page of history, of at most `limit` events: those after an id, those before one, those since a time (RFC
        3339), the newest `last`, or else the oldest that are retained. Raises `Refused` and `GaveUp`."""
        return self._call(page_of(patterns, types, after, before, since, last, limit))

    def history(
        self,
        *patterns: str,
        types: Iterable[str] = (),
        after: str | None = None,
        before: str | None = None,
        since: str | datetime | None = None,
        last: int | None = None,
        limit: int | None = None,
    ) -> Generator[Page, None, None]:
        """Page after page, up to the newest event, with `before` backwards to the oldest one; with `last` the one page
        there is. Else as `page`."""
        paging, types = Paging(after, before, since, last), tuple(types)
        while not paging.ended:
            page = self.page(
                *patterns,
                types=types,
                after=paging.after,
                before=paging.before,
                since=paging.since,
                last=paging.last,
                limit=limit,
            )
            paging.turn(page)
            if page.messages or page.gap:
                yield page

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
            "/events",
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
        *patterns: str,
        types: Iterable[str] = (),
        after: str | None = None,
        last: int | None = None,
        transport: Transport = "sse",
    ) -> Subscription:
        """What is published to topics that match, in order and without end: each event once, over every broken
        connection and restarted server.

        It begins after the id `after` (`earliest`: with the oldest retained event), or with the newest `last` ones,
        else with what is published from now on. A `Gap` says where events may be missing. Raises `Refused` when the
        server will never take it on, `TooLarge` for an event beyond `max_event`.
        """
        reading = Reading(patterns, types, after, last, transport, renewable=callable(self._token))
        return Subscription(reading, partial(_Stream, self._server, self._token, self._silence, self._max_event))


class Subscription(Iterator[Item]):
    """What `Client.subscribe` gives: items without end, for the length of a `with` block, or until nobody has it any
    more: to break out of a loop over it is enough. In a process that was forked it goes on where it was at the fork,
    over a connection of its own, and the other process keeps its own."""

    def __init__(self, reading: Reading, begin: Callable[[], _Stream]) -> None:
        """`begin` makes what opens the streams of `reading`."""
        self._reading = reading
        self._begin = begin
        self._is_closed = False
        self._running = PerProcess[_Running]()

    @property
    def position(self) -> str:
        """The id that stands for all that was handed out so far, and for what was passed over as nobody wanted it: a
        later `subscribe(after=position)` begins behind it. "" before the server has named one."""
        return self._reading.position

    def __next__(self) -> Item:
        running = self._running.get(self._run)
        if self._is_closed:  # looked at here, and not before, as another thread may just have closed it
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
        """End it, and close its connection. Another thread may do this: the loop of the one that reads then ends, at
        once but for a connection that is just being opened, which may take 10 s to fail."""
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
        """What the subscription gives, until the line is cut."""
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
        # What another thread has to cut is there before there is an answer, and a new one when TLS begins.
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
    """One connection: what it is named after happens only in a loop over it."""


class _Line:
    """The socket that one thread reads and another may cut; as a block, for as long as it is open."""

    def __init__(self) -> None:
        self._cut = threading.Event()
        self._changing = threading.Lock()
        self._socket: socket.socket | None = None

    def is_cut(self) -> bool:
        """Whether it is to end."""
        return self._cut.is_set()

    def hold(self, connection: socket.socket) -> None:
        """Take it for the socket from now on."""
        with self._changing:
            self._socket = connection
            if self.is_cut():
                self._shut()

    def cut(self) -> None:
        """End it: whoever reads the socket finds it closed, whoever waits waits no longer."""
        self._cut.set()
        with self._changing:
            self._shut()

    def wait(self, seconds: float) -> None:
        """Until then, or until it is cut."""
        self._cut.wait(seconds)

    def _shut(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                # Not the method of a TLS socket, which would take its state from under the thread that reads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def __enter__(self) -> None:
        """It is about to be opened."""

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
