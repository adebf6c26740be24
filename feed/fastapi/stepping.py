"""Step coroutines by hand: those that seldom suspend.

Stepping such a one saves the turn of the loop, or the task, that awaiting it would cost.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from functools import partial
from typing import Any, TypeVar, cast

T = TypeVar("T")


def run_stepped(coroutine: Coroutine[Any, Any, T], done: Callable[[T | BaseException], object]) -> None:
    """Run a coroutine outside of any task, and hand what it returns or raises to `done`: at once, unless it waits.

    The coroutine may wait for futures and for turns of the loop. What needs a task, such as `asyncio.timeout`, raises
    `RuntimeError` there.
    """
    _step(coroutine, done, None)


def run_rest(coroutine: Coroutine[Any, Any, T], waiting: Any, done: Callable[[T | BaseException], object]) -> None:
    """Run the rest of a coroutine as `run_stepped` does. It was stepped once and yielded `waiting`."""
    step = partial(_step, coroutine, done)
    if waiting is None:
        asyncio.get_running_loop().call_soon(step, None)
    else:
        waiting._asyncio_future_blocking = False  # noqa: SLF001  as a task says that it has seen what is awaited
        waiting.add_done_callback(step)


def _step(coroutine: Coroutine[Any, Any, T], done: Callable[[T | BaseException], object], _: object) -> None:
    try:
        waiting = coroutine.send(None)
    except StopIteration as end:
        done(cast("T", end.value))
    except BaseException as error:  # noqa: BLE001  also cancellation: the one who waits is told
        done(error)
    else:
        run_rest(coroutine, waiting, done)


@types.coroutine
def resume_stepped(awaited: Coroutine[Any, Any, T] | Iterator[Any], waiting: Any) -> Generator[Any, Any, T]:
    """Await the rest of `awaited`, which was stepped once and yielded `waiting`.

    `awaited` may be any iterator, such as that of granian's `receive`, which has only `__next__`.
    """
    while True:
        resume: Callable[[Any], Any] = getattr(awaited, "send", lambda _: next(cast("Iterator[Any]", awaited)))
        try:
            value = yield waiting
        except BaseException as error:  # also cancellation: the coroutine handles it
            if (throw := getattr(awaited, "throw", None)) is None:
                raise
            resume, value = throw, error
        try:
            waiting = resume(value)
        except StopIteration as end:
            return cast("T", end.value)
