"""`feed doctor`: the options, what is shown, and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from feed import Invalid
from feed.client import checked_token, checked_url
from feed.event import check_topic
from feed.units import parse_duration
from feed_server.cli.terminal import WrongUse, escaped

if TYPE_CHECKING:
    from feed_server.doctor.examination import Report
    from feed_server.doctor.finding import Finding
    from feed_server.doctor.target import Target

_LONGEST = 3600.0  # seconds
_COLOURS = {"ok": "green", "unknown": "cyan", "warn": "yellow", "fail": "red"}


def doctor(
    url: Annotated[str, typer.Argument(metavar="URL", help="The feed, as browsers see it: https://feed.example.org")],
    token: Annotated[
        str | None,
        typer.Option(
            envvar="FEED_TOKEN",
            metavar="TOKEN",
            help="The token to check with. It should allow to publish to the topic, to subscribe to it, and admin.",
        ),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option(metavar="TOPIC", help="The topic to publish to. [default: feed-doctor/ and something random]"),
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option(metavar="ORIGIN", help="The origin of another page that should be able to use the feed."),
    ] = None,
    idle: Annotated[
        str, typer.Option(metavar="TIME", help="How long to watch a quiet stream: all checks together take this long.")
    ] = "75s",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check from outside what stands between browsers and a feed, and say how to repair it.

    The checks: are streams buffered, cut when quiet, compressed or cached on the way; do the WebSocket, resuming, CORS,
    the cookie and large requests work; which HTTP version do browsers get; is the clock off. Each check is a line: ok,
    warn, fail, or unknown where nothing could be found out, for example without a token that may publish. The doctor
    publishes ten small events to a topic of its own, and larger ones where streams are buffered, to see how many bytes.

    Exit codes: 0 nothing wrong was found, 1 no feed answered, 2 a wrong command line, 3 a warning, 4 something is
    broken.

    Example: feed doctor https://feed.example.org --origin https://app.example.org
    """
    from feed_server.doctor.finding import exit_code
    from feed_server.doctor.target import Target, topic_of_its_own

    seconds = _seconds(idle)
    with _usage():
        checked = (
            checked_url(url),
            checked_token(token),
            topic_of_its_own() if topic is None else check_topic(topic),
            _origin(origin),
        )
    target = Target(*checked, seconds)
    report = asyncio.run(_examine(target))
    code = exit_code(report.findings, reached=report.reached)
    if json:
        print(_json(target, report, code))
    else:
        _show(report.findings)
    raise typer.Exit(code)


@contextlib.contextmanager
def _usage() -> Iterator[None]:
    try:
        yield
    except Invalid as error:
        raise WrongUse(str(error)) from None


def _seconds(text: str) -> float:
    try:
        seconds: float = parse_duration(text)
    except ValueError as error:
        raise WrongUse(f"--idle: {error}") from None
    if not 0 < seconds <= _LONGEST:
        raise WrongUse("--idle: must be more than 0 and at most one hour")
    return seconds


def _origin(text: str | None) -> str | None:
    from feed.fastapi.auth.origins import parse_origin

    if text is None:
        return None
    parsed = parse_origin(text)
    if parsed is None:
        raise WrongUse(f"--origin: {text!r} is not an origin, such as https://app.example.org")
    return str(parsed)


async def _examine(target: Target) -> Report:
    from feed_server.doctor.examination import GROUPS, examine

    async with target:
        with _progress(target.idle, len(GROUPS)) as done:
            return await examine(target, done)


@contextlib.contextmanager
def _progress(seconds: float, groups: int) -> Iterator[Callable[[], None]]:
    """Show how many checks are done, and for how long they run. Only on a terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("checking: {task.completed} of {task.total} done"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn(f"of {seconds:.0f} s"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=groups)
        yield lambda: progress.advance(task)


def _show(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False, soft_wrap=True)
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        name = finding.severity.value
        line = Text.assemble((f"{name:<7}", f"bold {_COLOURS[name]}"), f"  {finding.check:<{width}}  ")
        line.append(escaped(_sentence(finding)))
        console.print(line)


def _sentence(finding: Finding) -> str:
    if not finding.cure:
        return finding.words
    return f"{finding.words}; {'to find out' if finding.severity.value == 'unknown' else 'cure'}: {finding.cure}"


def _json(target: Target, report: Report, code: int) -> str:
    found = [
        {"check": each.check, "severity": each.severity.value, "words": each.words, "cure": each.cure}
        for each in report.findings
    ]
    document = {"url": target.url, "topic": target.topic, "exit": code, "reached": report.reached, "findings": found}
    return orjson.dumps(document).decode()
