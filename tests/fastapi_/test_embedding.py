"""The feed inside somebody else's FastAPI application: whatever lifespan, prefix, middleware and login it has."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
import warnings
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Cookie, Depends, FastAPI, Header, HTTPException, Request
from fastapi.security import OAuth2PasswordBearer
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import Response
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from feed import Feed, FeedUnavailable, Forbidden, LogRefused, Unauthenticated
from feed.fastapi import Grants, admin_router, drained_by_signals, feed_router
from feed.testing import AppServer
from tests.support.redis_server import free_port
from tests.support.running import START_SECONDS
from tests.support.streams import eventually, subscribed

Json = {"Accept": "application/json"}

with warnings.catch_warnings(action="ignore"):  # it would rather have httpx2
    from starlette.testclient import TestClient


class Session:
    """What somebody's database session is: it has to be given back."""

    opened = 0
    closed = 0


async def session() -> AsyncIterator[type[Session]]:
    Session.opened += 1
    try:
        yield Session
    finally:
        Session.closed += 1


def current_user(
    session: Annotated[type[Session], Depends(session)], user: Annotated[str | None, Cookie()] = None
) -> str:
    assert session.opened > session.closed
    if user is None:
        raise HTTPException(401, "log in first")
    return user


def authorize(
    tenant: str, user: Annotated[str, Depends(current_user)], x_mood: Annotated[str, Header()] = ""
) -> Grants:
    if x_mood == "bad":
        raise Forbidden("not in this mood")
    return Grants(publish=[f"{tenant}/{user}/*"], subscribe=[f"{tenant}/**"], subject=user)


class Slowly(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["X-Seen"] = "yes"
        return response


def no_monday(x_day: Annotated[str, Header()] = "") -> None:
    if x_day == "monday":
        raise HTTPException(418, "not today")


feed = Feed("memory:")
other = Feed("memory:")
login = OAuth2PasswordBearer("login", auto_error=False)


def anybody(token: Annotated[str | None, Depends(login)]) -> Grants:
    return Grants(publish=["**"], subscribe=["**"])


def host() -> FastAPI:
    """An application with no lifespan of its own, all kinds of middleware, two feeds, and another application with a
    third one mounted in it."""
    app = FastAPI()
    app.add_middleware(Slowly)
    app.add_middleware(GZipMiddleware, minimum_size=1)
    app.add_middleware(CORSMiddleware, allow_origins=["https://app.example.org"], allow_credentials=True)
    guarded = feed_router(feed, authorize=authorize, origins=["https://app.example.org"])
    app.include_router(guarded, prefix="/of/{tenant}/live", dependencies=[Depends(no_monday)])
    app.include_router(feed_router(other, authorize=anybody), prefix="/other")
    inner = FastAPI()
    inner.include_router(feed_router(Feed("memory:")), prefix="/live")
    app.mount("/inner", inner)

    @app.get("/error")
    async def error() -> None:
        raise HTTPException(409, "its own")

    return app


@pytest.fixture(scope="module")
def server() -> Iterator[AppServer]:
    with AppServer(host(), feed, root_path="/behind") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: AppServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=10) as client:
        yield client


ANN = {"Cookie": "user=ann"}


def test_a_stream_passes_all_middleware_at_once_and_bears_what_it_adds(server: AppServer, client: httpx.Client) -> None:
    url = f"{server.url}/of/shop/live/events/shop/ann/*"
    origin = {"Origin": "https://app.example.org"}
    with subscribed(url, ANN | origin, Accept_Encoding="gzip") as stream:
        answer = client.post("/of/shop/live/events/shop/ann/a", json={"n": 1}, headers={**ANN, **origin})
        assert answer.status_code == 201
        assert stream.frame().json == {"n": 1}
        assert stream.response.headers["x-seen"] == "yes"
        assert stream.response.headers["access-control-allow-origin"] == "https://app.example.org"
        assert "content-encoding" not in stream.response.headers
        assert feed.statistics().subscribers == 1
    eventually(lambda: feed.statistics().subscribers == 0)


def test_an_application_that_is_let_go_leaves_nothing_behind(server: AppServer) -> None:
    router = feed_router(Feed("memory:"), authorize=anybody)
    app = FastAPI()
    app.include_router(router)
    with AppServer(app) as other_server:
        assert httpx.get(f"{other_server.url}/events/a", headers=Json).status_code == 200
    gone = weakref.ref(app)
    del app, other_server
    gc.collect()
    assert gone() is None
    assert router.routes


def test_two_feeds_in_one_application_know_nothing_of_each_other(server: AppServer, client: httpx.Client) -> None:
    assert client.post("/other/events/shop/two", content="x").status_code == 201
    page = client.get("/of/shop/live/events/shop/two", headers={**ANN, **Json}).json()
    assert page["events"] == []
    assert len(client.get("/other/events/shop/two", headers=Json).json()["events"]) == 1


def test_a_mounted_application_has_its_feed_though_no_lifespan_is_run_for_it(
    server: AppServer, client: httpx.Client
) -> None:
    with subscribed(f"{server.url}/inner/live/events/a") as stream:
        assert client.post("/inner/live/events/a", content="x").status_code == 201
        assert stream.frame().data == "x"


def test_behind_a_proxy_that_takes_a_path_away_everything_works_and_the_document_tells_the_whole_path(
    server: AppServer, client: httpx.Client
) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/other/ws/root") as socket:
        assert json.loads(socket.recv(10))["type"] == "feed.open"
        assert client.post("/other/events/root", content="x").status_code == 201
        assert json.loads(socket.recv(10))["data"] == "x"
    for path in ("/other", "/of/shop/live", "/inner/live"):
        servers = client.get(f"{path}/asyncapi.json").json()["servers"]
        assert servers["http"]["pathname"] == f"/behind{path}/events"
        assert servers["websocket"]["pathname"] == f"/behind{path}/ws"
        assert servers["http"]["host"] == f"127.0.0.1:{server.port}"


def test_the_prefix_the_login_and_its_dependencies_decide(client: httpx.Client) -> None:
    statuses = {
        (path, cookie): client.post(f"/of/shop/live/events/{path}", content="x", headers={"Cookie": cookie}).status_code
        for path in ("shop/ann/a", "shop/bob/a", "bank/ann/a")
        for cookie in ("user=ann", "user=bob", "other=x")
    }
    assert statuses == {
        ("shop/ann/a", "user=ann"): 201,
        ("shop/ann/a", "user=bob"): 403,
        ("shop/ann/a", "other=x"): 401,
        ("shop/bob/a", "user=ann"): 403,
        ("shop/bob/a", "user=bob"): 201,
        ("shop/bob/a", "other=x"): 401,
        ("bank/ann/a", "user=ann"): 403,
        ("bank/ann/a", "user=bob"): 403,
        ("bank/ann/a", "other=x"): 401,
    }


def test_errors_of_the_applications_own_login_are_its_own_and_those_of_the_feed_are_problems(
    client: httpx.Client,
) -> None:
    own = client.get("/of/shop/live/events/shop/a", headers=Json)
    assert (own.status_code, own.json()) == (401, {"detail": "log in first"})
    raised = client.get("/of/shop/live/events/shop/a", headers={**Json, **ANN, "X-Mood": "bad"})
    assert (raised.status_code, raised.json()["detail"]) == (403, "not in this mood")
    assert raised.headers["content-type"] == "application/problem+json"
    assert client.get("/error").json() == {"detail": "its own"}


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 401), ({**ANN, "X-Mood": "bad"}, 403), ({**ANN, "X-Day": "monday"}, 418)]
)
def test_a_websocket_is_refused_before_it_opens_with_the_same_status(
    server: AppServer, headers: dict[str, str], status: int
) -> None:
    with (
        pytest.raises(InvalidStatus) as raised,
        connect(f"ws://127.0.0.1:{server.port}/of/shop/live/ws/shop/a", additional_headers=headers),
    ):
        pass
    assert raised.value.response.status_code == status


def test_whom_the_applications_own_login_refuses_counts_as_denied(server: AppServer, client: httpx.Client) -> None:
    before = (feed.counters.publishes["denied"], feed.counters.refused["denied"])
    client.post("/of/shop/live/events/shop/ann/a", content="x")
    client.get("/of/shop/live/events/shop/a")
    with pytest.raises(InvalidStatus), connect(f"ws://127.0.0.1:{server.port}/of/shop/live/ws/shop/a"):
        pass
    after = (feed.counters.publishes["denied"], feed.counters.refused["denied"])
    assert after == (before[0] + 1, before[1] + 2)


def test_dependencies_of_include_router_hold_too(client: httpx.Client) -> None:
    for method in ("GET", "POST"):
        answer = client.request(method, "/of/shop/live/events/shop/ann/a", headers={**ANN, "X-Day": "monday"})
        assert answer.status_code == 418


def test_what_authorization_holds_is_given_back_before_a_stream_begins(server: AppServer) -> None:
    before = Session.opened
    with subscribed(f"{server.url}/of/shop/live/events/shop/x", ANN):
        assert Session.opened == before + 1
        assert Session.closed == Session.opened
    url = f"ws://127.0.0.1:{server.port}/of/shop/live/ws/shop/x"
    with connect(url, additional_headers=ANN) as socket:
        assert json.loads(socket.recv(10))["type"] == "feed.open"
        assert Session.closed == Session.opened == before + 2


def test_a_foreign_page_is_refused_before_anybody_is_asked_who_it_is(client: httpx.Client) -> None:
    before = Session.opened
    headers = {**ANN, "Origin": "https://evil.example"}
    assert client.post("/of/shop/live/events/shop/ann/a", content="x", headers=headers).status_code == 403
    assert Session.opened == before


def test_what_a_test_overrides_in_the_application_counts(server: AppServer, client: httpx.Client) -> None:
    app: Any = server.app
    app.dependency_overrides[current_user] = lambda: "bob"
    try:
        assert client.post("/of/shop/live/events/shop/bob/a", content="x").status_code == 201
        assert client.post("/of/shop/live/events/shop/ann/a", content="x", headers=ANN).status_code == 403
    finally:
        app.dependency_overrides.clear()


def test_the_applications_document_shows_the_login_and_every_route_once(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"] == {
        "OAuth2PasswordBearer": {"type": "oauth2", "flows": {"password": {"scopes": {}, "tokenUrl": "login"}}}
    }
    for path, methods in (("/other/events/{topic}", ["delete", "get", "post"]), ("/other/events", ["get", "post"])):
        assert sorted(document["paths"][path]) == methods
        for operation in document["paths"][path].values():
            assert operation["security"] == [{"OAuth2PasswordBearer": []}]
            assert operation["tags"] == ["feed"]
    named = [each["name"] for each in document["paths"]["/of/{tenant}/live/events"]["post"]["parameters"]]
    assert {"tenant", "user", "x-mood", "Idempotency-Key"} <= set(named)


def test_a_feed_that_nobody_opens_is_opened_and_closed_with_the_application() -> None:
    unopened = Feed("memory:")
    app = FastAPI()
    app.include_router(feed_router(unopened))
    with AppServer(app) as server:
        assert unopened.loop is not None, "at its start"
        assert httpx.get(f"{server.url}/events/a", headers=Json).status_code == 200
    assert unopened.loop is None


def test_the_applications_own_lifespan_can_use_the_feed_from_its_first_line_to_its_last() -> None:
    shop = Feed("memory:")
    published: list[str] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with shop:
            published.append(await shop.publish("a", "opened"))
            yield
            published.append(await shop.publish("a", "closing"))

    app = FastAPI(lifespan=lifespan)
    app.include_router(feed_router(shop), prefix="/live")
    app.include_router(feed_router(shop), prefix="/again")
    with AppServer(app) as server:
        for prefix in ("live", "again"):
            page = httpx.get(f"{server.url}/{prefix}/events/a", headers=Json).json()
            assert [event["data"] for event in page["events"]] == ["opened"]
    assert [id.partition("-")[2] for id in published] == ["1", "2"]


def test_an_application_that_cannot_open_its_log_does_not_start(tmp_path: Any) -> None:
    app = FastAPI()
    app.include_router(feed_router(Feed(f"sqlite:{tmp_path}")))
    with pytest.raises(RuntimeError, match="did not start"), AppServer(app):
        pass


async def bare(connection):  # type: ignore[no-untyped-def]
    if connection.headers.get("x-user") != "ann":
        raise Unauthenticated("who are you?")
    return Grants(subscribe=["**"])


async def greedy(request: Request) -> Grants:
    await request.body()
    return Grants(publish=["**"])


def perhaps(_: HTTPConnection) -> Grants | None:
    return None


async def never(request: Request) -> None:
    assert request.method


def everything() -> dict[str, list[str]]:
    return {"subscribe": ["**"]}


class Door:
    """A dependency with settings of its own."""

    def __init__(self, *patterns: str) -> None:
        self._patterns = patterns

    async def __call__(self, request: Request) -> AsyncIterator[Grants]:
        yield Grants(subscribe=self._patterns if request.method == "GET" else ())


def test_authorize_may_be_a_plain_function_of_the_connection_an_object_or_a_generator() -> None:
    app = FastAPI()
    memory = Feed("memory:")
    app.include_router(feed_router(memory, authorize=bare), prefix="/bare")
    app.include_router(feed_router(memory, authorize=Door("news/*")), prefix="/door")
    app.include_router(feed_router(memory, authorize=greedy), prefix="/greedy")
    with AppServer(app) as server, httpx.Client(base_url=server.url, headers=Json) as client:
        assert client.get("/bare/events/a").json()["detail"] == "who are you?"
        assert client.get("/bare/events/a", headers={"X-User": "ann"}).status_code == 200
        assert client.get("/door/events/news/a").status_code == 200
        assert client.get("/door/events/a").status_code == 403
        assert client.post("/door/events/news/a", content="x").status_code == 403
        with connect(f"ws://127.0.0.1:{server.port}/door/ws/news/a"):
            pass
        # Each with a connection of its own: uvicorn closes those whose application has failed.
        unread = httpx.post(f"{server.url}/greedy/events/a", content="x")
        assert unread.status_code == 500, "the body is the event, and not for authorize to read"


def test_what_is_not_grants_lets_nobody_in_and_the_log_says_whose_fault_it_is(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    memory = Feed("memory:")
    # mypy complains of each of these three.
    app.include_router(feed_router(memory, authorize=perhaps), prefix="/perhaps")  # type: ignore[arg-type]
    app.include_router(feed_router(memory, authorize=never), prefix="/never")  # type: ignore[arg-type]
    app.include_router(feed_router(memory, authorize=everything), prefix="/everything")  # type: ignore[arg-type]
    app.include_router(admin_router(memory, authorize=never, metrics=False), prefix="/admin")  # type: ignore[arg-type]
    with AppServer(app) as server:
        for _ in range(2):
            for method, path in (
                ("GET", "/perhaps/events/a"),
                ("POST", "/never/events/a"),
                ("GET", "/everything/events/a"),
                ("GET", "/admin/subscriptions"),
            ):
                answer = httpx.request(method, f"{server.url}{path}")
                assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
                assert answer.json()["detail"] == "an error of this server, which its log explains"
        with pytest.raises(InvalidStatus) as refused, connect(f"ws://127.0.0.1:{server.port}/perhaps/ws/a"):
            pass
        assert refused.value.response.status_code == 500
    told = [record.getMessage() for record in caplog.records if record.name.startswith("feed.")]
    must = "it must return feed.fastapi.Grants, or raise feed.Unauthenticated, feed.Forbidden or an HTTPException"
    assert told == [
        f"authorize ({__name__}.perhaps) returned None: {must}",
        f"authorize ({__name__}.never) returned None: {must}",
        f"authorize ({__name__}.everything) returned dict: {must}",
        f"authorize ({__name__}.never) returned None: {must}",  # of the other router
    ]
    assert "Traceback" not in caplog.text


def test_what_cannot_be_asked_is_refused_when_the_router_is_made() -> None:
    memory = Feed("memory:")
    with pytest.raises(TypeError, match="authorize has to be a function"):
        feed_router(memory, authorize=Grants())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="annotate connection, other"):
        feed_router(memory, authorize=lambda connection, other: Grants())


def test_a_feed_closes_with_the_last_who_holds_it() -> None:
    import asyncio

    async def scenario() -> None:
        shared = Feed("memory:")
        async with shared:
            async with shared:
                await shared.publish("a", "x")
            await shared.publish("a", "x")
            await shared.close()
            with pytest.raises(FeedUnavailable):
                await shared.publish("a", "x")
            async with shared:
                await shared.publish("a", "x")
        with pytest.raises(FeedUnavailable):
            await shared.publish("a", "x")

    asyncio.run(scenario())


@pytest.mark.parametrize("log", ["memory:", "sqlite:feed.db"])
def test_a_test_client_works_with_and_without_the_applications_start_in_any_order(
    log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    memory = Feed(log)
    app = FastAPI()
    app.include_router(feed_router(memory))
    with TestClient(app) as client:
        assert client.post("/events/a", content="started").status_code == 201
    client = TestClient(app)  # each request has a loop of its own
    for text in ("first", "second"):
        assert client.post("/events/a", content=text).status_code == 201
    kept = [event["data"] for event in client.get("/events/a", headers=Json).json()["events"]]
    assert kept == (["first", "second"] if log == "memory:" else ["started", "first", "second"])
    with client.websocket_connect("/ws/a") as socket:
        assert socket.receive_json()["type"] == "feed.open"
        socket.send_text("third")
        assert {socket.receive_json()["type"] for _ in range(2)} == {"feed.ack", "message"}
        with pytest.raises(RuntimeError, match="with TestClient"):
            client.post("/events/a", content="in another loop")
    with TestClient(app) as client, client.websocket_connect("/ws/a") as socket:
        assert client.post("/events/a", content="x").status_code == 201
        assert [socket.receive_json()["type"] for _ in range(2)] == ["feed.open", "message"]
    with AppServer(app, memory) as server:
        assert httpx.post(f"{server.url}/events/a", content="x").status_code == 201


def test_signals_drain_a_feed_and_are_answered_as_before() -> None:
    import asyncio

    answered: list[int] = []

    def answer(number: int, _: object) -> None:
        answered.append(number)

    async def scenario() -> None:
        async with Feed("memory:") as shop, shop.subscribe("a") as events:
            with drained_by_signals(shop):
                assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL, "the system's answer stays"
                signal.raise_signal(signal.SIGTERM)
                async with asyncio.timeout(10):
                    assert [event async for event in events] == []
        assert signal.getsignal(signal.SIGTERM) is answer

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        signal.signal(signal.SIGTERM, answer)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        with asyncio.Runner() as runner:
            runner.get_loop().run_until_complete(scenario())  # `run` would answer SIGINT itself
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert answered == [signal.SIGTERM]


def test_a_log_that_is_refused_stops_the_start_with_few_lines(tmp_path: Path) -> None:
    app = FastAPI()
    app.include_router(feed_router(Feed(f"sqlite:{tmp_path}")))
    with pytest.raises(LogRefused, match="Is a directory") as raised, TestClient(app):
        pass
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


STOPPING = """
from fastapi import FastAPI
from feed import Feed
from feed.fastapi import feed_router

feed = Feed("memory:")
app = FastAPI()
app.include_router(feed_router(feed))

@app.get("/waiting")
def waiting() -> int:
    return feed.statistics().subscribers
"""


def test_a_host_that_stops_need_not_wait_for_long_polls(tmp_path: Path) -> None:
    (tmp_path / "stopping.py").write_text(STOPPING)
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "uvicorn", "stopping:app", "--port", str(port), "--log-level", "warning"]

    def has(waiting: int) -> bool:
        with suppress(httpx.TransportError):
            return bool(httpx.get(f"{url}/waiting").json() == waiting)
        return False

    with subprocess.Popen(command, cwd=tmp_path) as host, ThreadPoolExecutor(1) as thread:
        try:
            eventually(lambda: has(0), START_SECONDS)
            poll = thread.submit(httpx.get, f"{url}/events/a?wait=60", headers=Json, timeout=60)
            eventually(lambda: has(1))
            host.terminate()
            assert poll.result(10).json()["events"] == []
            host.wait(10)
        finally:
            host.kill()
