"""Keys behind a URL: against a real server that is counted, slow, broken, and changes its keys."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

from feed import FeedUnavailable, Unauthenticated
from feed.fastapi.auth.grants import Grants
from feed_server.auth.jwks import MOST_KEYS, MOST_TRIED, Pace, RemoteKeys, _keys, _members
from feed_server.auth.keys import secret_keys
from feed_server.auth.tokens import Tokens
from tests.conftest import Serve
from tests.support.handmade_tokens import ALLOWED, JSON, LATER, ed25519_token, sealed
from tests.support.keys import BAD, EC, ED, OTHER_ED, OTHERS, RSA, public
from tests.support.scripted import accepting
from tests.support.tokens import SECRET

pytestmark = pytest.mark.anyio

SECONDS = 10.0
PATIENT = Pace(renew=1000, again=1000, first=0, timeout=SECONDS)
"""Nothing happens by itself; but where there are no keys, each that asks makes us try again."""

OF_KINDS = {"RS256": (RSAAlgorithm, RSA), "ES256": (ECAlgorithm, EC), "EdDSA": (OKPAlgorithm, ED)}


def jwk(key: Any, **members: object) -> dict[str, Any]:
    """The public half of a key, as a member of a set."""
    kinds: list[Any] = [RSAAlgorithm, ECAlgorithm, OKPAlgorithm]
    for kind in kinds:
        with contextlib.suppress(jwt.InvalidKeyError, AttributeError):
            return {**kind.to_jwk(key.public_key(), as_dict=True), **members}
    raise AssertionError(key)


def signed(key: Any, algorithm: str, kid: str | None = None, **claims: object) -> str:
    """A token of this key that is good for an hour."""
    headers = None if kid is None else {"kid": kid}
    return jwt.encode({"exp": LATER, "feed": ALLOWED, **claims}, key, algorithm, headers)


class KeyServer:
    """Answers with a set of keys, or what a test wants instead. `asked` counts how often it was."""

    def __init__(self) -> None:
        self.url = ""
        self.asked = 0
        self.heads: list[str] = []
        self.answer: Callable[[asyncio.StreamWriter], Awaitable[None]] = sending(b"")

    def keys(self, *members: object) -> None:
        """Answer with these from now on."""
        self.answer = sending(json.dumps({"keys": members}).encode())

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, and its answer."""
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        self.asked += 1
        await self.answer(writer)


def sending(body: bytes, status: str = "200 OK", *headers: str) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    """An answer."""

    async def send(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", "Connection: close", f"Content-Length: {len(body)}", *headers, "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        await writer.drain()

    return send


async def hanging(writer: asyncio.StreamWriter) -> None:
    """It never answers."""
    await asyncio.Event().wait()


async def dripping(writer: asyncio.StreamWriter) -> None:
    """It answers a byte at a time, each in time."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


async def endless(writer: asyncio.StreamWriter) -> None:
    """It never stops answering."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b" " * 65536)
        await writer.drain()


async def hanging_up(writer: asyncio.StreamWriter) -> None:
    """It closes the connection."""


NONSENSE = {
    "an error": sending(b"{}", "500 Internal Server Error"),
    "not found": sending(b"{}", "404 Not Found"),
    "an error with keys": sending(json.dumps({"keys": [jwk(EC)]}).encode(), "403 Forbidden"),
    "nothing": sending(b""),
    "no JSON": sending(b"<html>"),
    "no object": sending(b"[]"),
    "no keys": sending(b"{}"),
    "keys that are no list": sending(b'{"keys": {"a": 1}}'),
    "an empty list of keys": sending(b'{"keys": []}'),
    "no key that is taken": sending(b'{"keys": [5, null, [], {}, {"kty": "oct", "k": "AAAA"}]}'),
    "deep JSON": sending(b"[" * 100_000),
    "too much": sending(json.dumps({"keys": [jwk(EC)], "x": "x" * 600_000}).encode()),
    "compressed": sending(gzip.compress(json.dumps({"keys": [jwk(EC)]}).encode()), "200 OK", "Content-Encoding: gzip"),
    "no end": endless,
    "a broken connection": hanging_up,
    "no answer": hanging,
    "a slow answer": dripping,
}


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    """A server of keys, for as long as a test."""
    server = KeyServer()
    async with accepting(server.converse) as url:
        server.url = f"{url}/keys"
        yield server


@contextlib.asynccontextmanager
async def verifying(server: KeyServer, pace: Pace = PATIENT, **others: Any) -> AsyncIterator[Tokens]:
    """Tokens of the server's keys."""
    tokens = Tokens(others.pop("keys", ()), RemoteKeys(server.url, pace), **others)
    try:
        async with asyncio.timeout(SECONDS):
            yield tokens
    finally:
        await tokens.aclose()


async def refused(tokens: Tokens, token: str) -> str:
    """Why it is."""
    with pytest.raises(Unauthenticated) as raised:
        await tokens.grants(token)
    return str(raised.value)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it is so."""
    async with asyncio.timeout(SECONDS):
        while not await condition():
            await asyncio.sleep(0.01)


async def is_valid(tokens: Tokens, token: str) -> bool:
    """Whether it is."""
    try:
        await tokens.grants(token)
    except Unauthenticated:
        return False
    return True


# Fetching.


@pytest.mark.parametrize("algorithm", OF_KINDS)
async def test_tokens_are_verified_with_the_keys_of_the_set(server: KeyServer, algorithm: str) -> None:
    server.keys(*(jwk(key, kid=name, use="sig", alg=name) for name, (_, key) in OF_KINDS.items()))
    async with verifying(server) as tokens:
        found = await tokens.grants(signed(OF_KINDS[algorithm][1], algorithm, algorithm, sub="alice"))
        assert found == Grants(("a/**",), ("b/*",), admin=True, subject="alice", expires=LATER)
        assert "no key of this server" in await refused(tokens, signed(OTHERS[algorithm], algorithm, algorithm))
    assert server.asked == 1


@pytest.mark.parametrize("named", ["Ed25519", "EdDSA", None])
async def test_an_ed25519_key_may_be_called_by_either_name_and_so_may_its_tokens(
    server: KeyServer, named: str | None
) -> None:
    server.keys(jwk(ED, kid="k", **({} if named is None else {"alg": named})))
    async with verifying(server) as tokens:
        for token in (ed25519_token(ED, "k"), signed(ED, "EdDSA", "k")):
            assert (await tokens.grants(token)).publish == ("a/**",)
        assert "no key of this server" in await refused(tokens, ed25519_token(OTHER_ED, "k"))


async def test_no_other_key_is_taken_for_one_by_its_name(server: KeyServer) -> None:
    ed448_key = ed448.Ed448PrivateKey.generate()
    server.keys(jwk(ed448_key, alg="Ed25519"), jwk(EC, alg="Ed25519"), jwk(RSA, kid="k"))
    async with verifying(server) as tokens:
        assert "no key of this server" in await refused(tokens, ed25519_token(ED))
        assert tokens._remote is not None
        assert [key.algorithm for key in tokens._remote._keys] == ["RS256"]


async def test_nothing_is_fetched_before_a_token_needs_it(server: KeyServer) -> None:
    async with verifying(server, keys=secret_keys(SECRET)) as tokens:
        await tokens.grants(sealed({"alg": "HS256", "kid": "x"}, {"exp": LATER}))
        await refused(tokens, "garbage")
        await refused(tokens, sealed({"alg": "HS256", "kid": "x"}, {"exp": LATER}, "another secret of some length"))
        await refused(tokens, sealed({"alg": "none"}, {"exp": LATER}))
    assert server.asked == 0


async def test_one_fetch_is_shared_by_all_who_wait(server: KeyServer) -> None:
    release = asyncio.Event()
    send = sending(json.dumps({"keys": [jwk(EC, kid="a")]}).encode())

    async def slow(writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await send(writer)

    server.answer = slow
    async with verifying(server) as tokens:
        waiting = [asyncio.create_task(tokens.grants(signed(EC, "ES256", "a", n=number))) for number in range(50)]
        await until(lambda: _true(server.asked == 1))
        waiting.pop(0).cancel()  # who asked first goes away
        release.set()
        assert all(found.admin for found in await asyncio.gather(*waiting))
    assert server.asked == 1


async def _true(value: bool) -> bool:
    return value


async def test_what_is_fetched_is_asked_for_as_it_is(server: KeyServer) -> None:
    server.keys(jwk(EC))
    async with verifying(server) as tokens:
        await tokens.grants(signed(EC, "ES256"))
    [head] = server.heads
    assert head.startswith("GET /keys HTTP/1.1\r\n")
    assert "accept-encoding: identity" in head.lower()


async def test_a_redirect_is_not_followed(server: KeyServer) -> None:
    other = KeyServer()
    other.keys(jwk(EC))
    async with accepting(other.converse) as other.url:
        server.answer = sending(b"", "302 Found", f"Location: {other.url}/keys")
        async with verifying(server) as tokens:
            with pytest.raises(FeedUnavailable):
                await tokens.grants(signed(EC, "ES256"))
    assert (server.asked, other.asked) == (1, 0)


# New keys.


async def test_a_key_that_is_not_known_yet_is_fetched(server: KeyServer) -> None:
    server.keys(jwk(EC, kid="old"))
    async with verifying(server, Pace(renew=1000, again=0)) as tokens:
        await tokens.grants(signed(EC, "ES256", "old"))
        server.keys(jwk(OTHERS["ES256"], kid="new"))
        await tokens.grants(signed(OTHERS["ES256"], "ES256", "new"))
        assert server.asked == 2


async def test_a_token_that_names_no_key_may_be_of_a_new_one_too(server: KeyServer) -> None:
    server.keys(jwk(EC))
    async with verifying(server, Pace(renew=1000, again=0)) as tokens:
        await tokens.grants(signed(EC, "ES256"))
        server.keys(jwk(OTHERS["ES256"]))
        await tokens.grants(signed(OTHERS["ES256"], "ES256"))
        assert server.asked == 2


async def test_made_up_names_of_keys_fetch_nothing_for_a_while(server: KeyServer) -> None:
    server.keys(jwk(EC, kid="a"))
    async with verifying(server) as tokens:
        await tokens.grants(signed(EC, "ES256", "a"))
        for number in range(20):
            assert "no key of this server" in await refused(tokens, signed(EC, "ES256", f"made up {number}"))
        await asyncio.gather(*(refused(tokens, signed(EC, "ES256", f"and more {number}")) for number in range(20)))
    assert server.asked == 1


async def test_they_fetch_again_after_a_while_and_then_once(server: KeyServer) -> None:
    server.keys(jwk(EC, kid="a"))
    start = time.monotonic()
    async with verifying(server, Pace(renew=1000, again=1)) as tokens:
        await tokens.grants(signed(EC, "ES256", "a"))

        async def asked_again() -> bool:
            await asyncio.gather(*(refused(tokens, signed(EC, "ES256", f"made up {number}")) for number in range(10)))
            return server.asked > 1

        await until(asked_again)
        assert time.monotonic() - start >= 1
        assert server.asked == 2


async def test_a_bad_signature_of_a_key_that_is_known_fetches_nothing(server: KeyServer) -> None:
    server.keys(jwk(EC, kid="a"))
    async with verifying(server, Pace(renew=1000, again=0)) as tokens:
        await tokens.grants(signed(EC, "ES256", "a"))
        await refused(tokens, signed(OTHERS["ES256"], "ES256", "a"))
    assert server.asked == 1


def test_the_pace_is_five_minutes_and_half_a_minute() -> None:
    assert (Pace().renew, Pace().again, Pace().timeout) == (300, 30, 5)


async def test_keys_are_renewed_in_the_background_and_what_they_verified_is_forgotten(server: KeyServer) -> None:
    server.keys(jwk(EC, kid="a"))
    token = signed(EC, "ES256", "a")
    async with verifying(server, Pace(renew=0.05, again=1000)) as tokens:
        assert await tokens.grants(token) is await tokens.grants(token)
        server.keys(jwk(OTHERS["ES256"], kid="b"))

        async def gone() -> bool:
            return not await is_valid(tokens, token)

        await until(gone)
        await tokens.grants(signed(OTHERS["ES256"], "ES256", "b"))


async def test_what_is_remembered_stays_when_the_keys_are_the_same_again(server: KeyServer) -> None:
    server.keys(jwk(EC, kid="a"))
    token = signed(EC, "ES256", "a")
    async with verifying(server, Pace(renew=0.02)) as tokens:
        found = await tokens.grants(token)
        await until(lambda: _true(server.asked >= 4))
        assert await tokens.grants(token) is found


# When it is down.


@pytest.mark.parametrize("kind", NONSENSE)
async def test_where_there_never_were_keys_it_is_not_the_tokens_fault(server: KeyServer, kind: str) -> None:
    server.answer = NONSENSE[kind]
    async with verifying(server, Pace(first=0, timeout=1.5)) as tokens:
        with pytest.raises(FeedUnavailable, match="the server cannot fetch the keys that verify tokens"):
            await tokens.grants(signed(EC, "ES256"))
        server.keys(jwk(EC))
        assert (await tokens.grants(signed(EC, "ES256"))).admin


@pytest.mark.parametrize("kind", NONSENSE)
async def test_the_keys_from_before_stay_when_it_is_down(server: KeyServer, kind: str) -> None:
    server.keys(jwk(EC, kid="a"))
    async with verifying(server, Pace(renew=0.02, again=0, timeout=1.5)) as tokens:
        await tokens.grants(signed(EC, "ES256", "a"))
        server.answer = NONSENSE[kind]
        asked = server.asked
        await until(lambda: _true(server.asked > asked + 1))
        assert (await tokens.grants(signed(EC, "ES256", "a", new=1))).admin
        assert "no key of this server" in await refused(tokens, signed(OTHERS["ES256"], "ES256", "b"))
        server.keys(jwk(OTHERS["ES256"], kid="b"))
        await until(lambda: is_valid(tokens, signed(OTHERS["ES256"], "ES256", "b")))


async def test_a_server_that_cannot_be_reached_is_not_the_tokens_fault_either() -> None:
    async with accepting(KeyServer().converse) as url:
        pass
    server = KeyServer()
    server.url = url
    async with verifying(server) as tokens:
        with pytest.raises(FeedUnavailable):
            await tokens.grants(signed(EC, "ES256"))


async def test_without_keys_it_is_asked_no_more_than_once_a_second_however_many_come(server: KeyServer) -> None:
    server.answer = NONSENSE["an error"]
    async with verifying(server, Pace(first=1000)) as tokens:
        for _ in range(20):
            with pytest.raises(FeedUnavailable):
                await tokens.grants(signed(EC, "ES256"))
    assert server.asked == 1
    assert Pace().first == 1


async def test_a_slow_answer_keeps_nobody_waiting_who_does_not_need_it(server: KeyServer) -> None:
    server.keys(jwk(EC, kid="a"))
    async with verifying(server, Pace(renew=1000, again=0), keys=secret_keys(SECRET)) as tokens:
        await tokens.grants(signed(EC, "ES256", "a"))
        server.answer = hanging
        waiting = asyncio.create_task(tokens.grants(signed(EC, "ES256", "b")))
        await until(lambda: _true(server.asked == 2))
        async with asyncio.timeout(1):
            await tokens.grants(signed(EC, "ES256", "a", new=1))
            await tokens.grants(sealed({"alg": "HS256"}, {"exp": LATER}))
        assert not waiting.done()
        waiting.cancel()


async def test_what_goes_wrong_is_in_the_log_once_without_the_urls_secrets(
    server: KeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer = NONSENSE["an error"]
    server.url = server.url.replace("//", "//name:password@") + "?key=hidden"
    async with verifying(server) as tokens:
        for _ in range(3):
            with pytest.raises(FeedUnavailable):
                await tokens.grants(signed(EC, "ES256"))
        server.keys(jwk(EC))
        await tokens.grants(signed(EC, "ES256"))
    lines = [record.getMessage() for record in caplog.records if record.name == "feed_server.auth.jwks"]
    assert len(lines) == 2
    assert lines[0].endswith("/keys: answered with 500: there are no keys")
    assert lines[1].endswith("/keys: answers again")
    assert not any(secret in "".join(lines) for secret in ("password", "hidden"))


async def test_nothing_is_left_running(server: KeyServer) -> None:
    server.answer = hanging
    before = asyncio.all_tasks()
    async with verifying(server) as tokens:
        waiting = asyncio.create_task(tokens.grants(signed(EC, "ES256")))
        await until(lambda: _true(server.asked == 1))
    with pytest.raises(asyncio.CancelledError):
        await waiting
    left = {task for task in asyncio.all_tasks() - before if (task.get_name()).startswith("feed-")}
    assert left == set()


# Which keys are taken.


async def test_a_secret_in_the_set_is_no_key(server: KeyServer) -> None:
    server.keys({**HMACAlgorithm.to_jwk(SECRET, as_dict=True), "kid": "a"}, jwk(EC, kid="b"))
    async with verifying(server) as tokens:
        await tokens.grants(signed(EC, "ES256", "b"))
        for kid in ("a", "b"):
            assert "algorithm" in await refused(tokens, sealed({"alg": "HS256", "kid": kid}, {"exp": LATER}))


@pytest.mark.parametrize(
    "members",
    [
        {"use": "enc"}, {"use": 5}, {"alg": "ES384"}, {"alg": "RS256"}, {"alg": None}, {"alg": ["ES256"]},
        {"key_ops": ["sign"]}, {"key_ops": "verify"}, {"kty": "oct"}, {"kty": "RSA"}, {"kty": None}, {"crv": "P-384"},
        {"x": 5}, {"x": "AAAA"}, {"y": "é"}, {"d": "AAAA"},
    ],
)  # fmt: skip
def test_a_key_that_is_for_something_else_is_left_out(members: dict[str, object]) -> None:
    [kept] = _keys([{**jwk(EC, kid="a"), **members}, jwk(ED, kid="b")])
    assert kept.id == "b"


@pytest.mark.parametrize("kind", BAD)
def test_a_weak_or_unusual_key_is_left_out(kind: str) -> None:
    [kept] = _keys([jwk(BAD[kind], kid="a"), jwk(ED, kid="b")])
    assert kept.id == "b"


def test_a_private_key_that_everybody_can_read_is_left_out() -> None:
    [kept] = _keys([RSAAlgorithm.to_jwk(RSA, as_dict=True), jwk(ED, kid="b")])
    assert kept.id == "b"


def test_what_else_is_said_of_a_key_is_no_matter() -> None:
    assert len(_keys([jwk(EC, use="sig", alg="ES256", key_ops=["verify"], x5c=["?"], kid=5, issuer="us")])) == 1


async def test_a_named_key_is_tried_alone_and_a_token_that_names_none_is_tried_with_a_few(server: KeyServer) -> None:
    others = [ec.generate_private_key(ec.SECP256R1()) for _ in range(MOST_TRIED)]
    server.keys(jwk(RSA), *(jwk(key, kid=str(number)) for number, key in enumerate(others)), jwk(EC, kid="last"))
    async with verifying(server) as tokens:
        await tokens.grants(signed(EC, "ES256", "last"))
        await tokens.grants(signed(others[-1], "ES256"))
        assert "no key of this server" in await refused(tokens, signed(EC, "ES256"))
        assert "no key of this server" in await refused(tokens, signed(EC, "ES256", "0"))
        await tokens.grants(signed(RSA, "RS256"))


def test_no_more_than_so_many_keys_are_taken() -> None:
    body = json.dumps({"keys": [jwk(EC, kid=str(number)) for number in range(MOST_KEYS + 50)]}).encode()
    assert len(_keys(_members(body))) == MOST_KEYS


async def test_the_algorithm_is_the_keys_own(server: KeyServer) -> None:
    server.keys(jwk(RSA, kid="a"))
    async with verifying(server) as tokens:
        for algorithm in ("RS384", "PS256"):
            assert "algorithm" in await refused(tokens, signed(RSA, algorithm, "a"))
        assert "no key of this server" in await refused(tokens, signed(EC, "ES256", "a"))
        pem = public(RSA)
        assert "algorithm" in await refused(tokens, sealed({"alg": "HS256", "kid": "a"}, {"exp": LATER}, pem))
        await refused(tokens, sealed({"alg": "RS256", "kid": "a"}, {"exp": LATER}, pem))


async def test_audience_and_issuer_count_here_too(server: KeyServer) -> None:
    server.keys(jwk(EC))
    async with verifying(server, audience="feed", issuer="us") as tokens:
        await tokens.grants(signed(EC, "ES256", aud="feed", iss="us"))
        assert "aud" in await refused(tokens, signed(EC, "ES256", iss="us"))
        assert "iss" in await refused(tokens, signed(EC, "ES256", aud="feed", iss="them"))


MEMBERS = st.dictionaries(
    st.sampled_from(["kty", "crv", "x", "y", "n", "e", "d", "k", "alg", "use", "key_ops", "kid"]),
    JSON | st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB", "sig"]) | st.text("Aa0-_="),
)


@given(MEMBERS, st.sampled_from([RSA, EC, ED, None]))
def test_odd_keys_are_left_out_or_harmless(members: dict[str, Any], like: Any) -> None:
    odd = members if like is None else {**jwk(like), **members}
    assert 1 <= len(_keys([odd, jwk(ED)])) <= 2


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_odd_answers_hold_no_keys(body: bytes) -> None:
    with pytest.raises(ValueError):
        _keys(_members(body))


# Against a real server.


async def test_a_server_takes_tokens_of_the_set_and_says_503_where_it_cannot_be_had(
    server: KeyServer, serve: Serve
) -> None:
    server.answer = NONSENSE["an error"]
    feed = await asyncio.to_thread(serve, "--log", "memory:", jwks_url=server.url)
    headers = {"Authorization": f"Bearer {signed(EC, 'ES256', 'a')}"}

    async def status() -> int:
        answer = await asyncio.to_thread(feed.http.post, f"{feed.url}/events/a/b", content="x", headers=headers)
        assert (answer.status_code == 503) == ("retry-after" in answer.headers)
        return answer.status_code

    assert await status() == 503
    server.keys(jwk(EC, kid="a"))
    await until(lambda: _is(status, 201))
    headers = {"Authorization": f"Bearer {signed(EC, 'ES256', 'made up')}"}
    assert await status() == 401


async def _is(status: Callable[[], Awaitable[int]], wanted: int) -> bool:
    return await status() == wanted


async def test_after_it_was_closed_the_set_is_fetched_again_for_who_needs_it(server: KeyServer) -> None:
    async with verifying(server, Pace(renew=1000, again=0, first=0, timeout=SECONDS)) as tokens:
        server.keys(jwk(RSA, kid="1"))
        assert await tokens.grants(signed(RSA, "RS256", "1"))
        await tokens.aclose()
        server.keys(jwk(EC, kid="2"))
        assert await tokens.grants(signed(EC, "ES256", "2"))
