"""A program that uses one client on both sides of a fork, or in several event loops:
`python -m tests.support.forks KIND TRANSPORT URL`.

It prints what each process did, a JSON object a line: the ids that publishing gave and what was published, and what its
subscription got.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from feed.client import AsyncClient, Client, Event, Reconnecting

CHILDREN = 2
EACH = 10


def plain(transport: Any, url: str) -> None:
    """A `Client`, used by a thread while the process is forked."""
    with Client(url) as client:
        client.publish("forks", "before")
        items = client.subscribe("forks", transport=transport)
        next(items)
        stop = threading.Event()
        busy = threading.Thread(target=_keep_busy, args=(client, stop))
        busy.start()
        children = [_forked(lambda: _work(client, items, number)) for number in range(1, CHILDREN + 1)]
        _report(*_work(client, items, 0))
        stop.set()
        busy.join()
        _wait(children)


def _keep_busy(client: Client, stop: threading.Event) -> None:
    while not stop.is_set():
        client.page("forks", limit=1)


def _work(client: Client, items: Any, number: int) -> tuple[int, list[str], list[str], int]:
    ids = [client.publish("forks", f"{number}-{count}") for count in range(EACH)]
    got: list[str] = []
    broken = 0
    while len(got) < EACH * (CHILDREN + 1):
        item = next(items)
        broken += isinstance(item, Reconnecting)
        if isinstance(item, Event):
            got.append(item.id)
    items.close()
    return number, ids, got, broken


def with_asyncio(transport: Any, url: str) -> None:
    """An `AsyncClient`, in an event loop of each process."""
    client = AsyncClient(url)
    items = client.subscribe("forks", transport=transport)

    async def begin() -> None:
        await client.publish("forks", "before")
        await anext(items)

    async def work(number: int) -> tuple[int, list[str], list[str], int]:
        async with client, items:
            ids = [await client.publish("forks", f"{number}-{count}") for count in range(EACH)]
            got: list[str] = []
            broken = 0
            async for item in items:
                broken += isinstance(item, Reconnecting)
                if isinstance(item, Event):
                    got.append(item.id)
                if len(got) == EACH * (CHILDREN + 1):
                    break
        return number, ids, got, broken

    with asyncio.Runner() as runner:
        runner.run(begin())
        children = [_forked(lambda: asyncio.run(work(number))) for number in range(1, CHILDREN + 1)]
        _report(*runner.run(work(0)))
    _wait(children)


def in_loops(transport: Any, url: str) -> None:
    """An `AsyncClient`, in one event loop after the other."""
    client = AsyncClient(url)
    items = client.subscribe("loops", transport=transport)

    async def work(number: int) -> None:
        if number == 0:
            await anext(items)  # it is open
        id = await client.publish("loops", number)
        got = await anext(item async for item in items if isinstance(item, Event))
        _report(number, [id], [got.id], 0)

    async def end() -> None:
        async with client, items:
            pass

    for number in range(3):
        asyncio.run(work(number))
    asyncio.run(end())


def _forked(work: Callable[[], tuple[int, list[str], list[str], int]]) -> int:
    pid = os.fork()
    if pid == 0:
        _report(*work())
        sys.exit(0)  # and not `os._exit`: what is left behind is cleared away, too
    return pid


def _report(number: int, ids: list[str], got: list[str], broken: int) -> None:
    line = json.dumps({"number": number, "ids": ids, "got": got, "broken": broken})
    os.write(1, f"{line}\n".encode())


def _wait(children: list[int]) -> None:
    for pid in children:
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0


if __name__ == "__main__":
    {"threads": plain, "asyncio": with_asyncio, "loops": in_loops}[sys.argv[1]](*sys.argv[2:])
