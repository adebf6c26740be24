"""Grants: who they let do what, and in what words they refuse."""

from __future__ import annotations

import math
import time
import timeit
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed import FeedError, Forbidden, Unauthenticated
from feed.fastapi.auth.grants import EVERYTHING, NOTHING, Grants
from feed.pattern import covers, matches
from tests.support.topic_strategies import PATTERNS, TOPICS

GRANTS = st.lists(PATTERNS | TOPICS, max_size=3)


def allows(check: Callable[..., object], *arguments: object) -> bool:
    try:
        check(*arguments)
    except Forbidden:
        return False
    return True


@given(GRANTS, TOPICS)
def test_a_topic_may_be_published_to_if_a_pattern_matches(patterns: list[str], topic: str) -> None:
    expected = any(matches(pattern, topic) for pattern in patterns)
    assert allows(Grants(publish=patterns).check_publish, topic) is expected
    assert allows(Grants(publish=patterns).check_publish_all, [topic]) is expected


@given(GRANTS, st.lists(PATTERNS | TOPICS, min_size=1, max_size=3))
def test_patterns_may_be_subscribed_to_if_each_is_covered_by_one_grant(grants: list[str], wanted: list[str]) -> None:
    expected = all(any(covers(grant, pattern) for grant in grants) for pattern in wanted)
    assert allows(Grants(subscribe=grants).check_subscribe, wanted) is expected


def test_two_grants_that_only_together_match_everything_do_not_count() -> None:
    with pytest.raises(Forbidden):
        Grants(subscribe=["a/*", "a/*/**"]).check_subscribe(["a/**"])


def test_each_right_is_a_right_of_its_own() -> None:
    for grants, missing in (
        (Grants(publish=["**"]), {"subscribe", "admin"}),
        (Grants(subscribe=["**"]), {"publish", "admin"}),
        (Grants(admin=True), {"publish", "subscribe"}),
        (EVERYTHING, set()),
        (Grants(), {"publish", "subscribe", "admin"}),
    ):
        found = {
            name
            for name, allowed in {
                "publish": allows(grants.check_publish, "a") and allows(grants.check_publishes_at_all),
                "subscribe": allows(grants.check_subscribe, ["a"]),
                "admin": allows(grants.check_admin),
            }.items()
            if not allowed
        }
        assert found == missing


def test_who_has_not_logged_in_is_asked_to_and_nobody_is_told_of_tokens() -> None:
    with pytest.raises(Unauthenticated, match=r"^not allowed to subscribe to 'a': log in first$"):
        NOTHING.check_subscribe(["a"])
    with pytest.raises(Unauthenticated, match=r"^not allowed to publish: a token is needed$"):
        Grants(anonymous=True, hint="a token is needed").check_publishes_at_all()
    with pytest.raises(Forbidden, match=r"^not allowed to subscribe to 'a'$"):
        Grants().check_subscribe(["a"])
    with pytest.raises(Forbidden, match=r"^not allowed to publish to 'x'$"):
        Grants().check_publish("x")
    with pytest.raises(Forbidden, match=r"^not allowed to do this without `admin`$"):
        Grants().check_admin()


def test_what_is_refused_is_named_but_not_at_any_length() -> None:
    with pytest.raises(Forbidden) as refused:
        Grants(publish=["a"]).check_publish("x" * 1000)
    assert len(str(refused.value)) < 200


def test_a_token_that_has_ended_is_told_from_one_that_has_not() -> None:
    Grants(expires=time.time() + 10).check_not_expired()
    with pytest.raises(Unauthenticated, match="expired") as refused:
        Grants(expires=time.time() - 1).check_not_expired()
    assert refused.value.invalid


def test_a_batch_of_ten_thousand_topics_is_judged_in_milliseconds() -> None:
    grants = Grants(publish=[f"tenants/{number}/orders/*/lines/**" for number in range(100)])
    topics = [f"tenants/{number % 100}/orders/{number}/lines/1" for number in range(10_000)]
    begun = time.process_time()
    grants.check_publish_all(topics)
    assert time.process_time() - begun < 0.2


@pytest.mark.parametrize("rights", [{"publish": "orders/**"}, {"subscribe": "**"}])
def test_one_string_is_no_list_of_patterns(rights: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"is a list of patterns, such as .*, not one string"):
        Grants(**rights)


@pytest.mark.parametrize("right", ["publish", "subscribe"])
@pytest.mark.parametrize(
    ("pattern", "rule"),
    [
        ("a/**/b", r"'\*\*' only the last one"),
        ("users/a*", "whole segment"),
        ("users//x", "empty"),
        ("users/../x", r"'\.\.'"),
        ("users/", "empty"),
        ("", "empty"),
        ("$feed", "reserved"),
        ("users/a b", r"U\+0020"),
        ("x" * 1000, "long"),
    ],
)
def test_a_pattern_that_would_match_nothing_is_refused_when_the_grants_are_made(
    right: str, pattern: str, rule: str
) -> None:
    with pytest.raises(ValueError, match=rule) as refused:
        Grants(**{right: ["orders/*", pattern]})  # type: ignore[arg-type]
    assert str(refused.value).startswith(f"Grants: {right}: {pattern[:128]!r} is not a pattern: ")
    assert "user's name" in str(refused.value)
    assert not isinstance(refused.value, FeedError), "it is the application's fault, and not the caller's"


@pytest.mark.parametrize("patterns", [None, 7, b"a", [None], [7], [b"a"], [["a"]]])
def test_what_is_no_list_of_texts_is_refused(patterns: Any) -> None:
    with pytest.raises(TypeError, match="Grants: subscribe is a list of patterns"):
        Grants(subscribe=patterns)


def test_what_is_changed_later_changes_no_grants() -> None:
    patterns = ["a"]
    grants = Grants(subscribe=patterns)
    patterns.append("**")
    assert grants.subscribe == ("a",)
    assert list(Grants(subscribe={"b": 1}).subscribe) == ["b"]  # type: ignore[arg-type]


@pytest.mark.parametrize("subject", [7, b"ann", UUID(int=7)])
def test_a_subject_is_text_so_that_it_can_be_kicked_by_it(subject: Any) -> None:
    with pytest.raises(TypeError, match=r"subject is text, not \w+: write str\(…\)"):
        Grants(subject=subject)
    with pytest.raises(ValueError, match="subject is empty"):
        Grants(subject="")


def test_grants_end_after_a_quarter_of_an_hour_unless_it_is_said_when() -> None:
    begun = time.time()
    assert begun + 900 <= Grants().expires <= time.time() + 900
    moment = datetime.now(UTC) + timedelta(hours=1)
    assert Grants(expires=moment).expires == moment.timestamp()
    assert Grants(expires=moment.astimezone(timezone(timedelta(hours=5)))).expires == moment.timestamp()
    assert Grants(expires=begun + 5).expires == begun + 5
    assert Grants(expires=math.inf).expires == NOTHING.expires == EVERYTHING.expires == math.inf
    grants = Grants()
    assert msgspec.structs.replace(grants, subject="ann").expires == grants.expires


@pytest.mark.parametrize("expires", ["tomorrow", True, timedelta(minutes=1)])
def test_what_is_no_time_is_refused(expires: Any) -> None:
    with pytest.raises(TypeError, match="expires is a datetime or seconds since 1970"):
        Grants(expires=expires)


def test_times_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ValueError, match="without a time zone"):
        Grants(expires=datetime(2030, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match="milliseconds"):
        Grants(expires=time.time() * 1000)
    with pytest.raises(ValueError, match="beyond all time"):
        Grants(expires=math.nan)


@pytest.mark.parametrize("expires", [900, 0, -1.5, -math.inf, 999_999_999])
def test_a_duration_is_no_moment_and_the_error_says_how_to_write_one(expires: float) -> None:
    with pytest.raises(ValueError, match="a moment, not a duration") as raised:
        Grants(expires=expires)
    assert "time.time() + 900" in str(raised.value)
    assert "timedelta(minutes=15)" in str(raised.value)


def test_a_datetime_is_a_moment_however_long_ago() -> None:
    assert Grants(expires=datetime(1971, 1, 1, tzinfo=UTC)).expires == 365 * 24 * 3600


def test_making_grants_is_cheap() -> None:
    rights: dict[str, Any] = {"publish": ["users/7/**"], "subscribe": ["news/**", "users/7/**"], "subject": "7"}
    seconds = min(timeit.repeat(lambda: Grants(**rights), number=1_000, repeat=5)) / 1_000
    assert seconds < 100e-6
