"""Admission: a few in a turn, in order, and nobody left behind."""

from __future__ import annotations

import asyncio

import pytest

from feed.admission import Admission

pytestmark = pytest.mark.anyio


async def test_a_few_go_through_at_once_and_the_others_turn_by_turn_in_order() -> None:
    admission, through = Admission(10), list[int]()

    async def go(number: int) -> None:
        await admission.enter()
        through.append(number)

    tasks = [asyncio.create_task(go(number)) for number in range(35)]
    await asyncio.sleep(0)
    assert through == list(range(10))
    tasks[12].cancel()
    counts = []
    while len(through) < 34:
        await asyncio.sleep(0)
        counts.append(len(through))
    assert through == [number for number in range(35) if number != 12]
    assert max(after - before for before, after in zip([10, *counts], counts, strict=False)) <= 10


async def test_who_comes_alone_never_waits() -> None:
    admission = Admission(1)
    for _ in range(3):
        entering = admission.enter()
        with pytest.raises(StopIteration):
            entering.send(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_all_who_wait_may_give_up() -> None:
    admission = Admission(1)
    await admission.enter()
    tasks = [asyncio.create_task(admission.enter()) for _ in range(5)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(5):
        await admission.enter()
