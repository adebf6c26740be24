"""`feed token`: what it makes, what it says of one, and that it shows no secret."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from pydantic import SecretStr

from feed.fastapi.auth.grants import Grants
from feed_server.cli.main import run
from feed_server.cli.token import _length
from feed_server.settings import Settings
from feed_server.verifier import verifier_of
from tests.support.handmade_tokens import ALLOWED, LATER, NOW, saying, sealed
from tests.support.keys import EC, ED, GOOD, private, public
from tests.support.running import FEED
from tests.support.tokens import SECRET


@dataclass
class Done:
    """What a command has printed, and what it ended with."""

    returncode: int
    stdout: str
    stderr: str


def feed_token(*arguments: str, stdin: str | None = None, **settings: str) -> Done:
    """Run it to its end, in this process. `FEED_JWT_SECRET` is set unless a test says otherwise; what is "" is
    not set."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(f"FEED_{name.upper()}", raising=False)
        for name, value in {"jwt_secret": SECRET, **settings}.items():
            if value:
                patch.setenv(f"FEED_{name.upper()}", value)
        patch.setenv("COLUMNS", "80")
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((stdin or "").encode())))
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = run(["token", *arguments])
    return Done(code, stdout.getvalue(), stderr.getvalue())


def made(*arguments: str, **settings: str) -> str:
    """The token, and nothing else."""
    done = feed_token(*arguments, **settings)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert re.fullmatch(r"[A-Za-z0-9._-]+\n", done.stdout)
    return done.stdout.strip()


def granted(token: str, **settings: Any) -> Grants:
    """What a server with these settings would make of it."""
    tokens = verifier_of(Settings(**settings))
    assert tokens is not None
    return asyncio.run(tokens.grants(token))


def said(*arguments: str, stdin: str | None = None, **settings: str) -> tuple[int, list[str]]:
    """The exit code, and the lines."""
    done = feed_token("--check", *arguments, stdin=stdin, **settings)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def error(*arguments: str, **settings: str) -> str:
    """The one line that is said of a wrong command line."""
    done = feed_token(*arguments, **settings)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    return line


# Making one.


def test_a_token_is_what_the_options_say() -> None:
    token = made(
        *("--publish", "a/**", "--publish", "b c,d", "--subscribe", "e/* , **"),
        *("--admin", "--subject", "Zoë", "--expires", "2h"),
    )
    found = granted(token, jwt_secret=SecretStr(SECRET))
    assert found.publish == ("a/**", "b", "c", "d")
    assert found.subscribe == ("e/*", "**")
    assert (found.admin, found.subject) == (True, "Zoë")
    assert 7100 < found.expires - time.time() < 7202


def test_unless_it_says_more_a_token_is_for_an_hour_and_for_nobody_in_particular() -> None:
    found = granted(made("--subscribe", "a"), jwt_secret=SecretStr(SECRET))
    assert (found.publish, found.admin, found.subject) == ((), False, None)
    assert 3500 < found.expires - time.time() < 3602


@pytest.mark.parametrize("algorithm", GOOD)
def test_a_private_key_signs_instead_of_a_secret(algorithm: str, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(private(GOOD[algorithm]))
    pem = public(GOOD[algorithm])
    token = made("--publish", "a", "--private-key", str(file), jwt_secret="", jwt_public_key=pem)
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    assert granted(token, jwt_public_key=pem).publish == ("a",)


def test_audience_and_issuer_are_those_of_the_settings() -> None:
    settings = {"jwt_audience": "feed", "jwt_issuer": "us"}
    token = made("--publish", "a", **settings)
    assert granted(token, jwt_secret=SecretStr(SECRET), **settings).publish == ("a",)


def test_a_secret_for_publishers_signs_what_only_publishes() -> None:
    settings = {"jwt_secret": "", "publisher_jwt_secret": SECRET, "subscriber_jwt_secret": SECRET + "s"}
    assert granted(made("--publish", "a", **settings), publisher_jwt_secret=SecretStr(SECRET)).publish == ("a",)
    found = granted(made("--subscribe", "a", **settings), subscriber_jwt_secret=SecretStr(SECRET + "s"))
    assert found.subscribe == ("a",)
    both = (
        "FEED_PUBLISHER_JWT_SECRET can only grant publishing and FEED_SUBSCRIBER_JWT_SECRET can only grant subscribing"
    )
    line = error("--publish", "a", "--subscribe", "a", **settings)
    assert line.endswith(f"{both}: make two tokens, or set FEED_JWT_SECRET")
    assert error("--publish", "a", "--admin", **settings).endswith(f"{both}: set FEED_JWT_SECRET")
    line = error("--subscribe", "a", jwt_secret="", publisher_jwt_secret=SECRET)
    assert line.endswith("FEED_PUBLISHER_JWT_SECRET can only grant publishing: set FEED_JWT_SECRET")


def test_a_key_that_only_verifies_is_told_from_none() -> None:
    line = error("--publish", "a", jwt_secret="", jwt_public_key=public(ED))
    assert line.endswith("FEED_JWT_PUBLIC_KEY verifies tokens and cannot sign them: give --private-key FILE")


def test_a_shell_gets_the_token_and_can_hand_it_back() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FEED_")}
    script = (
        "TOKEN=$($FEED token --publish 'a/**') && $FEED token --check $TOKEN && echo $TOKEN | $FEED token --check -"
    )
    environment |= {"FEED": FEED, "FEED_JWT_SECRET": SECRET}
    done = subprocess.run(["sh", "-ec", script], env=environment, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines().count("the token is valid") == 2


def test_a_token_that_the_keys_here_do_not_take_is_made_with_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(private(ED))
    done = feed_token("--publish", "a", "--private-key", str(file))
    assert granted(done.stdout.strip(), jwt_public_key=public(ED)).publish == ("a",)
    assert "warning: with the keys in this environment the token is not valid" in done.stderr
    done = feed_token(
        *("--publish", "a", "--admin", "--private-key", str(file)), jwt_secret="", publisher_jwt_public_key=public(ED)
    )
    assert "warning: with the keys in this environment the token does not allow all of that" in done.stderr
    assert done.returncode == 0


def test_without_a_key_it_says_how_to_make_one() -> None:
    line = error("--publish", "a", jwt_secret="")
    assert "FEED_JWT_SECRET" in line
    assert "--private-key FILE" in line
    assert "openssl rand -hex 32" in line


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "the token would allow nothing: give --publish"),
        (["--expires", "1h"], "the token would allow nothing"),
        (["--publish", " , "], "the token would allow nothing"),
        (["--publish", "a**"], "--publish: pattern: '*' may only be a whole segment"),
        (["--subscribe", "a//b"], "--subscribe: pattern: a segment may not be empty"),
        (["--publish", "a", "--expires", "soon"], "--expires: a duration is"),
        (["--publish", "a", "--expires", "0"], "--expires: must be at least 1 second"),
        (["--publish", "a", "--expires", "99999999d"], "at most 100 years"),
        (["--publish", "a", "--subject", ""], "--subject: must be 1 to 255 characters"),
        (["--publish", "a", "--private-key", "/nowhere"], "--private-key /nowhere: cannot be read: No such file"),
        (["--publish", "a", "--private-key", "/dev/null"], "--private-key /dev/null: is not a private key"),
        (["--publish", "a", "--check", "x"], "--check explains an existing token"),
        (["--publish", " ".join(map(str, range(101)))], "--publish: a token may have at most 100 patterns"),
        (["--publish", " ".join(f"{number:0200}" for number in range(100))], "the token would be longer than"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments: list[str], text: str) -> None:
    assert text in error(*arguments)


def test_a_wrong_setting_is_one_line_that_does_not_show_it() -> None:
    assert error("--publish", "a", jwt_secret="quite short").startswith("feed token: FEED_JWT_SECRET: is too short")
    assert "quite short" not in error("--publish", "a", jwt_secret="quite short")


def test_it_explains_itself() -> None:
    text = " ".join(feed_token("--help").stdout.split())
    for word in ("--publish PATTERN", "--expires TIME", "--check TOKEN|-", "FEED_JWT_SECRET", "TOKEN=$(feed token"):
        assert word in text
    assert SECRET not in text


# Explaining one.


def test_a_valid_token_is_explained() -> None:
    code, lines = said(saying(sub="alice", feed=ALLOWED, exp=NOW + 3 * 86400 + 3600))
    assert code == 0
    assert lines[0] == "the token is valid"
    assert lines[1:5] == ["  subject    alice", "  publish    a/**", "  subscribe  b/*", "  admin      yes"]
    assert re.fullmatch(r"  until      \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC \(in 3 days\)", lines[5])
    assert lines[6] == "  signed     HS256"
    assert json.loads(lines[7].removeprefix("  claims"))["sub"] == "alice"


def test_a_token_on_standard_input_is_explained() -> None:
    code, lines = said("-", stdin=f"{saying(feed=ALLOWED)}\n")
    assert (code, lines[0]) == (0, "the token is valid")


def test_a_token_that_is_not_valid_is_explained_with_what_it_says() -> None:
    code, lines = said(saying(sub="alice", exp=NOW - 7300, feed=ALLOWED))
    assert (code, lines[0]) == (1, "the token is not valid: it has expired")
    assert lines[1] == "its claims, not verified:"
    assert "  subject    alice" in lines
    assert any("(2 hours ago)" in line for line in lines)


def test_a_token_of_another_key_is_not_valid() -> None:
    token = sealed({"alg": "HS256"}, {"exp": LATER, "feed": ALLOWED}, "another secret of quite some length")
    code, lines = said(token)
    assert (code, lines[0]) == (
        1,
        "the token is not valid: no key of this server has signed it (was it made with another secret or key?)",
    )


def test_what_a_separate_key_does_not_reach_is_not_shown_as_granted() -> None:
    _, lines = said(saying(feed=ALLOWED), jwt_secret="", publisher_jwt_secret=SECRET)
    assert lines[2:5] == ["  publish    a/**", "  subscribe  nothing", "  admin      no"]
    assert lines[-1] == "its key grants publishing only"
    _, lines = said(saying(feed=ALLOWED), jwt_secret="", subscriber_jwt_secret=SECRET)
    assert lines[-1] == "its key grants subscribing only"


def test_a_token_that_grants_nothing_by_mistake_is_told() -> None:
    _, lines = said(saying())
    assert lines[-1] == "the claim `feed` is missing: the token allows nothing"
    _, lines = said(saying(feed={"publsh": ["a"], "\x1b": 1, "subscribe": ["a"]}))
    assert lines[-2:] == [
        "`feed` has 'publsh', which means nothing: it may have publish, subscribe, admin",
        "`feed` has '\\x1b', which means nothing: it may have publish, subscribe, admin",
    ]
    _, lines = said(saying(feed=ALLOWED))
    assert "means nothing" not in lines[-1]


def test_without_a_key_nothing_is_verified_and_it_says_so() -> None:
    code, lines = said(saying(sub="alice", feed=ALLOWED), jwt_secret="")
    assert code == 1
    assert lines[0].startswith("nothing was verified: there is no key")
    assert "  subject    alice" in lines
    assert not any("is valid" in line for line in lines)


@pytest.mark.parametrize(
    "token",
    ["", "garbage", "a.b.c", "é", "x" * 20_000, sealed(b"[" * 5_000, {}), sealed({"alg": "HS256"}, b"[" * 5_000)],
)
def test_what_is_no_token_is_one_line(token: str) -> None:
    code, lines = said("-", stdin=token)
    (line,) = lines
    assert (code, line.startswith("the token is not valid: it ")) == (1, True)


def test_claims_that_are_not_understood_are_shown_as_they_are() -> None:
    code, lines = said(saying(feed={"publish": 5}))
    assert code == 1
    assert lines[0].startswith("the token is not valid: `feed` is not an object such as")
    assert json.loads(lines[-1].removeprefix("  claims"))["feed"] == {"publish": 5}


def test_nothing_in_a_token_steers_the_terminal() -> None:
    odd = "\x1b[2J\x07\r\n\u202e"
    raw = json.dumps({"exp": LATER, "sub": odd, "x": "\ud800"}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    for token in (
        saying(sub=odd, feed=ALLOWED),
        sealed({"alg": "HS256", "kid": odd}, {"exp": LATER, "feed": ALLOWED}),
        sealed({"alg": odd}, {"exp": LATER, "sub": "a"}),
        sealed({"alg": "HS256"}, raw),
        sealed({"alg": "HS256"}, json.dumps({"exp": LATER}).encode("utf-16")),
    ):
        done = feed_token("--check", token)
        assert done.returncode in (0, 1)
        assert done.stderr == ""
        assert not set(done.stdout) & set("\x1b\x07\r\u202e")
        assert all(
            line.startswith(("the token is", "its claims", "  ", "the claim")) for line in done.stdout.splitlines()
        )


def test_a_set_of_keys_that_cannot_be_had_says_nothing_of_the_token() -> None:
    token = jwt.encode({"exp": LATER}, EC, "ES256")
    done = feed_token("--check", token, jwt_secret="", jwks_url="http://127.0.0.1:1/keys")
    assert done.returncode == 1
    assert "feed: the server cannot fetch the keys that verify tokens" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"),
        (1.4, "1 second"),
        (119, "119 seconds"),
        (120, "2 minutes"),
        (7200, "2 hours"),
        (172800, "2 days"),
        (30 * 86400 - 5, "30 days"),
    ],
)
def test_how_long_is_said_in_the_largest_unit_of_which_there_are_two(seconds: float, text: str) -> None:
    assert _length(seconds) == text


def test_a_token_is_printed_without_its_secret_or_key(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(private(EC))
    pieces = [SECRET, base64.b64encode(SECRET.encode()).decode(), private(EC)[40:80]]
    for arguments in (["--publish", "a"], ["--publish", "a", "--private-key", str(file)], ["--check", saying()]):
        done = feed_token(*arguments)
        assert not any(piece in done.stdout + done.stderr for piece in pieces)
