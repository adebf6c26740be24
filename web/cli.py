"""The command line: `feed serve`, `feed publish`, `feed tail`, `feed demo`, `feed token`, `feed bench`.

Exit codes: 0 is success, 1 a failure, 2 a wrong command line or setting, 130 Ctrl-C. An error is one line on standard
error. `feed tail` into a pipe whose reader has had enough ends with 0: it has no other end.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import stat
import sys
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from typer.exceptions import TyperException

from feed import FeedError, Invalid, Malformed
from feed.client import (
    PATIENCE,
    Client,
    GaveUp,
    Item,
    Message,
    Notice,
    Outgoing,
    Reconnecting,
    Refused,
    checked_token,
    checked_url,
)
from web.bench.command import bench
from web.settings import (
    METRICS_FOLDER,
    NO_FLAG,
    Settings,
    is_secret,
    no_settings,
    option,
    option_and_variable,
    problems,
    variable,
)
from web.terminal import WrongUse, escaped, escaped_json, say
from web.token_command import token

_INTERRUPTED = 130  # what a shell makes of SIGINT, and typer too

_BATCH_EVENTS = 500
_BATCH_BYTES = 1 << 20
_MAX_LINE = 16 << 20  # bytes; more than any server takes by default
_CHUNK = 64 << 10  # bytes of standard input that are read at a time
_READ_AHEAD = 16  # chunks

app = typer.Typer(
    help="A live-update feed: publish events, and every subscriber gets them at once, in order, none lost.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """What the console script `feed` runs."""
    # Closed by whoever started us: then nobody wants to read it, and that is no error.
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line, and give the exit code."""
    try:
        _check_encoding(arguments)
        return app(arguments, prog_name="feed", standalone_mode=False) or 0
    except TyperException as error:
        context = getattr(error, "ctx", None)
        say(f"{context.command_path if context else 'feed'}: {_message(error)}")
        return error.exit_code
    except FeedError as error:
        say(f"feed: {error}")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED


def _message(error: TyperException) -> str:
    """What typer says, but where it would send somebody the wrong way, or speak of its own insides."""
    # A secret's option is not there. What typer finds alike is --insecure.
    for name in filter(is_secret, Settings.model_fields):
        if getattr(error, "option_name", None) == option(name):
            return f"{option(name)}: secrets are read from the environment only: {variable(name)}"
    # A flag has no value on the command line: this one is from the environment.
    parameter = getattr(error, "param", None)
    if isinstance(error, typer.BadParameter) and parameter is not None and getattr(parameter, "is_bool_flag", False):
        return f"{option_and_variable(str(parameter.name))}: {NO_FLAG}"
    return error.format_message()


def _check_encoding(arguments: list[str]) -> None:
    for number, argument in enumerate(arguments, 1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise WrongUse(f"argument {number} is not UTF-8") from None


# What all commands share.


def _check_url(url: str) -> str:
    try:
        checked_url(url)
    except Invalid as error:
        raise typer.BadParameter(error.detail) from None
    return url


Url = Annotated[str, typer.Option(envvar="FEED_URL", metavar="URL", help="The server to talk to.", callback=_check_url)]
_URL = "http://127.0.0.1:8000"


def _check_token(token: str | None) -> str | None:
    try:
        return checked_token(token)
    except Invalid as error:
        raise typer.BadParameter(error.detail) from None


Token = Annotated[
    str | None,
    typer.Option(
        envvar="FEED_TOKEN",
        metavar="TOKEN",
        help="What says that it is allowed. Better in the environment: others on this machine can read command lines.",
        callback=_check_token,
    ),
]


def _run(command: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine whose output may go into a pipe that is closed before the end."""
    try:
        asyncio.run(command)
    except (BrokenPipeError, asyncio.CancelledError):
        # Nobody is there to read the rest; Python itself must not find that out when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_with_reader() -> None:
    """Cancel the running task when nobody reads standard output any more: it may never write again to find out."""
    loop, task, output = asyncio.get_running_loop(), asyncio.current_task(), sys.stdout.fileno()

    def end() -> None:
        loop.remove_reader(output)
        if task is not None:
            task.cancel()

    if stat.S_ISFIFO(os.fstat(output).st_mode):
        loop.add_reader(output, end)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"feed {version('feed')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _feed(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    del version  # its callback has shown it
    if context.invoked_subcommand is None:
        print(context.get_help())


# feed serve


def serve(**values: str | bool | None) -> None:
    """Serve a feed until a signal comes.

    Each option is also a setting in the environment; the option wins. Sizes are in bytes, or as 64K, 16M, 1G;
    durations are in seconds, or as 500ms, 15s, 10m, 7d.

    Secrets are settings in the environment only, as everybody on a machine can read its command lines: FEED_JWT_SECRET,
    FEED_PUBLISHER_JWT_SECRET, FEED_SUBSCRIBER_JWT_SECRET.
    """
    for line in no_settings(os.environ):
        say(f"feed serve: {line}")
    try:
        settings = Settings.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        raise WrongUse("; ".join(problems(error))) from None
    # Until the server listens and takes signals itself, there is nothing to drain: just go, and well.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    os.environ.pop(METRICS_FOLDER, None)  # somebody else's
    # Imported here, as they take a third of a second, and the other commands do not need them.
    if settings.workers > 1:
        with tempfile.TemporaryDirectory(prefix="feed-metrics-", ignore_cleanup_errors=True) as folder:
            os.environ[METRICS_FOLDER] = folder
            from web.supervisor import serve_with_workers

            serve_with_workers(settings)
    else:
        from web.server import serve

        serve(settings)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _setting_options() -> inspect.Signature:
    """An option for each setting, but for secrets. All but flags are strings here, so that the settings themselves are
    what judges them."""
    defaults = Settings.model_construct().model_dump(mode="json")

    def parameter(name: str, field: FieldInfo) -> inspect.Parameter:
        shown = defaults[name]
        named: Any = typer.Option(option(name), envvar=variable(name), metavar="VALUE", help=field.description)
        if is_flag := field.annotation is bool:
            named.metavar = None
        return inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=shown if is_flag else None if shown in (None, "") else str(shown),
            annotation=Annotated[bool if is_flag else str | None, named],
        )

    return inspect.Signature(
        [parameter(name, field) for name, field in Settings.model_fields.items() if not is_secret(name)]
    )


serve.__signature__ = _setting_options()  # type: ignore[attr-defined]
app.command()(serve)


# feed publish


@app.command()
def publish(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Where to publish, such as orders/42.")],
    data: Annotated[
        str, typer.Argument(metavar="DATA|-", help="The event's data; - is standard input, an event a line.")
    ] = "-",
    url: Url = _URL,
    token: Token = None,
    type: Annotated[str, typer.Option(metavar="NAME", help="The events' type.")] = "message",
    json: Annotated[bool, typer.Option("--json", help="DATA, or each line, is JSON. Empty lines are skipped.")] = False,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Idempotency-Key: a repeat within 24 h publishes nothing more.")
    ] = None,
    patience: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="For how long to try again before giving up.")
    ] = PATIENCE,
) -> None:
    """Publish an event, or one for each line of input.

    The one event's id is printed. Lines go out in batches, each as soon as the one before is committed, and are there
    once even if a batch had to be repeated.
    """
    if data != "-":
        _run(_publish_one(Client(url, token, patience=patience), topic, data.encode() if json else data, type, key))
    elif key is not None:
        raise WrongUse("--key is for one event: give DATA")
    elif sys.stdin is None:
        raise WrongUse("standard input is closed")
    else:
        _run(_publish_lines(Client(url, token, patience=patience), topic, type, json))


async def _publish_one(client: Client, topic: str, data: str | bytes, type: str, key: str | None) -> None:
    async with client:
        print(await client.publish(topic, data, type=type, key=key), flush=True)


async def _publish_lines(client: Client, topic: str, type: str, json: bool) -> None:
    if sys.stdin.isatty():
        say("an event a line; Ctrl-D ends")
    published = 0
    try:
        with _progress() as show:
            async with client, contextlib.aclosing(_batches(_StandardInput(), topic, type, json)) as batches:
                async for batch in batches:
                    published += await _publish_batch(client, batch)
                    show(published)
    except FeedError as error:
        raise FeedError(f"{error}; {_events(published)} acknowledged before") from error
    except asyncio.CancelledError:
        say(f"published {_events(published)}")
        raise
    say(f"published {_events(published)}")


def _events(count: int) -> str:
    return f"{count:,} event{'' if count == 1 else 's'}"


_Batch = list[tuple[int, Outgoing]]
"""Events, each with the number of its line."""


async def _publish_batch(client: Client, batch: _Batch) -> int:
    try:
        return len(await client.publish_batch([event for _, event in batch]))
    except (Refused, GaveUp) as error:
        raise FeedError(f"lines {batch[0][0]:,} to {batch[-1][0]:,}: {error}") from error


class _StandardInput:
    """Standard input, read by a thread, as it may be a file, a pipe or a terminal. The thread reads a little ahead."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue()
        self._room = threading.Semaphore(_READ_AHEAD)
        # A daemon, as nothing can wake it from its read when the command ends before its input does.
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        chunk: bytes | OSError = b"?"
        while chunk and not isinstance(chunk, OSError):
            self._room.acquire()
            try:
                # Not sys.stdin's buffer: ending while a thread is in it is a fatal error of Python.
                chunk = os.read(sys.stdin.fileno(), _CHUNK)
            except OSError as error:
                chunk = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: the command has ended
                self._loop.call_soon_threadsafe(self._chunks.put_nowait, chunk)

    async def read(self) -> bytes:
        """The next bytes; none at the end."""
        chunk = await self._chunks.get()
        self._room.release()
        if isinstance(chunk, OSError):
            raise FeedError(f"standard input: {chunk.strerror}")
        return chunk

    @property
    def pauses(self) -> bool:
        """Whether there is nothing more to be had at once."""
        return self._chunks.empty()


async def _lines(source: _StandardInput) -> AsyncIterator[bytes | None]:
    """The lines, without their ends, and None whenever the input pauses."""
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


async def _batches(source: _StandardInput, topic: str, type: str, json: bool) -> AsyncGenerator[_Batch, None]:
    """What to publish together: what has come when the input pauses, and no more than fits. There is no clock in it:
    while one batch is on its way the next gathers, so that a slow input is not kept waiting and a fast one is not
    sent line by line."""
    batch: _Batch = []
    size = number = 0
    failure: Malformed | None = None
    async for line in _lines(source):
        if line is not None:
            number += 1
            try:
                batch += _event(number, line, topic, type, json)
            except Malformed as error:
                failure = error  # after what stands before it
            size += len(line)
        if batch and (line is None or failure or len(batch) >= _BATCH_EVENTS or size >= _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        if failure:
            raise failure
    if batch:
        yield batch


def _event(number: int, line: bytes, topic: str, type: str, json: bool) -> _Batch:
    if json and not line.strip():
        return []
    try:
        event = Outgoing(topic, line if json else line.decode(), type)
        event.envelope()
    except UnicodeDecodeError as error:
        raise Malformed(f"line {number:,}: not UTF-8: byte {error.start} is {line[error.start]:#04x}") from None
    except Malformed as error:
        raise Malformed(f"line {number:,}: {error}") from None
    return [(number, event)]


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """Shows how many events are published, and how many a second, while the block lasts; on a terminal only."""
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


# feed tail


@app.command()
def tail(
    patterns: Annotated[
        list[str], typer.Argument(metavar="PATTERN", help="A topic; a segment may be *, and the last one **.")
    ],
    url: Url = _URL,
    token: Token = None,
    last: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1000, help="Begin with the newest N events.")
    ] = None,
    after: Annotated[
        str | None, typer.Option(metavar="ID", help="Begin after this event; earliest: with the oldest there is.")
    ] = None,
    type: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this type; may be repeated.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print each event as a JSON object.")] = False,
) -> None:
    """Print events as they come.

    One a line: time, topic, type and data, in which control characters are escaped. It goes on where it was when the
    connection breaks or the server is restarted, and never prints an event twice.
    """
    if last is not None and after is not None:
        raise WrongUse("--last and --after: give one of them")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    _run(_tail(Client(url, token), patterns, type or [], after, last, _json_line if json else _line))


async def _tail(
    client: Client,
    patterns: list[str],
    types: list[str],
    after: str | None,
    last: int | None,
    form: Callable[[Message], str],
) -> None:
    _end_with_reader()
    report = _Report(client.url)
    async with client:
        items = client.subscribe(*patterns, types=types, after=after, last=last)
        async with contextlib.aclosing(items):
            async for item in items:
                if isinstance(item, Message):
                    print(form(item), flush=True)
                else:
                    report(item)


def _line(message: Message) -> str:
    return escaped(f"{message.time} {message.topic} {message.type} {message.text}")


def _json_line(message: Message) -> str:
    return escaped_json(message.line)


class _Report:
    """What a reader should know of the stream itself, on standard error: a line for each thing that happens, not for
    each try."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._waiting = False

    def __call__(self, item: Item) -> None:
        match item:
            case Reconnecting() if not self._waiting:
                self._waiting = True
                say(f"feed: {self._url}: {item.reason}: reconnecting until it answers")
            case Notice(type="feed.open") if self._waiting:
                self._waiting = False
                say(f"feed: {self._url}: connected")
            case Notice(type="feed.gap", data=data):
                facts = f"asked for {data.get('requested')}, resumed from {data.get('resumed_from')}"
                say(f"feed: gap: events may be missing: {data.get('reason')}: {facts}")
            case Notice(type="feed.closing", data=data):
                say(f"feed: the server ends the stream: {data.get('reason')}")


# feed demo


@app.command()
def demo(
    url: Url = _URL,
    token: Token = None,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.05, help="The time between two readings.")] = 1.0,
) -> None:
    """Publish readings of this machine.

    To the topics system/cpu, system/memory, system/network and system/disk, for the dashboard to show.
    """
    _run(_demo(Client(url, token, patience=max(every, 2.0)), every))


async def _demo(client: Client, every: float) -> NoReturn:
    from web import demo

    demo.cpu()  # its first answer is always zero
    before, working = demo.counters(), None
    async with client:
        while True:
            await asyncio.sleep(every)
            now = demo.counters()
            readings = [Outgoing(topic, data, demo.TYPE) for topic, data in demo.readings(before, now).items()]
            before = now
            worked = await _published(client, readings, complain=working is not False)
            if worked and not working:
                say(f"publishing to system/… every {every:g} s; look at {client.url}/ (Ctrl-C ends)")
            working = worked


async def _published(client: Client, readings: list[Outgoing], *, complain: bool) -> bool:
    try:
        await client.publish_batch(readings)
    except GaveUp:
        if complain:
            say(f"feed: {client.url} does not answer; trying again until it does")
        return False
    return True


# feed token

app.command()(token)


# feed bench

app.command()(bench)
