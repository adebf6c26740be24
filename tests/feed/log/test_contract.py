"""The contract of `feed.log.contract`, kept by every log: one module of tests, each run over all of them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feed import Event, Invalid, LogRefused, Retention
from feed.event import Draft, json_draft, text_draft
from feed.log import IdempotencyKey, Log, open_log
from feed.log.contract import SCAN_EVENTS, Retained
from feed.log.memory import MemoryLog
from feed.log.paging import read_back, read_on
from feed.log.redis.address import parse_address
from feed.pattern import EVERYTHING, Selection
from tests.feed.log.conftest import OpenLog

pytestmark = pytest.mark.anyio

DAY = 24 * 3600


def drafts(*topics: str, data: str = "x") -> list[Draft]:
    return [text_draft(topic, data) for topic in topics]


async def read_all(log: Log, after: int, selection: Selection, limit: int = 100) -> list[Event]:
    events: list[Event] = []
    while after < log.position:
        page = await log.read(after, log.position, selection, limit)
        assert page.end > after, "a page always goes on"
        assert len(page.events) <= limit
        assert all(page.start < event.seq <= page.end for event in page.events)
        after = page.end
        events += page.events
    return events


async def read_all_backward(log: Log, before: int, selection: Selection, limit: int = 100) -> list[Event]:
    pages = []
    while before > log.oldest:
        page = await log.read_backward(before, selection, limit)
        assert page.start + 1 < before, "a page always goes on"
        assert all(page.start < event.seq <= page.end for event in page.events)
        before = page.start + 1
        pages.append(page.events)
    return [event for page in reversed(pages) for event in page]


async def test_a_new_log_is_empty_and_has_a_position_that_can_be_resumed_at(log: Log) -> None:
    assert (log.position, log.oldest) == (0, 1)
    assert await log.locate(log.id_at(0)) == 0
    assert await read_all(log, 0, EVERYTHING) == []


async def test_events_are_numbered_one_two_three_and_come_back_as_they_went_in(log: Log) -> None:
    before = time.time_ns() // 1_000_000
    first = await log.append([text_draft("a/b", "t\0e\r\nxt\u2028", "created")])
    rest = await log.append([json_draft("c", b'{"n": 123456789012345678901234567890}'), text_draft("é", "")])
    assert (first.ids, rest.ids) == ([f"{first.epoch}-1"], [f"{first.epoch}-2", f"{first.epoch}-3"])
    events = await read_all(log, 0, EVERYTHING)
    assert [(e.id, e.topic, e.type, e.text, e.is_json) for e in events] == [
        (first.ids[0], "a/b", "created", "t\0e\r\nxt\u2028", False),
        (rest.ids[0], "c", "message", '{"n": 123456789012345678901234567890}', True),
        (rest.ids[1], "é", "message", "", False),
    ]
    assert all(before <= event.time_ms <= time.time_ns() // 1_000_000 for event in events)


async def test_concurrent_batches_are_each_together_and_in_order(log: Log) -> None:
    async def publish(name: int) -> list[int]:
        seqs = []
        for turn in range(10):
            appended = await log.append([text_draft(f"p{name}", f"{turn}.{part}") for part in range(3)])
            seqs += list(range(appended.first, appended.first + 3))
        return seqs

    seqs = await asyncio.gather(*(publish(name) for name in range(8)))
    assert sorted(seq for each in seqs for seq in each) == list(range(1, 241))
    for name, own in enumerate(seqs):
        events = await read_all(log, 0, Selection([f"p{name}"]))
        assert [event.seq for event in events] == own == sorted(own)
        assert [event.text for event in events] == [f"{turn}.{part}" for turn in range(10) for part in range(3)]


@pytest.mark.parametrize(
    "patterns", [["**"], ["a/1"], ["a/*"], ["a/**"], ["*/1"], ["*"], ["a/1", "c"], ["nothing/**"], ["c", "b/**"]]
)
@pytest.mark.parametrize("types", [[], ["created"], ["created", "message"], ["other"]])
async def test_reading_gives_what_the_selection_wants_in_both_directions(
    log: Log, patterns: list[str], types: list[str]
) -> None:
    topics = ["a/1", "a/2", "a/1/x", "b/1", "c"]
    everything = [
        text_draft(topics[number * 7 % 5], str(number), "created" if number % 3 else "message") for number in range(60)
    ]
    await log.append(everything)
    selection = Selection(patterns, types)
    expected = [
        (place, draft.topic) for place, draft in enumerate(everything, 1) if selection.wants(draft.topic, draft.type)
    ]
    for limit in (1, 7, 100):
        assert [(e.seq, e.topic) for e in await read_all(log, 0, selection, limit)] == expected
        assert [(e.seq, e.topic) for e in await read_all_backward(log, 61, selection, limit)] == expected
    assert [e.seq for e in await read_all(log, 30, selection)] == [seq for seq, _ in expected if seq > 30]
    assert [e.seq for e in await read_all_backward(log, 30, selection)] == [seq for seq, _ in expected if seq < 30]


async def test_a_pattern_that_matches_very_many_topics_is_read_too(log: Log) -> None:
    await log.append([text_draft(f"orders/{number}", "x") for number in range(500)] + drafts("z"))
    assert len(await read_all(log, 0, Selection(["orders/*"]))) == 500
    assert len(await read_all_backward(log, 502, Selection(["orders/**", "z"]))) == 501
    assert [e.seq for e in await read_all(log, 0, Selection(["*"]))] == [501]


async def test_a_read_looks_at_a_bounded_number_of_events(log: Log) -> None:
    for _ in range(3):
        await log.append([text_draft(f"many/{number}", "x") for number in range(2_000)])
    await log.append(drafts("rare/1"))
    page = await log.read(0, log.position, Selection(["rare/**", "*/none"]), 10)
    assert page.end <= SCAN_EVENTS or page.events
    assert [e.seq for e in await read_all(log, 0, Selection(["*/1", "rare/*"]))] == [2, 2_002, 4_002, 6_001]


async def test_a_page_ends_at_its_bytes_and_is_never_stuck_at_a_large_event(log: Log) -> None:
    await log.append(drafts(*["a"] * 10, data="x" * 400_000))
    page = await log.read(0, 10, EVERYTHING, 100)
    assert 1 <= len(page.events) < 10
    assert page.end == page.events[-1].seq
    assert [e.seq for e in await read_all(log, 0, EVERYTHING)] == list(range(1, 11))
    assert [e.seq for e in await read_all_backward(log, 11, Selection(["a"]))] == list(range(1, 11))


async def test_until_bounds_what_is_read(log: Log) -> None:
    await log.append(drafts(*["a"] * 10))
    page = await log.read(2, 5, EVERYTHING, 100)
    assert ([e.seq for e in page.events], page.end) == ([3, 4, 5], 5)


@pytest.mark.parametrize("limits", [{"events": 50}, {"bytes": 50 * 100}])
async def test_retention_takes_the_oldest_and_a_read_says_where_it_began(
    opened: OpenLog, limits: dict[str, float]
) -> None:
    log = await opened(**limits)
    for _ in range(40):
        await log.append(drafts(*["abcdefghij"[:10]] * 10, data="x" * (100 - 64 - 10 - len("message"))))
    assert (log.position, log.oldest) == (400, 351)
    page = await log.read(0, log.position, EVERYTHING, 1000)
    assert (page.start, page.events[0].seq) == (350, 351)
    assert [e.seq for e in await read_all(log, 0, EVERYTHING)] == list(range(351, 401))
    page = await log.read(360, log.position, EVERYTHING, 1000)
    assert page.start == 360
    assert [e.seq for e in await read_all_backward(log, 401, EVERYTHING)] == list(range(351, 401))
    assert await log.locate(log.id_at(10)) == 10, "an expired id is still a valid one"


async def test_retention_by_age_can_take_everything_and_numbers_go_on(opened: OpenLog) -> None:
    log = await opened(age=0.05)
    await log.append(drafts("a", "a"))
    async with asyncio.timeout(10):
        while log.oldest <= log.position:
            await asyncio.sleep(0.01)
    assert (log.position, log.oldest) == (2, 3)
    assert (await log.read(0, 2, EVERYTHING, 10)).events == []
    assert (await log.append(drafts("a"))).first == 3


async def test_more_events_at_once_than_retention_keeps_are_trimmed_at_once(opened: OpenLog) -> None:
    log = await opened(events=5)
    await log.append(drafts(*["a"] * 50))
    assert log.oldest == 46
    assert [e.seq for e in await read_all(log, 45, EVERYTHING)] == [46, 47, 48, 49, 50]


@pytest.mark.parametrize("limits", [{"events": 50}, {"bytes": 50 * 100}])
async def test_it_says_how_much_it_retains(opened: OpenLog, limits: dict[str, float]) -> None:
    log = await opened(**limits)
    assert log.retained == Retained(0, 0)
    for count in (1, 20, 49, 50, 50):
        await log.append(drafts(*["a" * 10] * (count - log.retained.events), "b" * 10, data="x" * 19))
        kept = min(50, count + 1)
        assert log.retained == Retained(kept, kept * (10 + len("message") + 19 + 64))


async def test_it_says_that_nothing_is_retained_when_all_is_too_old(opened: OpenLog) -> None:
    log = await opened(age=0.05)
    await log.append(drafts("a", "a"))
    async with asyncio.timeout(15):
        while log.retained != Retained(0, 0):
            await asyncio.sleep(0.01)
    assert log.position == 2


async def test_it_says_when_its_oldest_event_was_committed(opened: OpenLog) -> None:
    log = await opened(events=2)
    at_first = log.oldest_time
    assert at_first is None
    times: list[int] = []
    for _ in range(3):
        await log.append(drafts("a"))
        times.append((await read_all(log, log.position - 1, EVERYTHING))[0].time_ms)
        async with asyncio.timeout(10):
            while log.oldest_time != times[-2 if len(times) > 1 else -1]:  # a log on Redis finds out within a second
                await asyncio.sleep(0.01)
            while time.time_ns() // 1_000_000 <= times[-1]:
                await asyncio.sleep(0)
    assert len(set(times)) == 3


async def test_each_commit_is_timed_where_there_is_one(opened: OpenLog) -> None:
    log = await opened()
    begun = time.perf_counter()
    for _ in range(3):
        await log.append(drafts("a", "b"))
    assert sum(log.commits.counts) == (0 if isinstance(log, MemoryLog) else 3)
    assert 0 <= log.commits.sum < time.perf_counter() - begun
    assert (log.commits.sum > 0) is not isinstance(log, MemoryLog)


@pytest.mark.parametrize(
    "id",
    [
        "",
        "x",
        "-",
        "-1",
        "1",
        "nothere0-1",
        "{epoch}",
        "{epoch}-",
        "{epoch}-x",
        "{epoch}-01",
        "{epoch}--1",
        "{epoch}-4",
        "{epoch}-1 ",
        " {epoch}-1",
        "{epoch}-1\n",
        "{epoch}-99999999999999999999",
        "{epoch}-٣",
        "x" * 10_000,
        "é-1",
        "\0",
    ],
)
async def test_any_other_id_is_not_of_this_log(log: Log, id: str) -> None:
    appended = await log.append(drafts("a", "a", "a"))
    assert await log.locate(f"{appended.epoch}-3") == 3
    assert await log.locate(f"{appended.epoch}-0") == 0
    assert await log.locate(id.format(epoch=appended.epoch)) is None


async def test_following_gives_every_event_once_and_in_order_wherever_it_begins(log: Log) -> None:
    await log.append(drafts(*["a"] * 30))

    async def follow(after: int) -> list[int]:
        seqs: list[int] = []
        async for batch in log.follow(after):
            seqs += [event.seq for event in batch]
            if seqs[-1] == 130:
                break
        return seqs

    followers = [asyncio.create_task(follow(after)) for after in (0, 17, 30)]
    for _ in range(50):
        await log.append(drafts("b", "b"))
        await asyncio.sleep(0)
    assert [await follower for follower in followers] == [
        list(range(1, 131)),
        list(range(18, 131)),
        list(range(31, 131)),
    ]


async def test_a_follower_that_does_not_come_for_long_misses_nothing(log: Log) -> None:
    follower = log.follow(0)
    await log.append(drafts("a"))
    assert [e.seq for e in await anext(follower)] == [1]
    for _ in range(5):
        await log.append(drafts(*["b"] * 9_000))
    seqs: list[int] = []
    async for batch in follower:
        seqs += [event.seq for event in batch]
        if seqs[-1] == log.position:
            break
    assert seqs == list(range(2, 45_002))


# Holes: events that somebody else has deleted from under the log.

Remove = Callable[[Log, Collection[int]], None]


@pytest.fixture(params=["sqlite", "redis"])
async def holed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Log, Remove]]:
    """A log that outlives its process, and what deletes events from it behind its back."""
    path = tmp_path / "holed.db"
    url = f"sqlite:{path}"
    redis = request.getfixturevalue("shared_redis") if request.param == "redis" else None
    if redis is not None:
        url = redis.url(secrets.token_hex(8))

    def remove(log: Log, seqs: Collection[int]) -> None:
        if redis is not None:
            redis.command("XDEL", parse_address(url).keys[0], *(f"0-{seq}" for seq in seqs))
            return
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.executemany("DELETE FROM feed_events WHERE seq = ?", [(seq,) for seq in seqs])

    log = await open_log(url, Retention())
    yield log, remove
    await log.close()


Part = tuple[int, list[int], int]
"""Where a page begins, the seqs in it, and where it ends."""


async def parts(log: Log, selection: Selection, limit: int) -> list[Part]:
    """Page after page, forward."""
    found: list[Part] = []
    after = 0
    while after < log.position:
        page = await read_on(log, after, log.position, selection, limit)
        assert page.end > after, "a page always goes on"
        found.append((page.start, [event.seq for event in page.events], page.end))
        after = page.end
    return found


async def parts_backward(log: Log, selection: Selection, limit: int) -> list[Part]:
    found: list[Part] = []
    before = log.position + 1
    while before > log.oldest:
        page = await read_back(log, before, selection, limit)
        assert page.start + 1 < before, "a page always goes on"
        found.append((page.start, [event.seq for event in page.events], page.end))
        before = page.start + 1
    return found


@pytest.mark.parametrize("patterns", [["**"], ["even"], ["o*"]])
@pytest.mark.parametrize("gone", [{5}, {4, 5, 6, 9}, {1, 2}, {9, 10}, set(range(1, 11))])
async def test_no_page_spans_a_hole(holed: tuple[Log, Remove], patterns: list[str], gone: Collection[int]) -> None:
    log, remove = holed
    await log.append(drafts(*["odd", "even"] * 5))
    remove(log, gone)
    selection = Selection(patterns)
    topics = {seq: "odd" if seq % 2 else "even" for seq in range(1, 11)}
    wanted = [seq for seq in topics if seq not in gone and selection.wants_topic(topics[seq])]
    for limit in (1, 3, 100):
        for direction in (parts, parts_backward):
            pages = await direction(log, selection, limit)
            assert sorted(seq for _, seqs, _ in pages for seq in seqs) == wanted
            looked_at = [seq for start, _, end in pages for seq in range(start + 1, end + 1)]
            assert sorted(looked_at) == sorted(set(topics) - set(gone)), "a hole is between two pages, never in one"


async def test_a_hole_far_from_the_next_event_is_seen_too(holed: tuple[Log, Remove]) -> None:
    log, remove = holed
    await log.append(drafts("rare"))
    await log.append(drafts(*["noise"] * 5_000))
    await log.append(drafts("rare"))
    remove(log, {1_000})
    pages = await parts(log, Selection(["rare"]), 10)
    assert [seqs for _, seqs, _ in pages if seqs] == [[1], [5_002]]
    assert any(start == 1_000 for start, _, _ in pages)


async def test_following_goes_on_behind_a_hole(holed: tuple[Log, Remove]) -> None:
    log, remove = holed
    await log.append(drafts(*["a"] * 10))
    remove(log, {4, 5})
    seqs: list[int] = []
    async for batch in log.follow(0):
        seqs += [event.seq for event in batch]
        if seqs[-1] == 10:
            break
    assert seqs == [1, 2, 3, 6, 7, 8, 9, 10]


async def test_a_key_is_answered_once_also_at_the_same_time(log: Log) -> None:
    key = IdempotencyKey("somebody", "k", b"fingerprint")
    answers = await asyncio.gather(*(log.append(drafts("a", "b"), key) for _ in range(5)))
    assert {tuple(answer.ids) for answer in answers} == {tuple(answers[0].ids)}
    assert sorted(answer.repeated for answer in answers) == [False, True, True, True, True]
    assert log.position == 2
    with pytest.raises(Invalid, match="Idempotency-Key"):
        await log.append(drafts("c"), IdempotencyKey("somebody", "k", b"another"))
    assert (await log.append(drafts("c"), IdempotencyKey("another", "k", b"another"))).first == 3
    assert (await log.append(drafts("c"), IdempotencyKey("somebody", "k2", b"another"))).first == 4


async def test_keys_are_bounded_the_oldest_are_forgotten(opened: OpenLog) -> None:
    log = await opened(keys=10)
    for number in range(15):
        await log.append(drafts("a"), IdempotencyKey("s", str(number), b"f"))
    assert (await log.append(drafts("a"), IdempotencyKey("s", "14", b"f"))).first == 15
    assert (await log.append(drafts("a"), IdempotencyKey("s", "0", b"f"))).first == 16


async def test_a_cancelled_publish_is_there_whole_or_not_at_all(log: Log) -> None:
    publishing = asyncio.create_task(log.append(drafts("a", "a", "a")))
    await asyncio.sleep(0)
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    await log.append(drafts("b"))
    assert [e.topic for e in await read_all(log, 0, EVERYTHING)] in (["b"], ["a", "a", "a", "b"])


async def test_the_position_before_a_time_is_found(log: Log) -> None:
    times = []
    for _ in range(20):
        await log.append(drafts("a"))
        times.append((await read_all(log, log.position - 1, EVERYTHING))[0].time_ms)
        while time.time_ns() // 1_000_000 <= times[-1]:
            await asyncio.sleep(0)
    assert await log.before_time(0) == 0
    assert await log.before_time(times[-1] + 1_000) == 20
    for time_ in times:
        position = await log.before_time(time_)
        assert all(earlier < time_ for earlier in times[:position])
        assert times[position] >= time_


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_times_never_go_back_whatever_the_clock_does(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "memory:" if kind == "memory" else f"sqlite:{tmp_path / 'clock.db'}"
    minute = 60_000
    clock = 1_800_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: clock * 1_000_000)
    log = await open_log(url, Retention())
    begun = clock
    for step in (0, 1, -30, 0, 29, 2):
        clock += step * minute
        await log.append(drafts("a"))
        if kind == "sqlite":
            await log.close()
            log = await open_log(url, Retention())
    times = [(event.time_ms - begun) // minute for event in await read_all(log, 0, EVERYTHING)]
    assert times == [0, 1, 1, 1, 1, 2]
    assert [await log.before_time(begun + time_ * minute) for time_ in (0, 1, 2, 3)] == [0, 1, 5, 6]
    await log.close()


async def test_a_log_that_works_says_so(log: Log) -> None:
    await log.check()


@pytest.mark.parametrize("url", ["", "memory", "memory:x", "sqlite", "sqlite:", "postgres://x", "feed.db"])
async def test_an_unknown_log_is_refused_with_what_to_use(url: str) -> None:
    with pytest.raises(LogRefused, match="use memory:, sqlite:PATH or redis://"):
        await open_log(url, Retention())


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("sqlite:///x.db", "sqlite:x.db (in the working directory) or sqlite:/x.db?"),
        ("sqlite://x.db", "sqlite:x.db?"),
        ("sqlite://", "memory:?"),
        ("sqlite:///:memory:", "memory:?"),
        ("sqlite::memory:", "memory:?"),
        ("sqlite:file:x.db?mode=rwc", "sqlite:x.db?"),
        ("sqlite:x.db?timeout=5", "sqlite:x.db?"),
        ("sqlite:x.db ", "sqlite:x.db?"),
        ("sqlite:x\0.db", "sqlite:x.db?"),
        ("sqlite+aiosqlite:///x.db", "sqlite:x.db (in the working directory) or sqlite:/x.db?"),
        ("sqlite3:/var/x.db", "sqlite:/var/x.db?"),
        ("SQLite:x.db", "sqlite:x.db?"),
        ("file:x.db", "sqlite:x.db?"),
        ("x.db", "sqlite:x.db?"),
        ("memory", "memory:?"),
        ("memory://", "memory:?"),
        (":memory:", "memory:?"),
    ],
)
async def test_a_log_that_others_would_write_so_is_refused_with_what_was_meant(url: str, meant: str) -> None:
    with pytest.raises(LogRefused) as refused:
        await open_log(url, Retention())
    assert str(refused.value).endswith(f"did you mean {meant}")


async def test_a_path_may_be_absolute_however_many_slashes_that_takes(tmp_path: Path) -> None:
    for slashes in ("", "///"):
        log = await open_log(f"sqlite:{slashes}{tmp_path}/feed.db", Retention())
        await log.append(drafts("a"))
        await log.close()
    assert log.position == 2


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.text(st.characters(exclude_categories=["Cs"])))
async def test_any_text_comes_back(log: Log, data: str) -> None:
    await log.append([text_draft("a", data)])
    assert (await log.read(log.position - 1, log.position, EVERYTHING, 1)).events[0].text == data
