"""`feed tail`: print events as they are published, a line each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from feed.client import AsyncClient, AsyncSubscription, Event, Gap, Item, Notice, Reconnecting, Transport
from feed.wire import rfc3339
from feed_server.cli.client import DEFAULT_URL, Token, Url, Waiting, end_with_reader, run_to_end, seconds
from feed_server.cli.terminal import WrongUse, escaped, escaped_json, say


def tail(
    patterns: Annotated[
        list[str], typer.Argument(metavar="PATTERN", help="A topic; a segment may be *, and the last one **.")
    ],
    url: Url = DEFAULT_URL,
    token: Token = None,
    last: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1000, help="Begin with the newest N events.")
    ] = None,
    after: Annotated[
        str | None, typer.Option(metavar="ID", help="Begin after this event; earliest: with the oldest.")
    ] = None,
    type: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this type; may be repeated.")] = None,
    latest: Annotated[
        bool,
        typer.Option(
            "--latest",
            help="Begin with the newest event of each topic; then what changes, less what was superseded meanwhile.",
        ),
    ] = False,
    every: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="With --latest: print at most one event of a topic in this time: 500ms, 5s."),
    ] = None,
    transport: Annotated[Transport, typer.Option(help="How to read.")] = "sse",
    until_live: Annotated[
        bool,
        typer.Option(
            "--until-live",
            help="End when the events of --last, --after or --latest are printed, instead of waiting for more.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print each event as a JSON object.")] = False,
) -> None:
    """Print events as they come.

    Each event is a line: time, topic, type and data, with control characters escaped. When the connection breaks or the
    server restarts, the command reconnects and goes on after the last event that it printed: no event is printed twice.

    With --latest the newest event of each topic comes first, and then what changes. A topic that is deleted has an
    event of type feed.deleted. Behind a gap all of it is printed anew, and where the connection broke in the middle of
    it, the newest event of a topic may be printed once more.

    Example: feed tail 'orders/*' --last 10
    """
    if last is not None and after is not None:
        raise WrongUse("--last and --after: give one of them")
    if latest and (last is not None or type):
        raise WrongUse(f"--latest and {'--type' if last is None else '--last'}: give one of them")
    if every is not None and not latest:
        raise WrongUse("--every is for --latest")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    client = AsyncClient(url, token)
    items = client.subscribe(
        *patterns,
        types=type or [],
        after=after,
        last=last,
        latest=latest,
        every=seconds("--every", every),
        transport=transport,
    )
    end = None
    if until_live:
        # Without a replay there is no `feed.live`: the stream is live from its start.
        end = "feed.live" if latest or last is not None or after is not None else "feed.open"
    run_to_end(_tail(client, items, form_of(json=json), end))


async def _tail(client: AsyncClient, items: AsyncSubscription, form: Callable[[Event], str], end: str | None) -> None:
    """Print events without end, or until the notice of type `end` comes."""
    end_with_reader()
    report = _Report(client.url)
    async with client, items:
        async for item in items:
            if isinstance(item, Event):
                print(form(item), flush=True)
            else:
                report(item)
                if isinstance(item, Notice) and item.type == end:
                    return


def form_of(*, json: bool) -> Callable[[Event], str]:
    """Return the function that makes the line to print for an event."""
    return _json_line if json else _line


def _line(event: Event) -> str:
    return escaped(f"{rfc3339(event.time_ms)} {event.topic} {event.type} {event.text}")


def _json_line(event: Event) -> str:
    return escaped_json(event.message.decode())


class _Report:
    """Reports on standard error what happens to the stream itself: a line for each event, not for each try."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._waiting = Waiting(url, "reconnecting until it answers")

    def __call__(self, item: Item) -> None:
        match item:
            case Reconnecting(reason=reason):
                self._waiting(reason)
            case Notice(type="feed.open") if self._waiting.over():
                say(f"feed: {self._url}: connected")
            case Gap(requested=requested, resumed_from=resumed_from, reason=reason):
                say_gap(requested, resumed_from, reason)
            case Notice(type="feed.closing", data=data):
                say(f"feed: the server ends the stream: {data.get('reason')}")


def say_gap(requested: str, resumed_from: str, reason: str) -> None:
    """Say on standard error that events may be missing, and where."""
    say(f"feed: gap: events may be missing: {reason}: asked for {requested}, resumed from {resumed_from}")
