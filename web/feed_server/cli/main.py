"""The command line: `feed serve`, `feed publish`, `feed tail`, `feed history`, `feed subscriptions`, `feed kick`,
`feed topics`, `feed demo`, `feed token`, `feed bench`, `feed doctor`.

Exit codes: 0 is success, 1 a failure, 2 a wrong command line or setting, 130 Ctrl-C. An error is one line on standard
error. A command whose reader closes the pipe, as `feed tail … | head` does, ends with 0.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
import tempfile
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from typer.exceptions import TyperException

from feed import FeedError
from feed.client import AsyncClient, Draft, GaveUp, draft
from feed.fastapi.metrics import METRICS_FOLDER
from feed_server.cli.bench import bench
from feed_server.cli.client import DEFAULT_URL, Token, Url, answers, run_to_end
from feed_server.cli.doctor import doctor
from feed_server.cli.history import history
from feed_server.cli.publish import PublishCommand, publish
from feed_server.cli.subscriptions import kick, subscriptions
from feed_server.cli.tail import tail
from feed_server.cli.terminal import WrongUse, say
from feed_server.cli.token import token
from feed_server.cli.topics import topics
from feed_server.setting_errors import NO_FLAG, problems, unknown_variables
from feed_server.settings import Settings, is_secret, option, option_and_variable, variable

_INTERRUPTED = 130  # what a shell makes of SIGINT, and typer too

app = typer.Typer(
    help="A live-update feed: publish events, and every subscriber gets them at once, in order, none lost.",
    context_settings={"help_option_names": ["-h", "--help"]},  # the commands inherit it
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line of this process, as the console script `feed` does."""
    # Whoever started us may have closed them. That is not an error: nobody wants to read what we print.
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line, and return the exit code."""
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
    """Return typer's message, or our own where typer's would mislead or speak of its internals."""
    # Secrets have no option. The option that typer would suggest is --insecure.
    for name in filter(is_secret, Settings.model_fields):
        if getattr(error, "option_name", None) == option(name):
            return f"{option(name)}: secrets are read from the environment only: {variable(name)}"
    # A flag has no value on the command line: this value is from the environment.
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


def serve(*, check: bool, **values: str | bool | None) -> None:
    """Serve a feed until a signal comes.

    Each option is also a setting in the environment; the option wins. Sizes are in bytes, or as 64K, 16M, 1G;
    durations are in seconds, or as 500ms, 15s, 10m, 7d.

    Secrets are settings in the environment only, as every user of a machine can read its command lines:
    FEED_JWT_SECRET, FEED_PUBLISHER_JWT_SECRET, FEED_SUBSCRIBER_JWT_SECRET.

    Example: feed serve --port 9000 --log sqlite:/var/lib/feed/feed.db
    """
    for line in unknown_variables(os.environ):
        say(f"feed serve: {line}")
    try:
        settings = Settings.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        raise WrongUse("; ".join(problems(error))) from None
    if check:
        _check(settings)
        return
    # Until the server listens and handles signals itself, there is nothing to drain: exit at once, with 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    os.environ.pop(METRICS_FOLDER, None)  # one from outside belongs to another process
    # Imported here: these modules take a third of a second, and the other commands do not need them.
    if settings.workers > 1:
        with tempfile.TemporaryDirectory(prefix="feed-metrics-", ignore_cleanup_errors=True) as folder:
            os.environ[METRICS_FOLDER] = folder
            from feed_server.server.supervisor import serve_with_workers

            serve_with_workers(settings)
    else:
        from feed_server.server.server import serve

        serve(settings)


def _check(settings: Settings) -> None:
    from feed_server.cli.check import check

    try:
        print(check(settings))
    except FeedError as error:
        raise WrongUse(str(error)) from None


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _setting_options() -> inspect.Signature:
    """Make `--check`, and an option for each setting that is not a secret. Only flags have a type here, all others are
    strings: the settings themselves judge their values."""
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

    check = inspect.Parameter(
        "check",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[
            bool,
            typer.Option("--check", help="Check the settings, print what would be served, and end: 0 good, 2 wrong."),
        ],
    )
    settings = [parameter(name, field) for name, field in Settings.model_fields.items() if not is_secret(name)]
    return inspect.Signature([check, *settings])


serve.__signature__ = _setting_options()  # type: ignore[attr-defined]
app.command()(serve)


# feed publish

app.command(cls=PublishCommand)(publish)


# feed tail

app.command()(tail)


# feed history

app.command()(history)


# feed topics

app.command()(topics)


# feed subscriptions, feed kick

app.command()(subscriptions)
app.command()(kick)


# feed demo


@app.command()
def demo(
    url: Url = DEFAULT_URL,
    token: Token = None,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.05, help="The time between two readings.")] = 1.0,
) -> None:
    """Publish readings of this machine, as something to look at.

    They go to the topics system/cpu, system/memory, system/network and system/disk, and the dashboard shows them.

    Example: feed demo --every 5
    """
    run_to_end(_demo(AsyncClient(url, token, patience=max(every, 2.0)), every))


async def _demo(client: AsyncClient, every: float) -> NoReturn:
    from feed_server.cli import demo as machine

    machine.cpu()  # its first answer is always zero
    before, said = machine.counters(), None
    async with client:
        while True:
            await asyncio.sleep(every)
            now = machine.counters()
            readings = [draft(topic, data, machine.TYPE) for topic, data in machine.readings(before, now).items()]
            before = now
            state = await _published(client, readings)
            if state != said:
                say(state or f"publishing to system/… every {every:g} s; look at {client.url}/ (Ctrl-C ends)")
            said = state


async def _published(client: AsyncClient, readings: list[Draft]) -> str:
    """Publish the readings. Return what to say where that failed and is tried again, "" where it worked."""
    try:
        await client.publish_batch(readings)
    except GaveUp as error:
        how = f": {error.reason}" if answers(error.reason) else " does not answer"
        return f"feed: {client.url}{how}; trying again until it does"
    return ""


# feed token

app.command()(token)


# feed bench

app.command()(bench)


# feed doctor

app.command()(doctor)
