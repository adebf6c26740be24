"""`feed serve --check`: the settings are judged, and nothing is opened."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import feed, one_line


def test_it_says_what_would_be_served_and_opens_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        log = f"sqlite:{tmp_path / 'missing' / 'feed.db'}"
        result = feed("serve", "--check", "--port", port, "--log", log, "--retain-bytes", "1G", jwt_secret="x" * 32)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode().splitlines() == [
        "the settings are valid; feed serve would use",
        f"  address     127.0.0.1:{port}, 1 process",
        f"  log         {log}",
        "  retention   at most 100,000 events, 7d, 1G",
        "  access      tokens (FEED_JWT_SECRET)",
    ]
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_tried_is_shown_without_its_secrets() -> None:
    log = "redis://user:secret@127.0.0.1:1/0"
    result = feed("serve", "--check", "--workers", "3", "--log", log, jwks_url="http://user:secret@127.0.0.1:1/keys")
    text = result.stdout.decode()
    assert result.returncode == 0
    assert "secret" not in text
    assert "3 processes" in text
    assert "redis://user:***@127.0.0.1:1/0, shared by all nodes" in text
    assert "  keys        fetched from FEED_JWKS_URL (not tried here)" in text


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (["--port", "x"], {}),
        (["--log", "nonsense"], {}),
        (["--log", "memory:", "--workers", "2"], {}),
        (["--host", "0.0.0.0"], {}),
        ([], {"jwks_url": "ftp://example.org"}),
        ([], {"jwt_public_key": "/nowhere/key.pem"}),
        ([], {"jwt_secret": "short"}),
        ([], {"jwt_secret": ""}),
        ([], {"jwt_secret": "x" * 32, "publisher_jwt_secret": "x" * 32}),
    ],
)
def test_what_serve_refuses_is_refused_in_the_same_words_with_exit_code_2(
    arguments: list[str], settings: dict[str, Any]
) -> None:
    checked, served = (feed("serve", *more, *arguments, **settings) for more in (["--check"], []))
    assert checked.returncode == 2
    assert one_line(checked).partition(": ")[2] == one_line(served).partition(": ")[2]
    assert served.returncode in {1, 2}


def test_a_variable_that_is_not_a_setting_is_named() -> None:
    result = feed("serve", "--check", prot="9000")
    assert result.returncode == 0
    assert one_line_of_errors(result.stderr).startswith("feed serve: FEED_PROT is ")


def one_line_of_errors(errors: bytes) -> str:
    """The line, as there is only one."""
    (line,) = errors.decode().splitlines()
    return line


def test_the_classes_of_retention_are_shown_and_one_that_no_topic_can_reach_is_named() -> None:
    result = feed("serve", "--check", retain="runs/**=1h; runs/1=5; scores/**=100MB,latest")
    lines = result.stdout.decode().splitlines()
    assert result.returncode == 0
    assert lines[4:8] == [
        "  class       runs/**=1h",
        "  class       runs/1=5",
        "  class       scores/**=latest,100MB",
        "  warning     no topic belongs to runs/1: runs/**, in front of it, has them all",
    ]


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--retain", "runs", "PATTERN=BOUNDS"),
        ("--retain", "runs/**=0", "more than 0"),
        ("--max-kept", "5", "a number of topics and a size"),
        ("--max-kept", "5,latest", "a number of topics and a size"),
    ],
)
def test_classes_that_cannot_be_are_refused_with_words(option: str, value: str, words: str) -> None:
    result = feed("serve", "--check", option, value)
    assert words in one_line(result)
