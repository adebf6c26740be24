"""The settings: what is read from the environment, how sizes and durations are written, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from feed.units import duration_text, parse_duration, parse_size, size_text
from feed_server.setting_errors import problems
from feed_server.settings import Settings, option_and_variable, variable

KEYS = [name for name in Settings.model_fields if name.endswith(("jwt_secret", "jwt_public_key", "jwks_url"))]


@pytest.mark.parametrize(
    ("text", "size"),
    [("65536", 65536), ("64K", 65536), ("64k", 65536), ("64 KiB", 65536), ("2MB", 2 << 20), ("1G", 1 << 30), ("5b", 5)],
)
def test_a_size_is_bytes_or_has_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15", 15), ("0.2", 0.2), ("500ms", 0.5), ("15s", 15), ("10 m", 600), ("2H", 7200), ("7d", 604800)],
)
def test_a_duration_is_seconds_or_has_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "K", "-1", "1.5M", "1T", "1e3", "x"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a size is"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "s", "-1", "1w", "1e3", "inf", "nan"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a duration is"):
        parse_duration(text)


@pytest.mark.parametrize("size", [1, 1000, 1024, 1536, 1 << 20, 3 << 30])
def test_a_size_that_is_shown_is_read_as_the_same(size: int) -> None:
    assert parse_size(size_text(size)) == size


@pytest.mark.parametrize("seconds", [0.05, 0.2, 1, 15, 90, 600, 5400, 7200, 604800])
def test_a_duration_that_is_shown_is_read_as_the_same(seconds: float) -> None:
    assert parse_duration(duration_text(seconds)) == seconds


@pytest.fixture
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"FEED_{name.upper()}", raising=False)


@pytest.mark.usefixtures("_nothing_set")
def test_the_defaults_as_they_are_shown_are_the_defaults() -> None:
    shown = Settings.model_construct().model_dump(mode="json")
    assert Settings.model_validate({name: value for name, value in shown.items() if value is not None}) == Settings()


@pytest.mark.usefixtures("_nothing_set")
def test_a_setting_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEED_MAX_DATA", "64K")
    monkeypatch.setenv("FEED_RETRY", "200ms")
    settings = Settings()
    assert settings.options.max_data == 65536
    assert settings.options.limits.retry == 0.2


@pytest.mark.usefixtures("_nothing_set")
def test_what_is_empty_in_the_environment_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEED_PORT", "")
    monkeypatch.setenv("FEED_RETAIN_BYTES", "")
    assert Settings() == Settings.model_construct()


@pytest.mark.usefixtures("_nothing_set")
@pytest.mark.parametrize("value", ["", " ", "\n"])
@pytest.mark.parametrize("name", KEYS)
def test_a_key_that_is_set_and_empty_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable(name), value)
    with pytest.raises(ValidationError) as raised:
        Settings()
    (line,) = problems(raised.value)
    assert variable(name) in line
    assert line.endswith("is empty: give a key, or do not set it")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("host", 5, "has a value that this setting does not take"),
        ("hosts", 5, "has a value that this setting does not take"),
        ("port", "x", "must be a whole number, such as 10"),
        ("max_data", "x", "a size is a number of bytes, or one with K, M or G: 65536, 64K, 16M"),
    ],
)
def test_what_is_wrong_with_a_setting_is_said_in_words_of_our_own(name: str, value: object, words: str) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(ValidationError) as raised:
        Settings(**given)
    assert list(problems(raised.value)) == [f"{option_and_variable(name)}: {words}"]


def test_what_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEED_PORT", "1")
    assert Settings(port=2).port == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("max_data", "0"),
        ("max_data", "9" * 30),
        ("retain_events", "0"),
        ("retain_age", "0"),
        ("retain_age", "9" * 400),
        ("drain", "9" * 30 + "d"),
    ],
)
def test_what_is_out_of_bounds_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Settings.model_validate({name: value})
    assert [error["loc"] for error in raised.value.errors()] == [(name,)]


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
