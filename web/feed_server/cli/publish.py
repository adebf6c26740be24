"""`feed publish`: publish one event, or one for each line of input; or delete the value of a topic."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import orjson
import typer
from typer.core import TyperCommand

from feed import FeedError, Malformed, PreconditionFailed
from feed.client import PATIENCE, AsyncClient, Draft, GaveUp, Refused, checked_url, draft
from feed.event import DEFAULT_TYPE, on_terms
from feed.terms import ANY, Terms, terms_of
from feed_server.cli.client import DEFAULT_URL, UNSAID, Token, Url, Waiting, run_to_end, seconds
from feed_server.cli.terminal import WrongUse, say

_BATCH_EVENTS = 500
_BATCH_BYTES = 1 << 20
_MAX_LINE = 16 << 20  # bytes; more than any server takes by default
_CHUNK = 64 << 10  # bytes of standard input that are read at a time
_READ_AHEAD = 16  # chunks
_OPTION = re.compile(r"--([A-Za-z][\w-]*(=.*)?)?", re.DOTALL)


class PublishCommand(TyperCommand):
    """Takes an argument that begins with a dash, such as -5, for DATA where DATA is expected and the argument cannot be
    an option: -h, or two dashes and a name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments as typer does, with DATA behind `--` where that is needed."""
        with_value: set[str] = set()
        flags = set(ctx.help_option_names)
        for parameter in self.get_params(ctx):
            (flags if getattr(parameter, "is_flag", False) else with_value).update(parameter.opts)
        return super().parse_args(ctx, dashed_data_last(args, with_value, flags))


def dashed_data_last(arguments: list[str], with_value: Collection[str], flags: Collection[str]) -> list[str]:
    """Move DATA that begins with a dash to the end of the command line, behind `--`."""
    rest = iter(range(len(arguments)))
    words = 0
    for number in rest:
        argument = arguments[number]
        name, equals, _ = argument.partition("=")
        if name in with_value and not equals:
            next(rest, None)
        elif name in with_value or name in flags:
            continue
        elif argument == "-" or not argument.startswith("-"):
            words += 1
        elif words == 1 and _OPTION.fullmatch(argument) is None:
            return [*arguments[:number], *arguments[number + 1 :], "--", argument]
        else:
            break  # the parser says what is wrong with it
    return arguments


def publish(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Where to publish, such as orders/42.")],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA|-",
            help="The event's data; - reads standard input, an event a line. Data that looks like an option goes "
            "behind --.",
        ),
    ] = "-",
    url: Url = DEFAULT_URL,
    token: Token = None,
    type: Annotated[str, typer.Option(metavar="NAME", help="The type of the events.")] = "message",
    json: Annotated[bool, typer.Option("--json", help="DATA, or each line, is JSON. Empty lines are skipped.")] = False,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Idempotency-Key: a repeat within 24 h publishes nothing more.")
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete the value of the topic, instead of publishing DATA.")
    ] = False,
    if_match: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Only if this is the id of the topic's newest event; *: if it has any value."),
    ] = None,
    if_none_match: Annotated[
        bool, typer.Option("--if-none-match", help="Only if the topic has no event, or was deleted.")
    ] = False,
    ttl: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Delete the topic's value after this time, unless it is renewed or replaced: 30s, 5m."
        ),
    ] = None,
    patience: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How long to try again before giving up.")
    ] = PATIENCE,
) -> None:
    """Publish an event, or one for each line of input.

    DATA is published as text, with --json as JSON. The id of a single event is printed. Lines are published in batches,
    each as soon as the one before is committed, and each line once even if a batch had to be sent again.

    With --delete the topic has no value any more: its newest event is of type feed.deleted, and the id of that event is
    printed. If --if-match or --if-none-match does not hold, nothing is published, and the exit code is 1.

    Example: feed publish orders/42 '{"state": "paid"}' --json
    """
    waiting = Waiting(checked_url(url), f"trying again, for {patience:g} s in all", patience=UNSAID)
    client = AsyncClient(url, token, patience=patience, on_wait=waiting)
    lease = seconds("--ttl", ttl)
    single = {"--key": key is not None, "--if-match": if_match is not None, "--if-none-match": if_none_match}
    if delete:
        value = {"DATA": data != "-", "--type": type != DEFAULT_TYPE, "--json": json}
        if given := _given(value | {"--if-none-match": if_none_match, "--ttl": ttl is not None}):
            raise WrongUse(f"--delete and {given[0]}: give one of them")
        run_to_end(_print_id(client, client.delete(topic, if_match=if_match, key=key)))
    elif data != "-":
        conditions = {"if_match": if_match, "if_none_match": ANY if if_none_match else None}
        publishing = client.publish(topic, data.encode() if json else data, type=type, key=key, ttl=lease, **conditions)
        run_to_end(_print_id(client, publishing))
        if not json and _looks_like_json(data):
            say("feed publish: this looks like JSON and was published as text: publish JSON with --json")
    elif given := _given(single):
        raise WrongUse(f"{given[0]} is for a single event: give DATA")
    elif sys.stdin is None:
        raise WrongUse("standard input is closed")
    else:
        run_to_end(_publish_lines(client, waiting, _Form(topic, type, json, terms_of(None, None, lease))))


def _given(options: Mapping[str, bool]) -> list[str]:
    """Return the names of those that were given on the command line."""
    return [name for name, is_given in options.items() if is_given]


async def _print_id(client: AsyncClient, call: Coroutine[Any, Any, str]) -> None:
    """Make a call, and print the id that it returns."""
    try:
        async with client:
            print(await call, flush=True)
    except PreconditionFailed as error:
        raise FeedError(str(error) if error.current is None else f"{error}: {error.current}") from error


async def _publish_lines(client: AsyncClient, waiting: Waiting, form: _Form) -> None:
    if sys.stdin.isatty():
        say("reading events from the terminal, one a line; Ctrl-D ends")
    published = 0
    try:
        with _progress() as show:
            async with client, contextlib.aclosing(_batches(_StandardInput(), form)) as batches:
                async for batch in batches:
                    published += await _publish_batch(client, batch)
                    waiting.over()
                    show(published)
    except FeedError as error:
        raise FeedError(f"{error}; {_events(published)} acknowledged before") from error
    except asyncio.CancelledError:
        say(f"published {_events(published)}")
        raise
    say(f"published {_events(published)}")


def _events(count: int) -> str:
    return f"{count:,} event{'' if count == 1 else 's'}"


def _looks_like_json(text: str | bytes) -> bool:
    """Whether a text is a JSON object or array: somebody may have forgotten `--json`. Numbers and words are JSON too,
    but are as good as text."""
    if text.lstrip()[:1] not in ("{", "[", b"{", b"["):
        return False
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


_Batch = list[tuple[int, Draft]]
"""Events, each with the number of its line."""


async def _publish_batch(client: AsyncClient, batch: _Batch) -> int:
    try:
        return len(await client.publish_batch([event for _, event in batch]))
    except (Refused, GaveUp) as error:
        raise FeedError(f"lines {batch[0][0]:,} to {batch[-1][0]:,}: {error}") from error


class _StandardInput:
    """Standard input, read a little ahead by a thread: it may be a file, a pipe or a terminal."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue()
        self._room = threading.Semaphore(_READ_AHEAD)
        # A daemon: nothing can wake the thread from its read when the command ends before its input.
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        chunk: bytes | OSError = b"?"
        while chunk and not isinstance(chunk, OSError):
            self._room.acquire()
            try:
                # Not through sys.stdin's buffer: Python aborts if it ends while a thread holds the buffer's lock.
                chunk = os.read(sys.stdin.fileno(), _CHUNK)
            except OSError as error:
                chunk = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: the command has ended
                self._loop.call_soon_threadsafe(self._chunks.put_nowait, chunk)

    async def read(self) -> bytes:
        """Return the next bytes; none at the end. Raises `FeedError` where the input cannot be read."""
        chunk = await self._chunks.get()
        self._room.release()
        if isinstance(chunk, OSError):
            raise FeedError(f"standard input: {chunk.strerror}")
        return chunk

    @property
    def pauses(self) -> bool:
        """Whether no more input is there now."""
        return self._chunks.empty()


async def _lines(source: _StandardInput) -> AsyncIterator[bytes | None]:
    """Yield the lines without their ends, and None whenever the input pauses."""
    rest = b""
    while chunk := await source.read():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r")
        if len(rest) > _MAX_LINE:
            raise Malformed(f"standard input: a line of more than {_MAX_LINE:,} bytes")
        if source.pauses:
            yield None
    if rest:
        yield rest


class _Form(NamedTuple):
    """What each line is published as. `json` tells whether the lines are JSON."""

    topic: str
    type: str
    json: bool
    terms: Terms | None

    def draft(self, number: int, line: bytes) -> Draft | None:
        """Return the event for a line, None for one that is skipped. Raises `Malformed`, with the line's number."""
        if self.json and not line.strip():
            return None
        try:
            return on_terms(draft(self.topic, line if self.json else line.decode(), self.type), self.terms)
        except UnicodeDecodeError as error:
            raise Malformed(f"line {number:,}: not UTF-8: byte {error.start} is {line[error.start]:#04x}") from None
        except Malformed as error:
            raise Malformed(f"line {number:,}: {error}") from None


async def _batches(source: _StandardInput, form: _Form) -> AsyncGenerator[_Batch, None]:
    """Yield what to publish together: the lines that have come when the input pauses, or as many as a batch may hold.

    No clock is needed: while one batch is on its way the next one gathers, so that a slow input does not wait and a
    fast one is not sent line by line.
    """
    batch: _Batch = []
    size = number = 0
    hinted = form.json
    failure: Malformed | None = None
    async for line in _lines(source):
        if line is not None:
            number += 1
            if not hinted and _looks_like_json(line):
                hinted = True
                say(f"feed publish: line {number:,} looks like JSON and is published as text: publish JSON with --json")
            try:
                if (event := form.draft(number, line)) is not None:
                    batch.append((number, event))
            except Malformed as error:
                failure = error  # raised after the lines before it are published
            size += len(line)
        if batch and (line is None or failure or len(batch) >= _BATCH_EVENTS or size >= _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        if failure:
            raise failure
    if batch:
        yield batch


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """Show how many events are published, and how many a second, while the block lasts. Only on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    start = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.completed:,} events  {task.fields[rate]:,.0f}/s"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None, rate=0.0)
        yield lambda count: progress.update(task, completed=count, rate=count / (time.monotonic() - start))
