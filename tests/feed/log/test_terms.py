"""The terms of a publish, and the index of topics: kept by every log alike."""

from __future__ import annotations

import asyncio

import pytest

from feed import NoEvents, PreconditionFailed
from feed.event import Draft, deletion, text_draft
from feed.log import Log
from feed.log.contract import Topic
from feed.log.idempotency import idempotency_key
from feed.terms import DELETED, Terms
from tests.feed.log.conftest import OpenLog

pytestmark = pytest.mark.anyio


def if_match(topic: str, id: str, data: str = "x") -> Draft:
    return _with(text_draft(topic, data), Terms(if_match=id))


def if_new(topic: str, data: str = "x") -> Draft:
    return _with(text_draft(topic, data), Terms(if_none_match=True))


def _with(draft: Draft, terms: Terms) -> Draft:
    return Draft(draft.topic, draft.type, draft.text, draft.is_json, draft.data_bytes, terms)


async def put(log: Log, *drafts: Draft) -> list[str]:
    return (await log.append(drafts)).ids


async def test_an_id_has_to_be_that_of_the_newest_event(log: Log) -> None:
    (first,) = await put(log, text_draft("a", "1"))
    (second,) = await put(log, if_match("a", first))
    with pytest.raises(PreconditionFailed) as failed:
        await put(log, if_match("a", first))
    assert (failed.value.topic, failed.value.current, log.position) == ("a", second, 2)
    with pytest.raises(PreconditionFailed) as failed:
        await put(log, if_match("b", second))
    assert failed.value.current is None


async def test_any_value_matches_the_asterisk_and_a_tombstone_does_not(log: Log) -> None:
    with pytest.raises(PreconditionFailed):
        await put(log, if_match("a", "*"))
    await put(log, text_draft("a", "1"))
    await put(log, if_match("a", "*"))
    (tombstone,) = await put(log, deletion("a"))
    with pytest.raises(PreconditionFailed) as failed:
        await put(log, if_match("a", "*"))
    assert failed.value.current == tombstone


async def test_what_shall_be_new_may_follow_nothing_or_a_tombstone(log: Log) -> None:
    await put(log, if_new("a"))
    with pytest.raises(PreconditionFailed):
        await put(log, if_new("a"))
    await put(log, deletion("a"))
    await put(log, if_new("a"))


async def test_a_deleted_topic_is_not_deleted_again_and_what_is_not_there_cannot_be(log: Log) -> None:
    with pytest.raises(NoEvents):
        await put(log, deletion("a"))
    await put(log, text_draft("a", "1"))
    (tombstone,) = await put(log, deletion("a"))
    assert await put(log, deletion("a")) == [tombstone]
    assert log.position == 2
    (event,) = await log.fetch([2])
    assert (event.type, event.text, event.is_json) == (DELETED, "{}", True)


async def test_a_batch_is_judged_in_order_and_the_event_that_fails_is_named(log: Log) -> None:
    ids = await put(log, if_new("a"), deletion("a"), deletion("a"), if_new("a"), text_draft("b", "1"))
    assert ids[1] == ids[2]
    assert [int(id.partition("-")[2]) for id in ids] == [1, 2, 2, 3, 4]
    with pytest.raises(PreconditionFailed) as failed:
        await put(log, text_draft("c", "1"), if_new("a"))
    assert (failed.value.place, log.position) == (1, 4)
    with pytest.raises(NoEvents) as missing:
        await put(log, text_draft("c", "1"), deletion("d"))
    assert (missing.value.place, missing.value.topic, log.position) == (1, "d", 4)
    ids = await put(log, deletion("a"), deletion("b"), deletion("a"))
    assert [int(id.partition("-")[2]) for id in ids] == [5, 6, 5]


async def test_of_those_who_know_the_same_event_one_wins(log: Log) -> None:
    (first,) = await put(log, text_draft("a", "0"))
    outcomes = await asyncio.gather(
        *(log.append([if_match("a", first, str(number))]) for number in range(20)), return_exceptions=True
    )
    assert sum(isinstance(outcome, PreconditionFailed) for outcome in outcomes) == 19
    assert log.position == 2


async def test_a_key_gives_the_first_answer_before_the_terms_are_judged(log: Log) -> None:
    batch = [if_new("a"), deletion("a"), deletion("a")]
    key = idempotency_key("me", "k", batch, "batch")
    first = await log.append(batch, key)
    again = await log.append(batch, key)
    assert (again.repeated, again.ids, log.position) == (True, first.ids, 2)


async def test_a_refusal_is_not_remembered_under_its_key(log: Log) -> None:
    draft = if_match("a", "*")
    key = idempotency_key("me", "k", [draft])
    with pytest.raises(PreconditionFailed):
        await log.append([draft], key)
    await put(log, text_draft("a", "1"))
    assert not (await log.append([draft], key)).repeated


async def test_terms_belong_to_what_a_key_stands_for() -> None:
    plain = [text_draft("a", "x")]
    keys = [idempotency_key("me", "k", drafts) for drafts in (plain, [if_new("a")], [if_match("a", "*")])]
    assert len({key.fingerprint for key in keys}) == 3


async def test_the_index_has_each_topic_with_its_first_and_its_newest_event(log: Log) -> None:
    await put(log, *(text_draft(topic, "x") for topic in ("a", "b", "a", "c", "a", "b")))
    assert sorted(await log.topics()) == [Topic("a", 1, 5), Topic("b", 2, 6), Topic("c", 4, 4)]


async def test_a_topic_of_which_nothing_is_retained_is_not_in_the_index(opened: OpenLog) -> None:
    log = await opened(events=3)
    await put(log, *(text_draft(topic, "x") for topic in ("a", "b", "b", "c", "c")))
    topics = {topic.name: topic for topic in await log.topics()}
    assert {name: topic.newest for name, topic in topics.items()} == {"b": 3, "c": 5}
    assert topics["b"].first <= 3
    with pytest.raises(NoEvents):
        await put(log, deletion("a"))
    await put(log, if_new("a"))


async def test_events_are_fetched_by_their_seqs(opened: OpenLog) -> None:
    log = await opened(events=4)
    await put(log, *(text_draft("a", str(number)) for number in range(1, 7)))
    assert [event.text for event in await log.fetch([1, 2, 3, 5, 6, 7])] == ["3", "5", "6"]
    assert list(await log.fetch([])) == []


async def test_what_is_fetched_at_once_is_bounded(log: Log) -> None:
    await put(log, *(text_draft("a", "x" * 200_000) for _ in range(10)))
    assert len(await log.fetch(range(1, 11))) == 6


async def test_many_topics_are_all_in_the_index(log: Log) -> None:
    names = [f"t/{number}" for number in range(2_500)]
    await put(log, *(text_draft(name, "x") for name in names))
    await put(log, *(text_draft(name, "x") for name in names[:100]))
    topics = {topic.name: topic for topic in await log.topics()}
    assert len(topics) == 2_500
    assert topics["t/7"] == Topic("t/7", 8, 2_508)
