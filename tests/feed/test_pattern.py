"""Patterns against topics, and the index, whose oracle is `matches`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed.pattern import EVERYTHING, Selection, TopicIndex, covers, literal_prefix, matches, select
from tests.support.topic_strategies import PATTERNS, TOPICS


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", "a/b", False),
        ("a/*", "a/b", True),
        ("a/*", "a", False),
        ("a/*", "a/b/c", False),
        ("*", "a", True),
        ("*", "a/b", False),
        ("*/b", "a/b", True),
        ("*/b", "a/c", False),
        ("a/*/c", "a/b/c", True),
        ("a/**", "a/b", True),
        ("a/**", "a/b/c/d", True),
        ("a/**", "a", False),
        ("a/**", "b/c", False),
        ("*/**", "a/b", True),
        ("*/**", "a", False),
        ("**", "a", True),
        ("**", "a/b/c", True),
    ],
)
def test_a_pattern_matches_these_topics_and_not_those(pattern: str, topic: str, expected: bool) -> None:
    assert matches(pattern, topic) is expected
    assert Selection([pattern]).wants_topic(topic) is expected


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ("orders/**", "orders/*", True),
        ("orders/**", "orders/**", True),
        ("orders/**", "orders/42", True),
        ("orders/**", "orders/*/lines/**", True),
        ("orders/**", "orders", False),
        ("orders/**", "**", False),
        ("orders/**", "*/42", False),
        ("orders/*", "orders/**", False),
        ("orders/*", "orders/*/lines", False),
        ("orders/*", "*/42", False),
        ("orders/*", "*/*", False),
        ("*/42", "orders/42", True),
        ("*/42", "orders/*", False),
        ("*/*", "orders/*", True),
        ("*/*", "**", False),
        ("*/**", "orders/**", True),
        ("*/**", "**", False),
        ("*/**", "orders", False),
        ("*", "orders", True),
        ("*", "**", False),
        ("**", "**", True),
        ("**", "*", True),
        ("orders/42", "orders/*", False),
    ],
)
def test_a_pattern_covers_these_and_not_those(wide: str, narrow: str, expected: bool) -> None:
    assert covers(wide, narrow) is expected


@given(PATTERNS, PATTERNS | TOPICS, TOPICS)
def test_what_a_covered_pattern_matches_the_covering_one_matches(wide: str, narrow: str, topic: str) -> None:
    if covers(wide, narrow) and matches(narrow, topic):
        assert matches(wide, topic)


@given(PATTERNS | TOPICS, PATTERNS | TOPICS)
def test_a_pattern_that_is_not_covered_matches_a_topic_that_the_other_does_not(wide: str, narrow: str) -> None:
    # If there is such a topic, it is one of these: a wildcard's segment is none of the other's names, and `**` is as
    # short as it can be, or longer than the other pattern.
    segments = narrow.removesuffix("**").replace("*", "new")
    longest = "/".join(["new"] * 9)
    topics = [segments] if not narrow.endswith("**") else [f"{segments}new", f"{segments}{longest}"]
    assert all(matches(narrow, topic) for topic in topics)
    assert covers(wide, narrow) == all(matches(wide, topic) for topic in topics)


@given(TOPICS, PATTERNS)
def test_covering_a_topic_is_matching_it(topic: str, pattern: str) -> None:
    assert covers(pattern, topic) == matches(pattern, topic)


@given(PATTERNS, TOPICS)
def test_every_matching_topic_begins_with_the_literal_prefix(pattern: str, topic: str) -> None:
    if matches(pattern, topic):
        assert topic.startswith(literal_prefix(pattern))


@given(st.lists(st.tuples(PATTERNS | TOPICS, st.integers(0, 5)), max_size=30), TOPICS, st.data())
def test_the_index_finds_whom_matches_finds_and_forgets_who_left(
    entries: list[tuple[str, int]], topic: str, data: st.DataObject
) -> None:
    entries = list(dict.fromkeys(entries))
    index: TopicIndex[int] = TopicIndex()
    for pattern, reader in entries:
        index.add(pattern, reader)
    leaving = data.draw(st.lists(st.sampled_from(entries), unique=True)) if entries else []
    for pattern, reader in leaving:
        index.remove(pattern, reader)
    stayed = [entry for entry in entries if entry not in leaving]
    found = {reader for group in index.find(topic) for reader in group}
    assert found == {reader for pattern, reader in stayed if matches(pattern, topic)}
    for pattern, reader in stayed:
        index.remove(pattern, reader)
    assert not index._exact
    assert not index._tree.children
    assert not index._tree.rest


def test_readers_of_one_pattern_come_as_the_same_group_for_each_of_its_topics() -> None:
    index: TopicIndex[int] = TopicIndex()
    for reader in range(3):
        index.add("a/*", reader)
    index.add("a/1", 3)
    (first,), (exact, second) = list(index.find("a/2")), list(index.find("a/1"))
    assert first is second
    assert list(first) == [0, 1, 2]
    assert list(exact) == [3]


@pytest.mark.parametrize(
    ("patterns", "types", "words"),
    [
        ([5], (), "pattern has to be a str, not int: write str(…) around it"),
        ([b"a"], (), "pattern has to be a str, not bytes: write .decode() after it"),
        ([["a", b"b"]], (), "pattern has to be a str, not bytes: write .decode() after it"),
        (b"a", (), "pattern has to be a str, not bytes: write .decode() after it"),
        (None, (), "pattern has to be a str, not NoneType"),
        ("a", b"created", "type has to be a str, not bytes: write .decode() after it"),
        ("a", 5, "type has to be a str, not int: write str(…) around it"),
        ("a", [None], "type has to be a str, not NoneType"),
    ],
)
def test_what_is_no_text_is_no_pattern_and_no_type(patterns: Any, types: Any, words: str) -> None:
    with pytest.raises(TypeError) as raised:
        select(patterns, types)
    assert str(raised.value) == words


def test_a_selection_wants_only_its_types() -> None:
    selection = Selection(["a/*", "b"], ["created"])
    assert selection.wants("a/1", "created")
    assert selection.wants("b", "created")
    assert not selection.wants("a/1", "message")
    assert not selection.wants("c", "created")
    assert EVERYTHING.wants("any/thing", "at.all")
