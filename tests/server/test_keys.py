"""Keys in the settings: which are taken, what they are for, and that they are seen nowhere."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PublicFormat
from pydantic import SecretStr, ValidationError

from feed_server.auth.keys import KeyUse, load_private_key, signing_algorithm
from feed_server.setting_errors import problems
from feed_server.settings import Settings, is_secret
from feed_server.verifier import keys_of
from tests.support.keys import BAD, EC, ED, GOOD, RSA, certificate, private, public
from tests.support.running import FEED
from tests.support.tokens import SECRET


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"FEED_{name.upper()}", raising=False)


def refusal(**values: Any) -> str:
    """Why these settings are refused, in one line."""
    with pytest.raises(ValidationError) as raised:
        Settings(**values)
    return "; ".join(problems(raised.value))


def algorithms(**values: Any) -> list[str]:
    """What tokens may be signed with."""
    return [key.algorithm for key in keys_of(Settings(**values))]


def test_without_a_key_there_is_none() -> None:
    assert not Settings().has_key
    assert keys_of(Settings()) == []


@pytest.mark.parametrize("name", ["jwt_secret", "publisher_jwt_secret", "subscriber_jwt_secret"])
def test_a_secret_is_for_hmac_and_nothing_else(name: str) -> None:
    assert algorithms(**{name: SECRET}) == ["HS256", "HS384", "HS512"]
    given: dict[str, Any] = {name: SECRET}
    assert Settings(**given).has_key


@pytest.mark.parametrize("algorithm", GOOD)
def test_a_public_key_is_for_the_one_algorithm_of_its_kind(algorithm: str) -> None:
    assert algorithms(jwt_public_key=public(GOOD[algorithm])) == [algorithm]
    assert Settings(jwt_public_key=public(GOOD[algorithm])).has_key


@pytest.mark.parametrize("algorithm", GOOD)
def test_a_public_key_may_be_in_a_file(algorithm: str, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(public(GOOD[algorithm]))
    assert algorithms(jwt_public_key=str(file)) == [algorithm]


def test_a_file_is_read_once_so_that_all_workers_have_the_same_key(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(public(EC))
    settings = Settings(jwt_public_key=str(file))
    file.unlink()
    assert [key.algorithm for key in keys_of(settings)] == ["ES256"]


def test_line_breaks_may_be_written_as_in_a_file_of_variables() -> None:
    assert algorithms(jwt_public_key=public(RSA).replace("\n", "\\n")) == ["RS256"]


def test_a_url_of_keys_counts_as_a_key() -> None:
    assert Settings(jwks_url="https://issuer.example/keys").has_key


def test_tokens_of_separate_keys_reach_no_further_than_they_are_for() -> None:
    settings = Settings(
        jwt_secret=SecretStr(SECRET),
        publisher_jwt_secret=SecretStr(SECRET + "p"),
        publisher_jwt_public_key=public(EC),
        subscriber_jwt_secret=SecretStr(SECRET + "s"),
        subscriber_jwt_public_key=public(ED),
    )
    assert [key.use for key in keys_of(settings)] == 3 * [KeyUse.ALL] + 4 * [KeyUse.PUBLISH] + 4 * [KeyUse.SUBSCRIBE]


@pytest.mark.parametrize("secret", ["x" * 31, "é" * 15, "x"])
def test_a_secret_that_is_too_short_is_refused(secret: str) -> None:
    assert refusal(jwt_secret=secret) == (
        "FEED_JWT_SECRET: is too short: a secret has at least 32 bytes; make one with: openssl rand -hex 32"
    )


def test_a_secret_counts_in_bytes() -> None:
    assert algorithms(jwt_secret="é" * 16)


@pytest.mark.parametrize(
    "key",
    [public(RSA), private(EC), certificate(RSA), public(RSA).replace("\n", "\\n")],
    ids=["public", "private", "certificate", "on one line"],
)
def test_a_pem_is_no_secret(key: str) -> None:
    assert "FEED_JWT_SECRET: is a key or certificate" in refusal(jwt_secret=key)


@pytest.mark.parametrize(
    "key",
    [
        RSA.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
        '{"kty": "oct", "k": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}',
    ],
    ids=["of SSH", "of a set"],
)
def test_another_form_of_key_is_no_secret(key: str) -> None:
    assert "FEED_JWT_SECRET: is a key or certificate, not a secret" in refusal(jwt_secret=key)


@pytest.mark.parametrize("name", ["jwt_public_key", "publisher_jwt_public_key", "subscriber_jwt_public_key"])
def test_a_private_key_is_not_taken_for_a_public_one(name: str) -> None:
    said = refusal(**{name: private(RSA)})
    assert said.startswith(f"--{name.replace('_', '-')} (FEED_{name.upper()}): is a private key")


def test_a_certificate_is_not_taken_for_a_public_key() -> None:
    assert "is a certificate" in refusal(jwt_public_key=certificate(EC))


@pytest.mark.parametrize("kind", BAD)
def test_a_weak_or_unusual_key_is_refused(kind: str) -> None:
    assert "RSA of at least 2048 bits, EC on the curve P-256, or Ed25519" in refusal(jwt_public_key=public(BAD[kind]))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "holds no public key"),
        ("/nowhere/key.pem", "is not a PEM, and as a file '/nowhere/key.pem' cannot be read: No such file"),
        ("key.pem", "is not a PEM, and as a file 'key.pem' cannot be read: No such file"),
        (
            "/nowhere/" + "x" * 5000,
            f"is not a PEM, and as a file '/nowhere/{'x' * 191}' cannot be read: File name too long",
        ),
        ("secret+/in/the=wrong+place", "is not a PEM, and as a file cannot be read: No such file"),
        ("/", "is not a PEM, and as a file cannot be read: Is a directory"),
        ("a\0b", "is not a PEM, and as a file cannot be read: it is not a file name"),
        ("x" * 5000, "is not a PEM, and as a file cannot be read: File name too long"),
        ("/dev/zero", "is not a PEM, and as a file '/dev/zero' is too large"),
        ("/dev/null", "holds no public key"),
    ],
)
def test_what_is_no_public_key_is_refused(value: str, said: str) -> None:
    assert said in refusal(jwt_public_key=value)


@pytest.mark.parametrize(
    "url", ["x", "issuer.example/keys", "ftp://issuer.example", "file:///etc/passwd", "http://", "x:"]
)
def test_keys_are_fetched_over_http_only(url: str) -> None:
    assert "FEED_JWKS_URL): is not an http:// or https:// URL" in refusal(jwks_url=url)


def test_one_key_for_publishers_and_subscribers_tells_them_not_apart() -> None:
    assert refusal(publisher_jwt_secret=SECRET, subscriber_jwt_secret=SECRET).startswith(
        "FEED_PUBLISHER_JWT_SECRET, FEED_SUBSCRIBER_JWT_SECRET: two have the same value"
    )
    assert "the same" in refusal(jwt_public_key=public(EC), subscriber_jwt_public_key=public(EC))


def test_no_secret_is_shown() -> None:
    settings = Settings(jwt_secret=SecretStr(SECRET), publisher_jwt_secret=SecretStr(SECRET + "p"))
    for text in (repr(settings), str(settings), settings.model_dump_json(), repr(keys_of(settings))):
        assert SECRET not in text


def test_no_secret_that_is_refused_is_shown() -> None:
    given = [("jwt_secret", "quite secret"), ("jwt_public_key", private(EC)), ("jwt_public_key", "quite secret")]
    for name, value in given:
        values: dict[str, Any] = {name: value}
        with pytest.raises(ValidationError) as raised:
            Settings(**values)
        shown = str(raised.value) + repr(raised.value) + "; ".join(problems(raised.value))
        assert "quite secret" not in shown
        assert private(EC)[40:60] not in shown


def test_secrets_are_no_options_and_everything_else_is() -> None:
    secrets = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert secrets == {name for name in Settings.model_fields if is_secret(name)}
    assert len(secrets) == 3


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"FEED_JWT_SECRET": "quite secret"}, "feed serve: FEED_JWT_SECRET: is too short"),
        ({"FEED_JWT_PUBLIC_KEY": "/nowhere"}, "feed serve: --jwt-public-key (FEED_JWT_PUBLIC_KEY): is not a PEM"),
        ({"FEED_JWKS_URL": "nowhere"}, "feed serve: --jwks-url (FEED_JWKS_URL): is not an http"),
        ({"FEED_JWT_SECRET": SECRET, "FEED_PUBLISHER_JWT_SECRET": SECRET}, "feed serve: FEED_JWT_SECRET, FEED_PUBL"),
    ],
)
def test_a_server_with_a_wrong_key_does_not_start(environment: dict[str, str], said: str) -> None:
    done = subprocess.run(
        [FEED, "serve", "--log", "memory:", "--port", "0"], env=environment, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(said)
    assert not any(value in line for value in ("quite secret", SECRET))


@pytest.mark.parametrize("algorithm", GOOD)
def test_a_private_key_signs_with_the_algorithm_of_its_kind(algorithm: str) -> None:
    assert signing_algorithm(load_private_key(private(GOOD[algorithm]))) == algorithm


@pytest.mark.parametrize("kind", BAD)
def test_a_private_key_that_no_server_would_take_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="RSA of at least 2048 bits"):
        load_private_key(private(BAD[kind]))


@pytest.mark.parametrize(
    ("pem", "said"),
    [
        (public(EC), "is a public key"),
        (private(EC, BestAvailableEncryption(b"password")), "is encrypted"),
        ("nonsense", "is not a private key"),
    ],
    ids=["public", "encrypted", "nonsense"],
)
def test_what_is_no_private_key_is_refused(pem: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_private_key(pem)
