"""Values that run out, kept by every log alike. FAULTS S5."""

from __future__ import annotations

from pathlib import Path

import pytest

from feed import NoEvents, Overloaded, Retention
from feed.event import Draft, Event, deletion, on_terms, text_draft
from feed.log import Log, open_log
from feed.log.leases import Lease, Leases, lease_changes
from feed.terms import DELETED, Terms
from tests.feed.log.conftest import OpenLog
from tests.support.crowd import until

pytestmark = pytest.mark.anyio

LONG = 3_600_000
SOON = 1_500  # long enough for a busy machine to do something else before


def leased(topic: str, ttl: int, data: str = "x") -> Draft:
    return on_terms(text_draft(topic, data), Terms(ttl=ttl))


async def events_of(log: Log, count: int) -> list[Event]:
    """Wait until the log has so many events, and return them."""
    await until(lambda: log.position >= count)
    assert log.position == count
    return list(await log.fetch(range(1, count + 1)))


async def types_of(log: Log, count: int) -> list[tuple[str, str]]:
    return [(event.topic, event.type) for event in await events_of(log, count)]


async def test_a_value_runs_out_once_and_a_tombstone_follows(log: Log) -> None:
    await log.append([leased("a", 30), text_draft("b", "x")])
    *_, last = await events_of(log, 3)
    assert (last.topic, last.type, last.text, last.is_json) == ("a", DELETED, "{}", True)
    await log.append([leased("c", 30)])
    assert await types_of(log, 5) == [
        ("a", "message"),
        ("b", "message"),
        ("a", DELETED),
        ("c", "message"),
        ("c", DELETED),
    ]


async def test_a_newer_event_ends_the_lease_of_the_one_before(log: Log) -> None:
    await log.append([leased("a", SOON), leased("b", SOON), leased("c", LONG)])
    await log.append([text_draft("a", "stays"), leased("c", SOON)])
    gone = {event.topic for event in (await events_of(log, 7))[5:]}
    assert gone == {"b", "c"}


async def test_within_one_batch_the_last_event_of_a_topic_counts(log: Log) -> None:
    await log.append([leased("a", 30), text_draft("a", "stays"), text_draft("b", "x"), leased("b", 30)])
    assert (await types_of(log, 5))[-1] == ("b", DELETED)


async def test_what_is_deleted_does_not_run_out_once_more(log: Log) -> None:
    await log.append([leased("a", 30), deletion("a"), leased("b", 60)])
    assert [type for _, type in await types_of(log, 4)] == ["message", DELETED, "message", DELETED]


async def test_a_lease_is_renewed_without_an_event(log: Log) -> None:
    await log.append([leased("a", SOON), leased("b", SOON + 100)])
    await log.renew("a", LONG)
    assert (await types_of(log, 3))[-1] == ("b", DELETED)


async def test_a_renewal_may_end_a_value_sooner_and_gives_one_that_had_none_a_lease(log: Log) -> None:
    await log.append([leased("a", LONG), text_draft("b", "x")])
    await log.renew("a", 30)
    await log.renew("b", 60)
    assert {topic for topic, _ in (await types_of(log, 4))[2:]} == {"a", "b"}


async def test_only_a_value_can_be_renewed(opened: OpenLog) -> None:
    log = await opened(events=2)
    with pytest.raises(NoEvents):
        await log.renew("a", LONG)
    await log.append([text_draft("a", "x")])
    await log.append([deletion("a")])
    with pytest.raises(NoEvents):
        await log.renew("a", LONG)
    await log.append([leased("b", LONG)])
    await log.append([text_draft("c", "x")])
    await log.append([text_draft("c", "x")])
    with pytest.raises(NoEvents):
        await log.renew("b", LONG)


async def test_a_topic_that_retention_has_taken_leaves_no_tombstone(opened: OpenLog) -> None:
    log = await opened(events=2)
    await log.append([leased("a", SOON)])
    await log.append([text_draft("b", "x"), text_draft("b", "x"), leased("c", SOON + 100)])
    assert [(event.topic, event.type) for event in await _until(log, 5)] == [("c", "message"), ("c", DELETED)]


async def _until(log: Log, position: int) -> list[Event]:
    await until(lambda: log.position >= position)
    return list(await log.fetch(range(log.oldest, log.position + 1)))


async def test_many_that_run_out_together_go_in_bounded_steps(log: Log) -> None:
    await log.append([leased(f"t/{number}", 50) for number in range(1_200)])
    events = await events_of(log, 2_400)
    assert {event.topic for event in events[1_200:]} == {f"t/{number}" for number in range(1_200)}
    assert all(event.type == DELETED for event in events[1_200:])


@pytest.mark.parametrize("scheme", ["sqlite", "redis"])
async def test_a_log_that_comes_back_gives_each_lease_its_full_time(
    scheme: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:{tmp_path / 'a.db'}" if scheme == "sqlite" else request.getfixturevalue("shared_redis").url("leases")
    log = await open_log(url, Retention())
    await log.append([leased("a", 400), leased("b", LONG)])
    await log.close()
    log = await open_log(url, Retention())
    try:
        assert (await types_of(log, 3))[-1] == ("a", DELETED)
        await log.renew("b", 30)
        assert (await types_of(log, 4))[-1] == ("b", DELETED)
    finally:
        await log.close()


async def test_a_value_runs_out_once_on_two_nodes(shared_redis: object, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("shared_redis").url("two-nodes")
    one, other = await open_log(url, Retention(), "one"), await open_log(url, Retention(), "other")
    try:
        for number in range(20):
            await one.append([leased(f"t/{number}", 30 + number)])
        await until(lambda: one.position >= 40 and other.position >= 40)
        await one.append([leased("last", 30)])
        await until(lambda: one.position >= 42 and other.position >= 42)
        assert one.position == other.position == 42
    finally:
        await one.close()
        await other.close()


async def test_a_node_ends_the_leases_of_one_that_is_gone(request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("shared_redis").url("gone-node")
    gone, stays = await open_log(url, Retention(), "gone"), await open_log(url, Retention(), "stays")
    try:
        await gone.append([leased("a", 50)])
        await gone.close()
        await until(lambda: stays.position >= 2)
        (_, last) = await stays.fetch([1, 2])
        assert (last.topic, last.type) == ("a", DELETED)
    finally:
        await stays.close()


# The leases of a log in one process, without the log.


def test_a_lease_too_many_is_refused_and_a_renewed_one_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feed.log.leases.MAX_LEASES", 2)
    leases = Leases()
    leases.change(lease_changes(leases, {}, [(leased("a", 10), 1), (leased("b", 10), 2)]), 0.0)
    assert lease_changes(leases, {}, [(leased("a", 20), 3)]) == {"a": Lease(3, 20)}
    with pytest.raises(Overloaded, match="which is the most there may be"):
        lease_changes(leases, {}, [(leased("c", 10), 3)])


def test_leases_that_are_renewed_for_ever_take_no_more_memory() -> None:
    leases = Leases()
    for second in range(20_000):
        leases.set("a", Lease(1, 1_000), float(second))
    assert len(leases._queue) < 2_000
    assert leases.next_due() == 20_000.0


def test_what_could_not_be_ended_runs_out_later() -> None:
    leases = Leases()
    leases.set("a", Lease(1, 1_000), 0.0)
    assert leases.run_out(0.5) == []
    assert leases.run_out(1.0) == ["a"]
    leases.delay(["a"], 5.0)
    assert leases.run_out(4.0) == []
    assert leases.run_out(5.0) == ["a"]
    leases.end("a")
    assert (len(leases), leases.next_due()) == (0, None)
