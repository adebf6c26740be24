"""Grants: who they let do what, and in what words they refuse."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed import Forbidden, Unauthenticated
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


def test_who_has_no_token_is_asked_for_one_and_who_has_one_is_not() -> None:
    with pytest.raises(Unauthenticated, match="a token is needed to subscribe to 'a'"):
        NOTHING.check_subscribe(["a"])
    with pytest.raises(Forbidden, match="this token does not allow to subscribe to 'a'"):
        Grants().check_subscribe(["a"])


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
    with pytest.raises(TypeError, match="lists of patterns"):
        Grants(**rights)
