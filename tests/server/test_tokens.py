"""Tokens: which are valid, what they allow, and that no other one gets through, whoever has built it (FAULTS.md, W6).

PyJWT refuses to make many of these, so they are put together by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from feed import Unauthenticated
from feed.fastapi.auth.grants import Grants
from feed_server.auth.tokens import (
    LAST_TIME,
    LEEWAY,
    MAX_PATTERNS,
    MAX_TOKEN,
    Tokens,
    _TokenCache,
    issue,
    read_unverified,
)
from feed_server.settings import Settings
from feed_server.verifier import verifier_of
from tests.conftest import Serve
from tests.support.handmade_tokens import ALLOWED, HASHES, JSON, LATER, NOW, b64, ed25519_token, saying, sealed
from tests.support.keys import EC, ED, GOOD, OTHER_RSA, OTHERS, RSA, private, public
from tests.support.running import RunningServer, running
from tests.support.tokens import SECRET

JWK_OF_OTHER = jwt.algorithms.RSAAlgorithm.to_jwk(OTHER_RSA.public_key(), as_dict=True)


def tokens(**settings: Any) -> Tokens:
    found = verifier_of(Settings(**{"jwt_secret": SecretStr(SECRET), **settings}))
    assert found is not None
    return found


TOKENS = tokens()


def grants(token: str, verifier: Tokens = TOKENS) -> Grants:
    return asyncio.run(verifier.grants(token))


def refusal(token: str, verifier: Tokens = TOKENS) -> str:
    """Why it is not valid."""
    with pytest.raises(Unauthenticated) as raised:
        grants(token, verifier)
    assert raised.value.invalid
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    return str(raised.value)


# What is valid.


def test_where_there_is_no_key_there_are_no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEED_JWT_SECRET", raising=False)
    assert verifier_of(Settings()) is None


def test_a_token_allows_what_its_claim_says() -> None:
    token = saying(sub="alice", feed=ALLOWED)
    assert grants(token) == Grants(("a/**",), ("b/*",), admin=True, subject="alice", expires=LATER)


@pytest.mark.parametrize("algorithm", HASHES)
def test_a_secret_of_32_bytes_does_for_every_hash_and_nothing_warns_of_it(algorithm: str) -> None:
    secret = "x" * 32
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        token = sealed({"alg": algorithm}, {"exp": LATER, "feed": ALLOWED}, secret, algorithm)
        assert grants(token, tokens(jwt_secret=SecretStr(secret))).admin
    assert warned == []


@pytest.mark.parametrize("algorithm", GOOD)
def test_a_public_key_verifies_what_its_private_key_has_signed(algorithm: str) -> None:
    verifier = tokens(jwt_public_key=public(GOOD[algorithm]))
    for key in (GOOD[algorithm], private(GOOD[algorithm])):
        token = jwt.encode({"exp": LATER, "feed": ALLOWED}, key, algorithm)
        assert grants(token, verifier).publish == ("a/**",)


def test_an_ed25519_key_s_algorithm_has_two_names() -> None:
    token = ed25519_token(ED)
    assert jwt.get_unverified_header(token)["alg"] == "Ed25519"
    assert grants(token, tokens(jwt_public_key=public(ED))).publish == ("a/**",)
    assert grants(token, tokens(jwt_secret=None, subscriber_jwt_public_key=public(ED))).subscribe == ("b/*",)
    assert "no key of this server has signed it" in refusal(token, tokens(jwt_public_key=public(OTHERS["EdDSA"])))


@pytest.mark.parametrize("algorithm", GOOD)
def test_another_key_of_the_same_kind_verifies_nothing(algorithm: str) -> None:
    token = jwt.encode({"exp": LATER}, GOOD[algorithm], algorithm)
    assert "no key of this server has signed it" in refusal(token, tokens(jwt_public_key=public(OTHERS[algorithm])))


def test_a_token_is_tried_with_each_key_that_is_for_its_algorithm() -> None:
    verifier = tokens(publisher_jwt_secret=SecretStr(SECRET + "p"), jwt_public_key=public(EC))
    for token in (
        saying(feed=ALLOWED),
        sealed({"alg": "HS256"}, {"exp": LATER, "feed": ALLOWED}, SECRET + "p"),
        jwt.encode({"exp": LATER, "feed": ALLOWED}, EC, "ES256"),
    ):
        assert grants(token, verifier).publish == ("a/**",)


def test_tokens_of_a_key_for_publishers_grant_nothing_else() -> None:
    verifier = tokens(jwt_secret=None, publisher_jwt_secret=SecretStr(SECRET))
    found = grants(saying(feed=ALLOWED), verifier)
    assert (found.publish, found.subscribe, found.admin) == (("a/**",), (), False)


def test_tokens_of_a_key_for_subscribers_grant_nothing_else() -> None:
    verifier = tokens(jwt_secret=None, subscriber_jwt_public_key=public(ED))
    found = grants(jwt.encode({"exp": LATER, "feed": ALLOWED}, ED, "EdDSA"), verifier)
    assert (found.publish, found.subscribe, found.admin) == ((), ("b/*",), False)


def test_a_token_without_the_claim_is_valid_and_allows_nothing() -> None:
    assert grants(saying()) == Grants(expires=LATER)


def test_members_of_the_claim_that_nobody_knows_are_nothing() -> None:
    assert grants(saying(feed={"publish": ["a"], "kick": ["b"]})).publish == ("a",)


@pytest.mark.parametrize("iat", [9_999_999_999, -1, "soon", None, [], {"a": 1}])
def test_when_it_was_made_is_not_judged(iat: object) -> None:
    assert grants(saying(iat=iat, feed=ALLOWED)).admin


@pytest.mark.parametrize("aud", ["anybody", ["a", "b"], 5, {}, None])
def test_whom_it_is_for_is_not_looked_at_where_the_settings_do_not_say(aud: object) -> None:
    assert grants(saying(aud=aud, iss="whoever", feed=ALLOWED)).admin


def test_an_audience_and_an_issuer_are_enforced_where_they_are_set() -> None:
    verifier = tokens(jwt_audience="feed", jwt_issuer="us")
    assert grants(saying(aud="feed", iss="us", feed=ALLOWED), verifier).admin
    assert grants(saying(aud=["x", "feed"], iss="us", feed=ALLOWED), verifier).admin
    for aud in ("other", ["x"], "", [], "fee", "feeds", 5, {"feed": 1}, ["feed", 5]):
        assert "aud" in refusal(saying(aud=aud, iss="us"), verifier)
    for iss in ("other", "", "u", ["us"], 5, None):
        assert "iss" in refusal(saying(aud="feed", iss=iss), verifier)
    assert "`aud`" in refusal(saying(iss="us"), verifier)
    assert "`iss`" in refusal(saying(aud="feed"), verifier)


# Times.


def test_a_token_that_has_expired_is_refused() -> None:
    for exp in (NOW - 1, NOW, 0, -1, NOW - 0.5):
        assert refusal(saying(exp=exp)) == "the token is not valid: it has expired"


def test_a_token_that_never_expires_is_refused() -> None:
    assert refusal(sealed({"alg": "HS256"}, {"feed": ALLOWED})) == "the token is not valid: it has no `exp`"
    assert refusal(saying(exp=None)) == "the token is not valid: it has no `exp`"


def test_a_token_that_is_not_valid_yet_is_refused() -> None:
    assert refusal(saying(nbf=LATER)) == "the token is not valid: it is not valid yet (`nbf`)"
    assert grants(saying(nbf=NOW - 60, feed=ALLOWED)).admin


def test_a_clock_that_is_a_little_ahead_makes_no_token_invalid_and_prolongs_none() -> None:
    now = int(time.time())
    assert grants(saying(nbf=now + 2, feed=ALLOWED)).admin
    assert grants(saying(nbf=now + LEEWAY - 0.5, feed=ALLOWED)).admin
    assert "not valid yet" in refusal(saying(nbf=now + LEEWAY + 60))
    assert "has expired" in refusal(saying(exp=now - 1, nbf=now - 60))


def test_a_time_in_milliseconds_is_refused_and_the_last_one_in_seconds_is_not() -> None:
    assert "`exp` is not a time in seconds" in refusal(saying(exp=LATER * 1000))
    assert grants(saying(exp=LAST_TIME)).expires == LAST_TIME


@pytest.mark.parametrize("name", ["exp", "nbf"])
@pytest.mark.parametrize(
    "value",
    [
        "1e400",
        "-1e400",
        "NaN",
        "Infinity",
        '"9999999999"',
        '""',
        "true",
        "[1]",
        "{}",
        "9" * 5000,
        "9" * 400,
        "[9999999999]",
    ],
)
def test_what_is_no_time_is_refused(name: str, value: str) -> None:
    other = {"exp": "nbf", "nbf": "exp"}[name]
    claims = f'{{"{name}": {value}, "{other}": {NOW if other == "nbf" else LATER}, "feed": {{}}}}'
    assert refusal(sealed({"alg": "HS256"}, claims.encode())).startswith("the token is not valid: ")


def test_a_token_that_is_remembered_is_refused_once_it_has_expired() -> None:
    exp = int(time.time()) + 3
    token = saying(exp=exp, feed=ALLOWED)
    assert grants(token).admin
    while time.time() < exp:
        with contextlib.suppress(Unauthenticated):  # the last of these may come in the very moment
            assert grants(token).expires == exp
        time.sleep(0.05)
    assert "expired" in refusal(token)


# Signatures and headers (W6).


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "none ", "", "null"])
@pytest.mark.parametrize("signature", ["", "AAAA"])
def test_a_token_that_says_it_needs_no_signature_is_refused(name: str, signature: str) -> None:
    text = ".".join(b64(json.dumps(part).encode()) for part in ({"alg": name}, {"exp": LATER, "feed": ALLOWED}))
    for verifier in (TOKENS, tokens(jwt_public_key=public(RSA))):
        assert "its algorithm is not allowed here" in refusal(f"{text}.{signature}", verifier)


@pytest.mark.parametrize("header", [{}, {"alg": None}, {"alg": ["HS256"]}, {"alg": {"HS256": 1}}, {"alg": 256}])
def test_a_token_that_names_no_algorithm_is_refused(header: object) -> None:
    assert "its algorithm is not allowed here" in refusal(sealed(header, {"exp": LATER}))


@pytest.mark.parametrize("algorithm", GOOD)
@pytest.mark.parametrize("hash", HASHES)
def test_a_public_key_is_not_taken_for_a_secret(algorithm: str, hash: str) -> None:
    verifier = tokens(jwt_secret=None, jwt_public_key=public(GOOD[algorithm]))
    pem = public(GOOD[algorithm])
    for secret in (pem, pem.strip(), pem.replace("\n", "\r\n"), ""):
        for name in (hash, algorithm):
            refusal(sealed({"alg": name}, {"exp": LATER, "feed": ALLOWED}, secret, hash), verifier)


@pytest.mark.parametrize(
    "name", ["RS384", "RS512", "PS256", "ES384", "ES512", "ES256K", "HS256 ", "hs256", "EdDSA", "Ed25519"]
)
def test_no_algorithm_but_the_keys_own_is_tried(name: str) -> None:
    verifier = tokens(jwt_public_key=public(RSA), publisher_jwt_public_key=public(EC))
    assert "its algorithm is not allowed here" in refusal(sealed({"alg": name}, {"exp": LATER}), verifier)


@pytest.mark.parametrize("name", ["RS384", "RS512", "PS256"])
def test_a_real_signature_by_another_algorithm_of_the_same_key_is_refused(name: str) -> None:
    token = jwt.encode({"exp": LATER}, RSA, name)
    assert "its algorithm is not allowed here" in refusal(token, tokens(jwt_public_key=public(RSA)))


def test_a_key_that_comes_with_the_token_is_not_believed() -> None:
    own = jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True)
    pem = b64(RSA.public_key().public_numbers().n.to_bytes(256, "big"))
    for extra in (
        {"jwk": own, "kid": "own"},
        {"jku": "http://127.0.0.1:9/keys", "kid": "own"},
        {"x5u": "http://127.0.0.1:9/certificate"},
        {"x5c": [pem]},
        {"jwk": {"kty": "oct", "k": b64(b"x" * 32)}},
    ):
        token = jwt.encode({"exp": LATER, "feed": ALLOWED}, RSA, "RS256", headers=extra)
        assert "algorithm" in refusal(token)
        assert "no key of this server" in refusal(token, tokens(jwt_public_key=public(OTHERS["RS256"])))
        secret = sealed({"alg": "HS256", **extra}, {"exp": LATER, "feed": ALLOWED}, b"x" * 32)
        assert "no key of this server" in refusal(secret)


@pytest.mark.parametrize(
    "extra",
    [
        {"crit": ["exp"], "exp": 1},
        {"crit": ["http://example.invalid/UNDEFINED"], "http://example.invalid/UNDEFINED": True},
        {"crit": []},
        {"crit": "b64"},
        {"crit": [5]},
        {"crit": None},
        {"crit": ["b64"], "b64": False},
        {"b64": False},
        {"crit": ["b64"]},
        {"kid": 5},
        {"kid": None},
        {"kid": ["a"]},
    ],
)
def test_a_header_that_asks_for_what_is_not_known_is_refused(extra: dict[str, object]) -> None:
    refusal(sealed({"alg": "HS256", **extra}, {"exp": LATER, "feed": ALLOWED}))


def test_a_payload_that_is_not_encoded_is_refused_however_it_is_signed() -> None:
    header = b64(json.dumps({"alg": "HS256", "b64": False, "crit": ["b64"]}).encode())
    for payload in (json.dumps({"exp": LATER, "feed": ALLOWED}), ""):
        text = f"{header}.{payload}"
        signature = b64(hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).digest())
        refusal(f"{text}.{signature}")


def test_a_token_that_was_changed_is_refused_wherever_it_was() -> None:
    token = saying(sub="alice", feed={"publish": ["a"]})
    header, payload, signature = token.split(".")
    more = b64(json.dumps({"exp": LATER, "sub": "alice", "feed": ALLOWED}).encode())
    for changed in (
        f"{header}.{more}.{signature}",
        f"{header}.{payload}.",
        f"{header}.{payload}",
        f"{header}.{payload}.{signature}.",
        f"{header}.{payload}.{signature}.{signature}",
        f".{payload}.{signature}",
        f"{header}..{signature}",
        f"{header}.{payload}.{signature[:-2]}",
        f"{header}.{payload}.{signature[:-1]}{'B' if signature[-1] != 'B' else 'C'}",
        f"{header}.{payload}.{signature}\n",
        f" {token}",
        f"{token}\0",
        f"Bearer {token}",
        token.replace("-", "+").replace("_", "/") + "é",
    ):
        refusal(changed)


@pytest.mark.parametrize("size", [0, 63, 65, 96])
def test_a_signature_of_a_wrong_length_is_refused(size: int) -> None:
    for algorithm, key in GOOD.items():
        token = jwt.encode({"exp": LATER}, key, algorithm).rpartition(".")[0]
        refusal(f"{token}.{b64(bytes(size))}", tokens(jwt_public_key=public(key)))


# Odd ones.


@pytest.mark.parametrize(
    "text", ["", ".", "..", "...", "a.b.c", "é", "\0", "\ud800", "x" * 100_000, "." * 10_000, "🤡.🤡.🤡"]
)
def test_what_is_no_token_is_refused(text: str) -> None:
    refusal(text)


DEEP = b"[" * 100_000
AS_DEEP_AS_FITS = b'{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}"


@pytest.mark.parametrize(
    "part", [DEEP, AS_DEEP_AS_FITS, b"", b"[]", b"5", b"null", b'"x"', b"{", b"\xff", b"\xff\xfe{}", b"{}\0"]
)
def test_json_that_is_none_or_no_object_is_refused(part: bytes) -> None:
    refusal(sealed(part, {"exp": LATER, "feed": ALLOWED}))
    refusal(sealed({"alg": "HS256"}, part))


def test_a_token_that_is_too_long_is_refused_before_it_is_read() -> None:
    assert len(saying(a="x" * MAX_TOKEN)) > MAX_TOKEN
    assert refusal(saying(a="x" * MAX_TOKEN)) == "the token is not valid: it is longer than 16,384 characters"


@pytest.mark.parametrize(
    "claim",
    [
        None, 5, "publish", [], [["publish", "a"]], True,
        {"publish": "a"}, {"publish": None}, {"publish": {"a": 1}}, {"publish": [5]}, {"publish": [["a"]]},
        {"publish": [None]}, {"subscribe": "**"}, {"admin": 1}, {"admin": "true"}, {"admin": None}, {"admin": [True]},
    ],
)  # fmt: skip
def test_a_claim_that_is_malformed_is_refused_with_an_example(claim: object) -> None:
    assert '{"publish": ["orders/**"]' in refusal(saying(feed=claim))


@pytest.mark.parametrize("kind", ["publish", "subscribe"])
@pytest.mark.parametrize(
    "pattern", ["", "/", "a//b", "a**", "**/a", "..", "$a", "a b", "a\0", "\ud800", "a\n", "x" * 257]
)
def test_a_claim_with_what_is_no_pattern_is_refused(kind: str, pattern: str) -> None:
    said = f"the token is not valid: `feed.{kind}` holds {pattern[:64]!a}, which is not a pattern"
    assert refusal(saying(feed={kind: [pattern]})) == said


def test_a_claim_may_hold_100_patterns_of_a_kind() -> None:
    patterns = [f"a/{number}" for number in range(MAX_PATTERNS)]
    assert grants(saying(feed={"publish": patterns, "subscribe": patterns})).publish == tuple(patterns)
    for kind in ("publish", "subscribe"):
        assert "more than 100 patterns" in refusal(saying(feed={kind: [*patterns, "b"]}))


@pytest.mark.parametrize("sub", ["", "x" * 256, "\ud800", 5, [], {}, None, True])
def test_a_subject_that_is_no_name_is_refused(sub: object) -> None:
    assert "`sub` is" in refusal(saying(sub=sub))


def test_a_subject_may_be_255_characters_of_any_script() -> None:
    assert grants(saying(sub="é" * 255)).subject == "é" * 255


def test_no_reason_repeats_anything_of_the_token() -> None:
    marked = "Marker"
    for token in (
        sealed({"alg": marked}, {"exp": LATER}),
        sealed({"alg": "HS256", "crit": [marked], marked: 1}, {"exp": LATER}),
        sealed({"alg": "HS256", "kid": marked}, {"exp": LATER}, "another secret that is quite as long"),
        sealed(marked.encode(), {}),
        sealed({"alg": "HS256"}, marked.encode()),
        saying(exp=marked),
        saying(nbf=marked),
        saying(sub=[marked]),
        saying(jti=[marked]),
        saying(feed=marked),
        saying(feed={"publish": [f"{marked} "]}),
        saying(aud=marked),
        saying(iss=marked),
        f"{marked}.{marked}.{marked}",
    ):
        assert marked not in refusal(token, tokens(jwt_audience="feed", jwt_issuer="us"))


CLAIMS = st.dictionaries(st.sampled_from(["exp", "nbf", "iat", "aud", "iss", "sub", "jti", "feed", "x"]), JSON)
HEADERS = st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "x5u", "zip"]), JSON)
STRICT = tokens(jwt_audience="feed", jwt_issuer="us", jwt_public_key=public(EC))


def judged(token: str) -> None:
    """Whatever it is: it is refused in the one way, or good."""
    for verifier in (TOKENS, STRICT):
        try:
            found = grants(token, verifier)
        except Unauthenticated as error:
            assert error.invalid
        else:
            assert found.expires > NOW


@given(st.text() | st.lists(st.text("Aa0-_=eyJ"), min_size=3, max_size=3).map(".".join))
def test_garbage_is_refused(text: str) -> None:
    judged(text)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_garbage_with_a_good_signature_is_refused(header: bytes, claims: bytes) -> None:
    judged(sealed(header, claims))
    judged(sealed({"alg": "HS256"}, claims))


@given(HEADERS, CLAIMS)
def test_odd_headers_and_claims_are_refused_or_harmless(header: dict[str, Any], claims: dict[str, Any]) -> None:
    judged(sealed(header, claims))
    judged(sealed({**header, "alg": "HS256"}, claims))
    judged(sealed({"alg": "HS256"}, {"exp": LATER, **claims}))
    judged(sealed({"alg": "HS256"}, {**claims, "exp": LATER}))


@given(JSON, st.sampled_from(["publish", "subscribe", "admin"]))
def test_odd_members_of_the_claim_are_refused_or_harmless(value: object, name: str) -> None:
    judged(saying(feed={name: value}))
    judged(saying(feed=value))
    judged(saying(sub=value))


# What is remembered.


def test_a_token_is_verified_once() -> None:
    verifier, token = tokens(), saying(feed=ALLOWED)
    assert grants(token, verifier) is grants(token, verifier)


def test_a_token_that_is_refused_is_not_remembered() -> None:
    verifier = tokens()
    for number in range(10):
        refusal(f"{saying(x=number)}x", verifier)
    assert len(verifier._known) == 0


def test_no_more_tokens_are_remembered_than_there_is_room_for() -> None:
    known = _TokenCache(most=3, most_bytes=10_000)
    for number in range(10):
        known.add(bytes([number]), Grants(), 100)
    assert [known.get(bytes([number])) is not None for number in range(10)] == [False] * 7 + [True] * 3


def test_no_more_bytes_of_tokens_are_remembered_than_there_is_room_for() -> None:
    known = _TokenCache(most=1_000, most_bytes=10_000)
    for number in range(10):
        known.add(bytes([number]), Grants(), 4_000)
        known.add(bytes([number]), Grants(), 4_000)
        assert known.size <= 10_000
    assert len(known) == 2
    known.clear()
    assert (len(known), known.size) == (0, 0)


def test_a_token_is_gone_from_memory_once_it_was_seen_to_have_expired() -> None:
    known = _TokenCache(most=3, most_bytes=10_000)
    known.add(b"a", Grants(expires=time.time() - 1), 100)
    assert known.get(b"a") is None
    assert (len(known), known.size) == (0, 0)


# Making and reading one.


def test_what_is_issued_is_what_is_granted() -> None:
    wanted = Grants(("a/**", "b"), ("c/*",), admin=True, subject="Zoë", expires=float(LATER))
    verifier = tokens(jwt_audience="feed", jwt_issuer="us", jwt_public_key=public(ED))
    for key, algorithm in ((SECRET, "HS256"), (ED, "EdDSA")):
        token = issue(wanted, key, algorithm, audience="feed", issuer="us")
        assert grants(token, verifier) == wanted


def test_what_a_token_says_can_be_read_without_a_key() -> None:
    said = read_unverified(sealed({"alg": "RS256", "kid": "k"}, b'{"exp": 1e3,  "sub": "a"}', "any"))
    assert (said.algorithm, said.kid, said.text) == ("RS256", "k", '{"exp": 1e3,  "sub": "a"}')
    assert said.grants == Grants(subject="a", expires=datetime.fromtimestamp(1000, UTC))


@given(HEADERS, CLAIMS)
def test_what_cannot_be_read_is_refused_in_the_one_way(header: dict[str, Any], claims: dict[str, Any]) -> None:
    try:
        assert read_unverified(sealed(header, claims)).grants.expires is not None
    except Unauthenticated as error:
        assert error.invalid


# Against a real server.


@pytest.fixture(scope="module")
def guarded() -> Iterator[RunningServer]:
    """A server with a secret and a public key, an audience and an issuer."""
    settings = {"jwt_secret": SECRET, "jwt_public_key": public(RSA), "jwt_audience": "feed", "jwt_issuer": "us"}
    with running("--log", "memory:", **settings) as server:
        yield server


def good(**claims: object) -> dict[str, object]:
    """What a token of the guarded server says."""
    return {"exp": LATER, "aud": "feed", "iss": "us", "feed": {"publish": ["**"], "subscribe": ["**"]}, **claims}


def without(name: str) -> dict[str, object]:
    """The same, but for one claim."""
    return {key: value for key, value in good().items() if key != name}


def unsigned(name: str) -> str:
    """A token without a signature."""
    return ".".join([*(b64(json.dumps(part).encode()) for part in ({"alg": name}, good())), ""])


HS256 = {"alg": "HS256"}
BAD_TOKENS = {
    "alg none": unsigned("none"),
    "alg nOnE": unsigned("nOnE"),
    "alg NONE, signed": sealed({"alg": "NONE"}, good()),
    "HS256 with the public key as secret": sealed(HS256, good(), public(RSA)),
    "RS256 that is an HMAC of the public key": sealed({"alg": "RS256"}, good(), public(RSA)),
    "another secret": sealed(HS256, good(), "another secret of quite some length"),
    "another key": jwt.encode(good(), OTHERS["RS256"], "RS256"),
    "unknown kid": jwt.encode(good(), OTHERS["RS256"], "RS256", {"kid": "unknown"}),
    "jwk in the header": jwt.encode(good(), OTHERS["RS256"], "RS256", {"jwk": JWK_OF_OTHER}),
    "jku in the header": jwt.encode(good(), OTHERS["RS256"], "RS256", {"jku": "http://127.0.0.1:9/"}),
    "unknown crit": sealed({**HS256, "crit": ["x"], "x": 1}, good()),
    "expired": sealed(HS256, good(exp=NOW - 1)),
    "no exp": sealed(HS256, without("exp")),
    "endless": sealed(HS256, json.dumps(good()).replace(str(LATER), "1e999").encode()),
    "not yet valid": sealed(HS256, good(nbf=LATER)),
    "wrong aud": sealed(HS256, good(aud="other")),
    "no aud": sealed(HS256, without("aud")),
    "wrong iss": sealed(HS256, good(iss="other")),
    "no iss": sealed(HS256, without("iss")),
    "a claim that is malformed": sealed(HS256, good(feed="**")),
    "garbage": "garbage",
    "deep": sealed(b"[" * 5_000, good()),
}


@pytest.mark.parametrize("kind", BAD_TOKENS)
def test_w6_a_bad_token_is_401_everywhere_and_changes_nothing(guarded: RunningServer, kind: str) -> None:
    token = BAD_TOKENS[kind]
    answers = [
        *_asked(guarded, headers={"Authorization": f"Bearer {token}"}),
        *_asked(guarded, params={"token": token}),
        *_asked(guarded, headers={"Cookie": f"feed_token={token}"}),
    ]
    for answer in answers:
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        assert token[-20:] not in answer.text
    assert _history(guarded) == []


def _asked(server: RunningServer, **options: Any) -> list[httpx.Response]:
    return [
        server.http.post(f"{server.url}/events/a", content="x", **options),
        server.http.get(f"{server.url}/events/a", **options),
    ]


def _history(server: RunningServer) -> Any:
    token = sealed(HS256, good())
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    answer = server.http.get(f"{server.url}/events/**", headers=headers)
    assert answer.status_code == 200
    return answer.json()["events"]


def test_no_token_is_printed_by_the_server(guarded: RunningServer) -> None:
    shown = [sealed(HS256, good()), *BAD_TOKENS.values()]
    for token in shown:
        answer = guarded.http.get(
            f"{guarded.url}/events/a", params={"token": token}, headers={"Accept": "application/json"}
        )
        assert answer.status_code in (200, 401)
    assert not any(token[-20:] in guarded.output for token in shown)
    assert SECRET not in guarded.output


def test_a_good_token_of_either_key_publishes(serve: Serve) -> None:
    server = serve("--log", "memory:", jwt_secret=SECRET, jwt_public_key=public(RSA))
    for token in (sealed(HS256, good()), jwt.encode(good(), RSA, "RS256")):
        headers = {"Authorization": f"Bearer {token}"}
        assert server.http.post(f"{server.url}/events/a", content="x", headers=headers).status_code == 201
