"""The feed's own server, in its own process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import jwt

from feed.client import Client
from feed.event import DEFAULT_TYPE, Event
from feed.testing.process import FeedProcess
from feed.testing.server import Server, delete_log

_PATIENCE = 30.0  # seconds


class FeedServer(Server):
    """`feed serve` on its own log, for as long as the block lasts.

        with FeedServer() as server:
            id = server.publish("orders/1", {"total": 3}, type="created")
            server.restart()

    Settings are those of docs/reference/settings.md without `FEED_`, in lower case:
    `FeedServer(heartbeat="1s", jwt_secret="…")`. Unless `log` is given the log is SQLite, in a directory that is
    deleted with the server.
    """

    def __init__(self, log: str | None = None, **settings: object) -> None:
        super().__init__()
        self._secret = settings.get("jwt_secret")
        self._given = log
        # A drain is for thousands of readers; those of a test leave at once, and are told to come back soon.
        self._settings = {"drain": "100ms", "retry": "100ms", **settings}
        self._stack = ExitStack()

    def _open(self) -> None:
        with ExitStack() as stack:
            self.log = self._given or f"sqlite:{self._in_folder(stack) / 'feed.db'}"
            self._process = FeedProcess(settings={**self._settings, "log": self.log})
            stack.callback(self._process.close)
            self._http = stack.enter_context(httpx.Client(timeout=30))
            self._stack = stack.pop_all()

    def _in_folder(self, stack: ExitStack) -> Path:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="feed-")))

    @property
    def output(self) -> str:
        """What the server has printed since it was started."""
        return self._process.output

    def token(
        self, *, publish: Sequence[str] = (), subscribe: Sequence[str] = (), admin: bool = False, seconds: float = 600
    ) -> str:
        """Return a token with these rights that expires in `seconds`; a stream opened with it then ends, too. Needs
        `jwt_secret`."""
        if self._secret is None:
            raise RuntimeError("tokens need a key: use FeedServer(jwt_secret='…')")
        grants = {"publish": list(publish), "subscribe": list(subscribe), "admin": admin}
        return jwt.encode({"exp": time.time() + seconds, "feed": grants}, str(self._secret), algorithm="HS256")

    def publish(self, topic: str, data: object, *, type: str = DEFAULT_TYPE) -> str:
        """Publish one event, past whatever is done to the network, and return its id. The data is as for
        `Client.publish`."""
        with self._client() as client:
            return client.publish(topic, data, type=type)

    def history(self, *patterns: str | Iterable[str]) -> list[Event]:
        """Return what has been published to these topics, or to all topics, the oldest first: 1,000 events at most."""
        with self._client() as client:
            return client.page(*(patterns or ("**",)), limit=1000).events

    def kick(self) -> int:
        """See `Server`."""
        ids = list(self._subscriptions())
        for id in ids:
            self._ask("DELETE", f"/subscriptions/{id}", ended=404)
        return len(ids)

    def _subscriptions(self) -> Iterator[str]:
        after: str | None = ""
        while after is not None:
            page = self._ask("GET", "/subscriptions", params={"after": after, "limit": 1000}).json()
            yield from (each["id"] for each in page["subscriptions"])
            after = page["next"]

    def _client(self) -> Client:
        return Client(self._process.url, self._everything(), patience=_PATIENCE, trust_env=False)

    def _everything(self) -> str | None:
        if self._secret is None:
            return None
        return self.token(publish=["**"], subscribe=["**"], admin=True)

    def _ask(self, method: str, path: str, *, ended: int = 0, **request: Any) -> httpx.Response:
        token = self._everything()
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        answer = self._http.request(method, f"{self._process.url}{path}", headers=headers, **request)
        if answer.is_error and answer.status_code != ended:
            raise RuntimeError(f"the server answered {answer.status_code}: {answer.text}")
        return answer

    def _start(self) -> int:
        port = self._process.start().port
        for line in self.output.splitlines():
            if " is not a setting" in line:  # a test that went on would be of something else
                raise RuntimeError(line)
        return port

    def _stop(self) -> None:
        self._process.stop()

    def _forget_log(self) -> None:
        delete_log(self.log)

    def _close(self) -> None:
        self._stack.close()
