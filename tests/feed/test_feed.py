"""The feed inside another program: the examples of the pages, run as they stand there."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from feed import (
    EARLIEST,
    Draining,
    Event,
    Feed,
    FeedOptions,
    FeedUnavailable,
    Gap,
    Invalid,
    Limits,
    LogRefused,
    Retention,
    TooLarge,
    draft,
    select,
)
from feed import wire as wire_module
from feed.event import text_draft
from tests.support.doc_blocks import blocks
from tests.support.redis_server import RedisServer
from tests.support.running import START_SECONDS
from tests.support.streams import subscribed


def test_the_library_example_does_what_it_says(tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(blocks("reference/library.md", "As a library")[0])
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\w+-1 orders/1 created \{'total': 3\}\n", done.stdout)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("bogus:", "use memory:, sqlite:PATH or redis:"),
        ("memory", "did you mean memory:"),
        ("redis://localhost:port", "use redis://HOST:PORT/DB"),
        ("redis://localhost/0?stream=a b", "the stream's name"),
    ],
)
def test_a_url_that_names_no_log_is_refused_at_once(url: str, words: str) -> None:
    with pytest.raises(LogRefused, match=words):
        Feed(url)


def test_making_a_feed_imports_no_redis() -> None:
    program = "import sys; from feed import Feed; Feed('redis://localhost'); print('redis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("patterns", [("a", "b/*"), (["a", "b/*"],), (iter(["a", "b/*"]),)])
@pytest.mark.anyio
async def test_patterns_come_one_by_one_or_as_a_list(patterns: Any) -> None:
    async with Feed("memory:") as feed, feed.subscribe(*patterns) as events:
        ids = [await feed.publish(topic, "x") for topic in ("a", "c", "b/1")]
        assert [(await anext(events)).id for _ in range(2)] == [ids[0], ids[2]]


@pytest.mark.parametrize(
    ("patterns", "asked", "words"),
    [
        ((), {}, "pattern: is missing: name a topic"),
        (([],), {}, "pattern: is missing: name a topic"),
        (("a/**/b",), {}, "only the last one"),
        (("a",), {"types": ["a/b"]}, "type: may not contain '/'"),
        (("a",), {"last": 1_001}, "last: has to be a whole number from 1 to 1,000"),
    ],
)
def test_a_mistake_in_a_subscription_raises_at_the_call(patterns: Any, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        Feed("memory:").subscribe(*patterns, **asked)


@pytest.mark.parametrize(
    ("patterns", "asked", "words"),
    [
        ((5,), {}, "pattern has to be a str, not int"),
        ((b"a",), {}, "pattern has to be a str, not bytes"),
        (("a",), {"types": 5}, "type has to be a str, not int"),
        (("a",), {"after": 5}, "after has to be an id, which is a str such as event.id, not int"),
        (("a",), {"last": "5"}, "last has to be a whole number"),
    ],
)
def test_a_value_of_the_wrong_type_raises_at_the_call(patterns: Any, asked: dict[str, Any], words: str) -> None:
    feed = Feed("memory:")
    for call in (feed.subscribe, feed.history):
        with pytest.raises(TypeError, match=words):
            call(*patterns, **asked)


@pytest.mark.anyio
async def test_a_subscription_after_the_position_of_a_client_that_has_none_begins_now() -> None:
    async with Feed("memory:") as feed:
        await feed.publish("a", "old")
        async with feed.subscribe("a", after="") as events:
            id = await feed.publish("a", "new")
            event = await anext(events)
            assert isinstance(event, Event)
            assert event.id == id


@pytest.mark.parametrize(
    ("key", "error", "words"),
    [
        (5, TypeError, "key has to be a str, not int: write str(…) around it"),
        ("", Invalid, "key: must be 1 to 255 visible ASCII characters"),
        ("a b", Invalid, "key: must be 1 to 255 visible ASCII characters"),
        ("x\n", Invalid, "key: must be 1 to 255 visible ASCII characters"),
    ],
)
@pytest.mark.anyio
async def test_a_key_is_visible_ascii(key: Any, error: type[Exception], words: str) -> None:
    async with Feed("memory:") as feed:
        for publishing in (feed.publish("a", "x", key=key), feed.publish_batch([draft("a", "x")], key=key)):
            with pytest.raises(error) as raised:
                await publishing
            assert str(raised.value) == words
        assert (await feed.page("a")).events == []


@pytest.mark.parametrize(
    ("drafts", "words"),
    [
        (draft("a", "x"), "a batch is made of drafts, in a list, and this is a single one: write […] around it"),
        (5, "a batch is made of drafts, in a list such as [draft(topic, data)], not int"),
    ],
)
@pytest.mark.anyio
async def test_what_is_no_list_of_drafts_is_refused_at_the_call(drafts: Any, words: str) -> None:
    async with Feed("memory:") as feed:
        with pytest.raises(TypeError) as raised:
            await feed.publish_batch(drafts)
        assert str(raised.value) == words
        with pytest.raises(TypeError) as raised:
            feed.from_thread.publish_batch(drafts)
        assert str(raised.value) == words


@pytest.mark.anyio
async def test_one_text_is_one_type() -> None:
    async with Feed("memory:") as feed, feed.subscribe("a", types="created") as events:
        await feed.publish("a", "x", type="deleted")
        id = await feed.publish("a", "x", type="created")
        assert (await anext(events)).id == id


@pytest.mark.anyio
async def test_a_subscription_is_for_one_block() -> None:
    async with Feed("memory:") as feed:
        subscribing = feed.subscribe("a")
        async with subscribing:
            assert feed.statistics().subscribers == 1
        assert feed.statistics().subscribers == 0
        with pytest.raises(RuntimeError, match="call subscribe for each block"):
            await subscribing.__aenter__()


@pytest.mark.anyio
async def test_a_batch_is_any_iterable_of_drafts() -> None:
    async with Feed("memory:") as feed:
        ids = await feed.publish_batch(draft("a", number) for number in range(3))
        assert [(event.id, event.data) for event in (await feed.page("a")).events] == [*zip(ids, range(3), strict=True)]
        with pytest.raises(TypeError, match="a batch is made of drafts"):
            await feed.publish_batch([("a", "x")])  # type: ignore[list-item]
        with pytest.raises(Invalid, match="batch: has no event in it"):
            await feed.publish_batch([])


def test_the_application_of_the_page_serves_the_feed_under_its_prefix_and_keeps_its_own_routes(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(blocks("guides/embedding.md", "Inside your FastAPI application")[0])
    command = [sys.executable, "-m", "uvicorn", "shop:app", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            lines: list[str] = []
            while not (found := re.search(r"running on (http://\S+)", lines[-1] if lines else "")):
                lines.append(server.stderr.readline())
                assert lines[-1], "".join(lines)
            url = found[1]
            with subscribed(f"{url}/live/events/orders/*") as stream:
                answer = httpx.post(f"{url}/orders/7", timeout=START_SECONDS)
                frame = stream.frame()
                assert (frame.event, frame.json) == ("created", {"order": 7})
                assert answer.json() == {"event": frame.id}
                refused = httpx.post(f"{url}/live/events/a%20b", content="x")
                assert refused.headers["content-type"] == "application/problem+json"
                assert httpx.get(f"{url}/nothing").json() == {"detail": "Not Found"}, "the host's errors are its own"
                server.terminate()
                assert stream.rest()[-1].event == "feed.closing", "a host that stops takes its leave of the streams"
        finally:
            server.terminate()
            server.wait(20)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_a_feed_opens_at_its_first_use_and_only_once() -> None:
    async def scenario() -> None:
        feed = Feed("memory:")
        ids = await asyncio.gather(*(feed.publish("a", number) for number in range(5)))
        assert sorted(int(id.split("-")[1]) for id in ids) == [1, 2, 3, 4, 5]
        assert len({id.split("-")[0] for id in ids}) == 1
        await feed.close()
        with pytest.raises(FeedUnavailable, match="closed"):
            await feed.publish("a", "x")
        await feed.close()

    run(scenario())


def test_iterating_gives_events_and_gaps_and_ends_with_the_feed() -> None:
    async def scenario() -> None:
        async with Feed("memory:", FeedOptions(retention=Retention(events=2))) as feed:
            first = await feed.publish("a", "0")
            for number in range(1, 5):
                await feed.publish("a", {"n": number})
            got: list[Event | Gap] = []
            async with feed.subscribe("a", after=first) as events:
                async for event in events:
                    got.append(event)
                    if len(got) == 3:
                        feed.drain()
            assert isinstance(got[0], Gap)
            assert (got[0].requested, got[0].reason, got[0].type) == (first, "expired", "feed.gap")
            assert [event.data for event in got[1:] if isinstance(event, Event)] == [{"n": 3}, {"n": 4}]
            with pytest.raises(Draining):
                async with feed.subscribe("a"):
                    pass

    run(scenario())


def test_a_timeout_around_the_next_event_loses_nothing() -> None:
    async def scenario() -> None:
        async with Feed("memory:") as feed, feed.subscribe("a", after=EARLIEST) as events:
            got: list[Event | Gap] = []
            for number in range(20):
                await feed.publish("a", number)
                while len(got) <= number:
                    try:
                        async with asyncio.timeout(0.0005 * (number % 3)):
                            got.append(await anext(events))
                    except TimeoutError:
                        await asyncio.sleep(0)
            assert [isinstance(event, Event) and event.text for event in got] == [str(number) for number in range(20)]

    run(scenario())


def test_publishing_checks_what_http_checks() -> None:
    async def scenario() -> None:
        async with Feed("memory:", FeedOptions(max_data=10)) as feed:
            with pytest.raises(Invalid, match="topic"):
                await feed.publish("a b", "x")
            with pytest.raises(Invalid, match="type"):
                await feed.publish("a", "x", type="feed.gap")
            with pytest.raises(TooLarge, match="10 bytes"):
                await feed.publish("a", "x" * 11)
            with pytest.raises(Invalid, match="no event"):
                await feed.append([])
            with pytest.raises(Invalid, match="pattern"):
                async with feed.subscribe():
                    pass
            assert await feed.publish("a", "x", key="k") == await feed.publish("a", "x", key="k")
            with pytest.raises(Invalid, match="Idempotency-Key"):
                await feed.publish("a", "y", key="k")

    run(scenario())


def test_a_slow_reader_costs_a_bounded_queue_and_gets_everything_late() -> None:
    async def scenario() -> None:
        options = FeedOptions(limits=Limits(queue_events=10, queue_bytes=2_000))
        async with Feed("memory:", options) as feed, feed.subscribe("a") as slow, feed.subscribe("a") as fast:
            largest = 0
            for number in range(500):
                await feed.publish("a", str(number))
                assert (await anext(fast)).text == str(number)
                largest = max(largest, slow.queue.qsize())
            assert largest <= 11
            assert [(await anext(slow)).text for _ in range(500)] == [str(number) for number in range(500)]

    run(scenario())


def test_a_queue_is_bounded_in_bytes_but_an_empty_one_takes_any_event() -> None:
    async def scenario() -> None:
        options = FeedOptions(limits=Limits(queue_events=100, queue_bytes=1_000))
        async with Feed("memory:", options) as feed, feed.subscribe("a") as events:
            for size in (5_000, 600, 600, 5_000):
                await feed.publish("a", "x" * size)
            async with asyncio.timeout(5):
                assert [len((await anext(events)).text) for _ in range(4)] == [5_000, 600, 600, 5_000]

    run(scenario())


def test_an_event_is_encoded_once_per_format_however_many_subscribers_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = {"sse": 0, "message": 0}

    def counting(name: str, encode: Callable[..., bytes]) -> Callable[..., bytes]:
        def counted(*arguments: Any, **named: Any) -> bytes:
            calls[name] += 1
            return encode(*arguments, **named)

        return counted

    for name in calls:
        monkeypatch.setattr(wire_module, name, counting(name, getattr(wire_module, name)))

    async def scenario() -> None:
        async with Feed("memory:") as feed:
            async with AsyncExitStack() as stack:
                subscriptions = [
                    await stack.enter_async_context(feed.subscribe("a", after=EARLIEST if odd % 2 else None))
                    for odd in range(50)
                ]
                ids = [await feed.publish("a", number) for number in range(20)]
                assert len(ids) == 20
                calls.update(sse=0, message=0)

                for subscription in subscriptions:
                    seen = 0
                    while seen < 20:
                        for item in await subscription.take():
                            if isinstance(item, Event):
                                seen += 1
                                assert item.sse
                                assert item.line
                                assert item.envelope
                                assert item.message
            assert calls == {"sse": 20, "message": 20}

    run(scenario())


def test_a_relay_that_breaks_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with Feed("memory:") as feed, feed.subscribe("a") as events:
            await feed.publish("a", "0")
            assert (await anext(events)).text == "0"
            running = feed.running
            assert running is not None
            push, broken = running.broadcaster.push, 0

            def push_or_break(batch: Sequence[Event], size: int) -> None:
                nonlocal broken
                broken += 1
                if broken == 1:
                    running.broadcaster.window.extend(batch)  # and nobody is offered it
                    raise RuntimeError("broken on purpose")
                push(batch, size)

            monkeypatch.setattr(running.broadcaster, "push", push_or_break)
            await feed.publish("a", "1")
            await feed.publish("a", "2")
            async with asyncio.timeout(10):
                assert [(await anext(events)).text for _ in range(2)] == ["1", "2"]

    run(scenario())


def test_a_relay_that_retention_has_overtaken_tells_of_the_gap_and_goes_on() -> None:
    async def scenario() -> None:
        async with Feed("memory:", FeedOptions(retention=Retention(events=100))) as feed, feed.subscribe("a") as events:
            batch = [text_draft("a", "x")] * 10_000
            for _ in range(3):  # nothing in between lets the relay have its turn
                await feed.append(batch)
            last = await feed.publish("a", "last")
            got: list[Event | Gap] = []
            async with asyncio.timeout(20):
                async for event in events:
                    got.append(event)
                    if event.id == last:
                        break
            gaps = [place for place, entry in enumerate(got) if isinstance(entry, Gap)]
            assert gaps, "what was never passed on is announced"
            seqs = [event.seq for event in got if isinstance(event, Event)]
            assert seqs == sorted(set(seqs))
            await feed.publish("a", "and on")
            async with asyncio.timeout(20):
                assert (await anext(events)).text == "and on"

    run(scenario())


@pytest.mark.parametrize("log", ["memory:", "sqlite"])
def test_a_hundred_patterns_over_a_full_log_never_hold_the_loop_up(log: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Feed(log if log == "memory:" else f"sqlite:{tmp_path / 'feed.db'}") as feed:
            for part in range(10):
                await feed.append([text_draft(f"shop/{part}/orders/{number}", "x") for number in range(2_000)])
            slowest = 0.0
            watching = True

            async def watch() -> None:
                nonlocal slowest
                while watching:
                    began = time.thread_time()  # not the clock: other tests run, too
                    await asyncio.sleep(0)
                    slowest = max(slowest, time.thread_time() - began)

            watcher = asyncio.create_task(watch())
            selection = select([f"*/*/nothing/{number}" for number in range(100)])
            assert not (await feed.page(selection.patterns, last=1)).events
            assert not (await feed.page(selection.patterns)).events
            async with feed.subscribe(*selection.patterns, last=1):
                pass
            watching = False
            await watcher
            assert slowest < 0.2

    run(scenario())


def test_closing_ends_readers_in_the_middle_of_a_read_and_cancels_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        options = FeedOptions(window_events=1)
        feed = await Feed(f"sqlite:{tmp_path / 'feed.db'}", options).__aenter__()
        for _ in range(10):
            await feed.append([text_draft("a", "x" * 1_000)] * 1_000)

        async def read() -> str:
            try:
                async with feed.subscribe("a", after=EARLIEST) as events:
                    async for _ in events:
                        pass
            except FeedUnavailable:
                return "unavailable"
            return "ended"

        async def look_back() -> str:
            try:
                while True:
                    await feed.page("a", last=1_000)
            except FeedUnavailable:
                return "unavailable"

        readers = [asyncio.create_task(read()) for _ in range(20)] + [asyncio.create_task(look_back())]
        await asyncio.sleep(0.01)
        await feed.close()
        assert set(await asyncio.gather(*readers)) <= {"ended", "unavailable"}

    run(scenario())


def test_a_close_that_is_cancelled_goes_on_and_the_log_is_free_after_it(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'feed.db'}"

    async def scenario() -> None:
        feed = Feed(url)
        await feed.publish("a", "x")
        closing = asyncio.create_task(feed.close())
        await asyncio.sleep(0)
        closing.cancel()
        await feed.close()
        async with Feed(url) as again:
            assert len((await again.page("a")).events) == 1

    run(scenario())


def test_an_open_that_is_cancelled_leaves_the_log_free(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'feed.db'}"

    async def scenario() -> None:
        feed = Feed(url)
        opening = asyncio.create_task(feed.__aenter__())
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        await feed.close()
        async with Feed(url) as again:
            await again.publish("a", "x")

    run(scenario())


def test_a_start_that_fails_half_way_leaves_the_log_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:{tmp_path / 'feed.db'}"

    async def fail(*_: object) -> None:
        raise FeedUnavailable("on purpose")

    async def scenario() -> None:
        feed = Feed(url)
        with monkeypatch.context() as patched:
            patched.setattr("feed.running.newest_window", fail)
            with pytest.raises(FeedUnavailable, match="yet"):
                await feed.publish("a", "x")
        async with asyncio.timeout(10):
            while True:  # it is tried again by itself
                with contextlib.suppress(FeedUnavailable):
                    assert (await feed.publish("a", "x")).endswith("-1")
                    break
                await asyncio.sleep(0.01)
        await feed.close()

    run(scenario())


def test_a_feed_can_be_opened_again() -> None:
    async def scenario() -> None:
        feed = Feed("memory:")
        for _ in range(2):
            async with feed, feed.subscribe("a") as events:
                await feed.publish("a", "x")
                assert (await anext(events)).text == "x"
        with pytest.raises(FeedUnavailable, match="closed"):
            await feed.publish("a", "x")

    run(scenario())


def test_a_refused_log_is_told_in_full_to_who_opens_it_and_to_nobody_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        feed = Feed(f"sqlite:{tmp_path}")
        with pytest.raises(FeedUnavailable) as raised:
            await feed.publish("a", "x")
        assert str(tmp_path) not in str(raised.value)
        with pytest.raises(LogRefused, match=str(tmp_path)):
            await Feed(f"sqlite:{tmp_path}").__aenter__()

    run(scenario())


def test_a_reader_waits_for_a_log_that_cannot_be_read_for_a_while(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def unreadable(*_: object) -> None:
        tried.append(None)
        raise FeedUnavailable("on purpose")

    tried: list[None] = []

    async def scenario() -> None:
        async with Feed(f"sqlite:{tmp_path / 'feed.db'}", FeedOptions(window_events=1)) as feed:
            await feed.append([text_draft("a", "x")] * 100)
            running = feed.running
            assert running is not None
            async with feed.subscribe("a", after=EARLIEST) as events:
                with monkeypatch.context() as patched:
                    patched.setattr(running.log, "read", unreadable)
                    first = asyncio.ensure_future(anext(events))
                    while len(tried) < 2:
                        await asyncio.sleep(0.01)
                assert str((await first).id).endswith("-1")

    run(scenario())


def test_bad_arguments_are_refused_like_bad_requests() -> None:
    async def scenario() -> None:
        async with Feed("memory:") as feed:
            for last in (0, -1, 1_001):
                with pytest.raises(Invalid, match="last"):
                    async with feed.subscribe("a", last=last):
                        pass
            async with feed.subscribe("a", types="created") as events:
                assert events.selection.types == {"created"}

    run(scenario())


def test_a_page_of_history_has_no_hole_that_it_does_not_announce(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        options = FeedOptions(window_events=1, retention=Retention(events=3_000))
        async with Feed("memory:", options) as feed:
            await feed.append([text_draft("b" if number % 5 else "a", "x") for number in range(6_000)])
            running = feed.running
            assert running is not None
            read = running.log.read

            async def read_and_lose(*arguments: Any) -> Any:
                page = await read(*arguments)
                await feed.append([text_draft("a", "x")] * 2_500)
                return page

            monkeypatch.setattr(running.log, "read", read_and_lose)
            page = await feed.page("a", after="unknown-1", limit=1_000)
            assert page.gap is not None
            following = [event.seq for event in page.events]
            start = int(page.gap.resumed_from.partition("-")[2])
            monkeypatch.undo()
            assert following
            assert all(later - earlier <= 5 for earlier, later in itertools.pairwise([start, *following]))

    run(scenario())


def test_p10_a_reader_that_waits_for_a_slow_disk_gets_signs_of_life_and_then_everything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def scenario() -> None:
        options = FeedOptions(window_events=1, limits=Limits(heartbeat=0.02))
        async with Feed(f"sqlite:{tmp_path / 'feed.db'}", options) as feed:
            await feed.append([text_draft("a", str(number)) for number in range(1_200)])
            running = feed.running
            assert running is not None
            disk, reads, read = asyncio.Event(), 0, running.log.read

            async def read_slowly(*arguments: Any) -> Any:
                nonlocal reads
                reads += 1
                await disk.wait()
                return await read(*arguments)

            monkeypatch.setattr(running.log, "read", read_slowly)
            async with feed.subscribe("a", after=EARLIEST) as events:
                assert [item.sse[:6] for item in await events.take()] == [b"retry:"]
                for _ in range(3):
                    assert [item.sse for item in await events.take()] == [b":\n"]
                assert reads == 1
                disk.set()
                assert [(await anext(events)).text for _ in range(1_200)] == [str(n) for n in range(1_200)]

    run(scenario())


# Which loop and which process it belongs to.


def log_of(kind: str, folder: Path) -> str:
    return "memory:" if kind == "memory" else f"sqlite:{folder / 'feed.db'}"


async def texts(feed: Feed) -> list[str]:
    return [event.text for event in (await feed.page("a")).events]


async def seen_live(feed: Feed, text: str) -> None:
    async with asyncio.timeout(10), feed.subscribe("a") as events:
        await feed.publish("a", text)
        assert (await anext(events)).text == text


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_feed_that_an_ended_loop_has_left_open_goes_on_in_another_with_all_that_was_published(
    kind: str, tmp_path: Path
) -> None:
    feed = Feed(log_of(kind, tmp_path))
    for number in range(3):
        run(seen_live(feed, str(number)))
    assert asyncio.run(texts(feed)) == ["0", "1", "2"]
    run(feed.close())
    run(Feed(feed.log).close())


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_closed_feed_opens_at_its_next_use_in_another_loop_and_one_in_memory_is_empty(
    kind: str, tmp_path: Path
) -> None:
    feed = Feed(log_of(kind, tmp_path))

    async def in_a_block() -> None:
        async with feed:
            await seen_live(feed, "first")

    run(in_a_block())
    run(seen_live(feed, "second"))
    assert asyncio.run(texts(feed)) == (["second"] if kind == "memory" else ["first", "second"])
    run(in_a_block())
    run(feed.close())


def test_readers_that_crowd_in_where_a_loop_ends_keep_nobody_out_of_the_next() -> None:
    feed = Feed("memory:")

    async def crowd() -> None:
        await feed.check()
        entering = [asyncio.create_task(feed.attach(select(["a"]), after=None, last=None)) for _ in range(200)]
        await asyncio.sleep(0)
        del entering

    run(crowd())
    run(seen_live(feed, "x"))


def test_two_loops_at_once_are_refused_with_what_to_do_and_the_first_goes_on() -> None:
    feed = Feed("memory:")

    async def scenario() -> None:
        def elsewhere(work: Callable[[], Any]) -> None:
            async def other() -> None:
                with pytest.raises(RuntimeError, match=r"open in another event loop.*feed\.from_thread\.publish"):
                    await work()

            asyncio.run(other())

        async with feed:
            works: list[Callable[[], Any]] = [
                lambda: feed.publish("a", "x"),
                lambda: feed.page("a"),
                lambda: feed.attach(select(["a"]), after=None, last=None),
                feed.__aenter__,
                feed.close,
            ]
            for work in works:
                await asyncio.to_thread(elsewhere, work)
            await seen_live(feed, "x")

    run(scenario())


@pytest.mark.parametrize("turns", range(5))
def test_a_close_that_ends_with_its_loop_leaves_the_file_free(tmp_path: Path, turns: int) -> None:
    feed = Feed(log_of("sqlite", tmp_path))

    async def scenario() -> None:
        await feed.publish("a", "x")
        closing = asyncio.create_task(feed.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        assert not closing.done(), "the loop ends first"

    run(scenario())
    run(seen_live(feed, "y"))
    run(feed.close())


FORKING = """
import asyncio, multiprocessing, sys, threading
from feed import Feed, select

feed = Feed(sys.argv[1])
unopened = Feed("memory:")
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()

def here(work):
    return asyncio.run_coroutine_threadsafe(work, loop).result(10)

def child(said):
    feed.from_thread.drain()
    assert not feed.draining
    assert feed.loop is None
    for name, use in {
        "thread": lambda: feed.from_thread.publish("a", "child"),
        "loop": lambda: asyncio.run(feed.publish("a", "child")),
        "close": lambda: asyncio.run(feed.close()),
        "unopened": lambda: asyncio.run(unopened.publish("a", "child")),
    }.items():
        try:
            use()
        except Exception as error:
            said.send(f"{name}: {type(error).__name__}: {error}")
        else:
            said.send(f"{name}: done")
    said.send(None)

async def texts():
    return [event.text for event in (await feed.page("a")).events]

here(feed.publish("a", "before"))
ours, theirs = multiprocessing.Pipe()
process = multiprocessing.get_context("fork").Process(target=child, args=[theirs], daemon=True)
process.start()
while (line := ours.recv()) is not None:
    print(line)
process.join(10)
feed.from_thread.publish("a", "after")
print(here(texts()))
here(feed.close())
"""


def in_a_fork(log: str) -> list[str]:
    """What a fork can do with a feed that was open before, and what its parent has then."""
    done = subprocess.run([sys.executable, "-c", FORKING, log], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_in_a_fork_an_open_feed_is_refused_in_words_and_the_parents_stays_whole(kind: str, tmp_path: Path) -> None:
    thread, loop, close, unopened, events = in_a_fork(log_of(kind, tmp_path))
    for line in (thread, loop):
        assert re.match(r"\w+: RuntimeError: this feed was opened by process \d+, of which this one is a fork", line)
    assert (close, unopened) == ("close: done", "unopened: done")
    assert events == "['before', 'after']"


def test_in_a_fork_a_feed_on_redis_opens_anew_with_connections_of_its_own(shared_redis: RedisServer) -> None:
    _, loop, close, _, events = in_a_fork(shared_redis.url("forked"))
    assert (loop, close) == ("loop: done", "close: done")
    assert events == "['before', 'child', 'after']"
