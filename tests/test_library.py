"""The feed inside somebody else's program: the README's own examples, run as they stand there."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

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
    Retention,
    TooLarge,
)
from feed import wire as wire_module
from tests.running import START_SECONDS
from tests.streams import subscribed

README = Path(__file__).parent.parent / "README.md"


def example(title: str) -> str:
    """The first Python block below a heading of the README."""
    section = README.read_text().partition(f"## {title}\n")[2]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found, f"the README has no example below {title!r}"
    return found[1]


def test_the_readmes_library_example_does_what_it_says(tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(example("As a library"))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\w+-1 orders/1 created \{'total': 3\}\n", done.stdout)


def test_the_readmes_application_serves_the_feed_under_its_prefix_and_keeps_its_own_routes(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(example("Inside your FastAPI application"))
    command = [sys.executable, "-m", "uvicorn", "shop:app", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            lines = []
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


def run(scenario: object) -> None:
    asyncio.run(scenario)  # type: ignore[arg-type]


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
            assert [event.json() for event in got[1:] if isinstance(event, Event)] == [{"n": 3}, {"n": 4}]
            with pytest.raises(Draining):
                async with feed.subscribe("a"):
                    pass

    run(scenario())


def test_a_timeout_around_the_next_event_loses_nothing() -> None:
    async def scenario() -> None:
        async with Feed("memory:") as feed, feed.subscribe("a", after=EARLIEST) as events:
            got = []
            for number in range(20):
                await feed.publish("a", number)
                while len(got) <= number:
                    try:
                        async with asyncio.timeout(0.0005 * (number % 3)):
                            got.append(await anext(events))
                    except TimeoutError:
                        await asyncio.sleep(0)
            assert [event.data for event in got] == [str(number) for number in range(20)]

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
                assert (await anext(fast)).data == str(number)
                largest = max(largest, slow.queue.qsize())
            assert largest <= 11
            assert [(await anext(slow)).data for _ in range(500)] == [str(number) for number in range(500)]

    run(scenario())


def test_a_queue_is_bounded_in_bytes_but_an_empty_one_takes_any_event() -> None:
    async def scenario() -> None:
        options = FeedOptions(limits=Limits(queue_events=100, queue_bytes=1_000))
        async with Feed("memory:", options) as feed, feed.subscribe("a") as events:
            for size in (5_000, 600, 600, 5_000):
                await feed.publish("a", "x" * size)
            async with asyncio.timeout(5):
                assert [len((await anext(events)).data) for _ in range(4)] == [5_000, 600, 600, 5_000]

    run(scenario())


def test_an_event_is_encoded_once_per_format_however_many_subscribers_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = {"sse": 0, "message": 0}
    for name in calls:

        def counted(*arguments: object, name: str = name, encode: object = getattr(wire_module, name), **named: object):  # type: ignore[no-untyped-def]
            calls[name] += 1
            return encode(*arguments, **named)  # type: ignore[operator]

        monkeypatch.setattr(wire_module, name, counted)

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
                                assert item.text
            assert calls == {"sse": 20, "message": 20}

    run(scenario())


def test_a_relay_that_breaks_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with Feed("memory:") as feed, feed.subscribe("a") as events:
            await feed.publish("a", "0")
            assert (await anext(events)).data == "0"
            running = feed._running_now()
            assert running is not None
            push, broken = running.broadcaster.push, 0

            def push_or_break(batch: Sequence[Event]) -> None:
                nonlocal broken
                broken += 1
                if broken == 1:
                    running.broadcaster.window.extend(batch)  # and nobody is offered it
                    raise RuntimeError("broken on purpose")
                push(batch)

            monkeypatch.setattr(running.broadcaster, "push", push_or_break)
            await feed.publish("a", "1")
            await feed.publish("a", "2")
            async with asyncio.timeout(10):
                assert [(await anext(events)).data for _ in range(2)] == ["1", "2"]

    run(scenario())
