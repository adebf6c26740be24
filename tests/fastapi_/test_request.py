"""What is read of a request before it is known who asks: as much as anybody means, and no more."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from feed import Malformed
from feed.fastapi.auth.access import Access
from feed.fastapi.auth.grants import EVERYTHING, Grants
from feed.fastapi.http.request import Query, accepted, forget_query, query_of
from tests.support.hostile import HANDSHAKE, raw
from tests.support.running import RunningServer

pytestmark = pytest.mark.anyio

JSON = "application/json"


def request(query: bytes = b"", *accept: bytes) -> Request:
    headers = [(b"accept", value) for value in accept]
    return Request({"type": "http", "method": "GET", "query_string": query, "headers": headers})


def test_a_thousand_parameters_are_read_and_not_one_more() -> None:
    most = b"&".join(b"a=%d" % number for number in range(1_000))
    assert len(Query(most).all("a")) == 1_000
    with pytest.raises(Malformed, match="1,000 parameters"):
        Query(most + b"&a=1000")


def test_an_accept_of_four_thousand_characters_is_read_and_not_one_more() -> None:
    most = b"application/json".rjust(2_000, b",")
    assert accepted(request(b"", most, most), [JSON]) == JSON
    with pytest.raises(Malformed, match="Accept"):
        accepted(request(b"", most, most, b"," * 97), [JSON])


@pytest.mark.parametrize(("method", "path"), [("GET", "/events/a"), ("GET", "/events"), ("POST", "/events/a")])
def test_too_many_of_them_are_400(server: RunningServer, method: str, path: str) -> None:
    query = "topic=a&" + "&" * 1_000
    asked = [(f"{path}?{query}", "*/*")] + [(f"{path}?topic=a", "," * 4_097)] * (method == "GET")
    for target, accept in asked:
        with server.http.stream(method, f"{server.url}{target}", headers={"Accept": accept}) as answer:
            assert answer.status_code == 400
            assert answer.headers["content-type"] == "application/problem+json"


def test_a_websocket_with_too_many_is_not_opened(server: RunningServer) -> None:
    with raw(server) as client:
        client.send(HANDSHAKE % (b"/ws/a?" + b"&" * 1_000))
        assert client.receive().startswith(b"HTTP/1.1 400 ")


async def test_the_query_is_read_once_in_a_request_also_where_a_token_may_be_in_it() -> None:
    class Tokens:
        def remembered(self, digest: bytes) -> Grants | None:
            return None

        async def grants(self, token: str) -> Grants:
            assert token == "secret"
            return EVERYTHING

    asked = request(b"topic=a&token=secret")
    query = query_of(asked)
    asked.scope["query_string"] = b"token=other"  # so that reading it again would be seen
    assert await Access(Tokens())(asked) is EVERYTHING
    assert query_of(asked) is query
    forget_query(asked)
    assert query_of(asked).all("token") == ["other"]
