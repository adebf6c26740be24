"""Query parameters: those of another route, and slips of one of ours, are refused; all others are somebody else's."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from feed import Feed, Invalid
from feed.fastapi import feed_router
from feed.fastapi.describe.openapi import SUBSCRIBE
from feed.fastapi.http.parameters import OPENED, PARAMETERS, RECONNECTED, SHORTEST, Use, check_parameters
from tests.support.hostile import HANDSHAKE, raw
from tests.support.running import RunningServer
from tests.support.streams import subscribed

PAGE = {"Accept": "application/json"}

IGNORED = (
    "_=123&t=1&ts=2&v=3&cb=4&r=5&nocache=6&utm_source=a&utm_campaign=b&access_token=x&key=k&id=1&user=u&tenant=t"
    "&evs_preamble=1&transport=sse&EIO=4&page=2&sort=x&lang=de&q=w&state=s&%F0%9F%92%A5=1&=1&__r=2&cachebust=9"
)

ASKED: dict[Use, tuple[str, str, dict[str, str]]] = {
    Use.STREAM: ("GET", "/events/parameters", {}),
    Use.PAGE: ("GET", "/events/parameters", PAGE),
    Use.ONE: ("POST", "/events/parameters", {}),
    Use.BATCH: ("POST", "/events", {"Content-Type": "application/json"}),
    Use.SESSION: ("POST", "/session", {}),
    Use.SUBSCRIPTIONS: ("GET", "/subscriptions", {}),
    Use.KICK: ("DELETE", "/subscriptions/nobody", {}),
    Use.KICK_ALL: ("DELETE", "/subscriptions?subject=nobody", {}),
}


def asked(server: RunningServer, use: Use, query: str) -> httpx.Response:
    """The answer, without the body of a stream."""
    method, path, headers = ASKED[use]
    content = '{"topic":"parameters","data":1}' if method == "POST" else None
    url = f"{server.url}{path}{'&' if '?' in path else '?'}{query}"
    with server.http.stream(method, url, headers=headers, content=content) as answer:
        if answer.headers.get("content-type", "").startswith("application/problem"):
            answer.read()
        return answer


def handshake(server: RunningServer, query: str) -> bytes:
    with raw(server) as client:
        client.send(HANDSHAKE % b"/ws/parameters?%b" % query.encode())
        return client.receive()


@pytest.mark.parametrize("use", ASKED, ids=lambda use: use.name.lower())
def test_what_is_nothing_to_us_is_passed_over(server: RunningServer, use: Use) -> None:
    assert asked(server, use, IGNORED).status_code in (200, 201, 204, 404)


def test_a_websocket_passes_it_over_too(server: RunningServer) -> None:
    assert handshake(server, IGNORED).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    ("use", "query", "meant"),
    [
        (Use.STREAM, "lst=3", "last"),
        (Use.STREAM, "LAST=3", "last"),
        (Use.STREAM, "topics=a", "topic"),
        (Use.STREAM, "topic[]=a", "topic"),
        (Use.STREAM, "last-event-id=x", "last_event_id"),
        (Use.STREAM, "lasteventid=x", "last_event_id"),
        (Use.STREAM, "last_evnt_idd=x", "last_event_id"),
        (Use.STREAM, "aftr=x", "after"),
        (Use.STREAM, "evnelope=1", "envelope"),
        (Use.STREAM, "limti=5", "limit, which is not a parameter of a stream of events"),
        (Use.PAGE, "limits=5", "limit"),
        (Use.PAGE, "Since=2026-11-21T03:05:00Z", "since"),
        (Use.PAGE, "bfore=x", "before"),
        (Use.ONE, "typ=x", "type"),
        (Use.ONE, "tpye=x", "type"),
        (Use.ONE, "Type=x", "type"),
        (Use.BATCH, "types=x", "type, which is not a parameter of POST /events"),
        (Use.SESSION, "tokn=x", "token"),
        (Use.SUBSCRIPTIONS, "Limit=1", "limit"),
        (Use.KICK, "Token=x", "token"),
        (Use.KICK, "subjct=x", "subject, which is not a parameter of DELETE /subscriptions/ID"),
        (Use.KICK_ALL, "Subject=x", "subject"),
    ],
)
def test_a_slip_is_422_and_says_what_was_meant(server: RunningServer, use: Use, query: str, meant: str) -> None:
    answer = asked(server, use, query)
    name = query.partition("=")[0]
    assert answer.status_code == 422
    assert answer.json()["detail"] == f"'{name}': is not a parameter: did you mean {meant}?"


@pytest.mark.parametrize(
    ("use", "query", "detail"),
    [
        (Use.STREAM, "limit=5", "limit: is not a parameter of a stream of events: did you mean a page of history"),
        (Use.STREAM, "wait=5", "wait: "),
        (Use.STREAM, "since=x", "since: "),
        (Use.STREAM, "before=x", "before: "),
        (Use.ONE, "last=3", "last: is not a parameter of POST /events/TOPIC: did you mean a stream of events?"),
        (Use.ONE, "topic=a", "topic: "),
        (Use.BATCH, "type=x", "type: "),
        (Use.BATCH, "topic=x", "topic: "),
        (Use.SESSION, "last=1", "last: "),
        (Use.SUBSCRIPTIONS, "topic=a", "topic: "),
        (Use.KICK, "limit=1", "limit: "),
        (Use.KICK, "subject=x", "subject: is not a parameter of DELETE /subscriptions/ID: did you mean DELETE /sub"),
        (Use.KICK_ALL, "limit=1", "limit: "),
    ],
)
def test_a_parameter_of_another_route_is_422(server: RunningServer, use: Use, query: str, detail: str) -> None:
    answer = asked(server, use, query)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(detail)
    assert "did you mean" in answer.json()["detail"]


@pytest.mark.parametrize("query", ["lst=3", "limit=5", "wait=1", "Type=x"])
def test_a_websocket_with_either_is_not_opened(server: RunningServer, query: str) -> None:
    answer = handshake(server, query)
    assert answer.startswith(b"HTTP/1.1 422 ")
    assert b"did you mean" in answer


def test_nothing_is_published_by_a_post_with_a_slip(server: RunningServer) -> None:
    before = server.history()["next"]
    for use in (Use.ONE, Use.BATCH):
        asked(server, use, "typ=x")
    assert server.history()["next"] == before


LETTERS = "abcdefghijklmnopqrstuvwxyz"


@st.composite
def slips(draw: st.DrawFn) -> tuple[str, str]:
    """A parameter, and what it becomes by one slip. What is left of a short one may be too short to be compared."""
    known = draw(st.sampled_from(sorted(set(PARAMETERS) - set(RECONNECTED))))
    place = draw(st.integers(0, len(known) - 2))
    before, letter, after = known[:place], known[place], known[place + 1 :]
    other = draw(st.sampled_from(LETTERS))
    made = [
        before + after,
        before + other + after,
        before + other + letter + after,
        before + after[:1] + letter + after[1:],
    ]
    return known, draw(st.sampled_from([name for name in made if len(name) >= SHORTEST]))


@given(slips(), st.sampled_from(Use))
def test_any_slip_is_noticed(slip: tuple[str, str], use: Use) -> None:
    known, name = slip
    if name == known and use in PARAMETERS[known]:
        return
    with pytest.raises(Invalid, match="did you mean"):
        check_parameters([name], use)


def test_of_many_that_nobody_knows_a_hundred_are_compared() -> None:
    strangers = [f"stranger{number}" for number in range(99)]
    with pytest.raises(Invalid):
        check_parameters([*strangers, "lst"], Use.STREAM)
    check_parameters([*strangers, "stranger99", "lst"], Use.STREAM)


def test_the_openapi_document_has_those_of_the_table() -> None:
    documented = {each["name"] for each in SUBSCRIBE["parameters"] if each["in"] == "query"}
    reading = {name for name, uses in PARAMETERS.items() if uses & {Use.STREAM, Use.PAGE, Use.TOPICS}}
    assert documented == reading - {*RECONNECTED[1:], "token"}


@pytest.mark.anyio
async def test_an_application_has_parameters_of_its_own() -> None:
    app = FastAPI()
    feed = Feed("memory:")
    app.include_router(feed_router(feed, parameters=["lat", "limit"]), prefix="/live")
    async with feed, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        assert (await client.post("/live/events/a?lat=52.5&limit=3", content="x")).status_code == 201
        assert (await client.post("/live/events/a?lst=1", content="x")).status_code == 422
        assert (await client.post("/live/events?lat=1&typ=1", json={"topic": "a", "data": 1})).status_code == 422


# Where to resume.


@pytest.mark.parametrize("name", [*OPENED, *RECONNECTED])
def test_each_name_of_the_position_resumes_a_stream_and_begins_a_page(server: RunningServer, name: str) -> None:
    topic = f"names/{name}"
    ids = [server.publish(topic, str(number)) for number in range(3)]
    with subscribed(f"{server.url}/events/{topic}?{name}={ids[1]}") as stream:
        assert stream.frame().data == "2"
    page = server.history(topic, **{name: ids[1]})
    assert [event["data"] for event in page["events"]] == ["2"]


@pytest.mark.parametrize(
    "query",
    [
        "last_event_id={0}&lastEventId={2}",
        "lastEventId={2}&last_event_id={0}",
        "after={0}&lastEventId={2}",
        "lastEventId={0}&lastEventId={2}",
        "lastEventId={2}&lastEventId=",
        "last_event_id={0}&evs_last_event_id={2}",
        "after={0}&last_event_id={2}",
        "last_event_id={0}&after={2}",
        "after={0}&after={2}",
        "after={2}&after=",
        "lastEventId=&after={2}",
    ],
)
def test_what_a_reconnect_adds_goes_before_what_the_url_was_opened_with(server: RunningServer, query: str) -> None:
    ids = [server.publish("reconnects", str(number)) for number in range(4)]
    page = server.http.get(f"{server.url}/events/reconnects?{query.format(*ids)}", headers=PAGE).json()
    assert [event["id"] for event in page["events"]] == ids[3:]


def test_the_header_goes_before_all_of_them(server: RunningServer) -> None:
    ids = [server.publish("header", str(number)) for number in range(4)]
    query = f"lastEventId={ids[0]}&after={ids[1]}"
    with subscribed(f"{server.url}/events/header?{query}", Last_Event_ID=ids[2]) as stream:
        assert stream.frame().id == ids[3]


@pytest.mark.parametrize("query", ["after={2}", "last_event_id={0}&lastEventId={2}", "after={0}&lastEventId={2}"])
def test_a_websocket_resumes_by_the_same_rule(server: RunningServer, query: str) -> None:
    ids = [server.publish("parameters", str(number)) for number in range(4)]
    with raw(server) as client:
        client.send(HANDSHAKE % b"/ws/parameters?%b" % query.format(*ids).encode())
        seen = client.until(b"feed.live")
    assert [id for id in ids if f'"id":"{id}","topic"'.encode() in seen] == ids[3:]
