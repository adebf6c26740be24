"""Await a coroutine whose first step was made by hand.

Stepping a coroutine that seldom suspends saves the turn of the loop, or the task, that awaiting it would cost.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, TypeVar, cast

T = TypeVar("T")


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
