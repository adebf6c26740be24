"""`feed history`: the events that are retained, a line each."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Annotated

import msgspec
import typer

from feed.client import PATIENCE, AsyncClient, Event, Page, checked_url
from feed_server.cli.client import DEFAULT_URL, UNSAID, Token, Url, Waiting, end_with_reader, run_to_end
from feed_server.cli.tail import form_of, say_gap
from feed_server.cli.terminal import WrongUse

_PAGE = 1_000  # events: the most that the server puts into one page


def history(
    patterns: Annotated[
        list[str], typer.Argument(metavar="PATTERN", help="A topic; a segment may be *, and the last one **.")
    ],
    url: Url = DEFAULT_URL,
    token: Token = None,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Only events after this one.")] = None,
    before: Annotated[str | None, typer.Option(metavar="ID", help="Only events before this one.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only events since this time: 2026-11-21T03:05:00Z.")
    ] = None,
    last: Annotated[int | None, typer.Option(metavar="N", min=1, max=1000, help="Only the newest N events.")] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most N events: the oldest, or with --before the newest.")
    ] = None,
    type: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this type; may be repeated.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print each event as a JSON object.")] = False,
) -> None:
    """Print the events that are retained, and end.

    Each event is a line, as feed tail prints it, the oldest first. Without --after, --before, --since or --last all
    retained events are printed.

    Example: feed history 'orders/**' --since 2026-11-21T03:05:00Z
    """
    bounds = {"--after": after, "--before": before, "--since": since, "--last": last}
    if len(given := [name for name, value in bounds.items() if value is not None]) > 1:
        raise WrongUse(f"{' and '.join(given)}: give one of them")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    waiting = Waiting(checked_url(url), f"trying again, for {PATIENCE:g} s in all", patience=UNSAID)
    wanted = _Wanted(patterns, type or (), after, before, since, last, limit)
    run_to_end(_print(AsyncClient(url, token, on_wait=waiting), wanted, form_of(json=json)))


class _Wanted(msgspec.Struct, frozen=True):
    """What the command line asks for."""

    patterns: Sequence[str]
    types: Sequence[str]
    after: str | None
    before: str | None
    since: str | None
    last: int | None
    limit: int | None

    @property
    def most(self) -> int | None:
        """How many events may be printed; None for any number."""
        return min((bound for bound in (self.last, self.limit) if bound is not None), default=None)

    async def pages(self, client: AsyncClient) -> AsyncGenerator[Page, None]:
        """Ask for one page after the other, up to the newest event; with `before` down to the oldest one."""
        size = min(self.most or _PAGE, _PAGE)
        after = self.after
        if self.last is not None:
            # The client's `history` ends after one page of `last`, which a page's limit in bytes may have cut short.
            page = await client.page(*self.patterns, types=self.types, last=self.last, limit=size)
            yield page
            after = page.next
        following = client.history(
            *self.patterns, types=self.types, after=after, before=self.before, since=self.since, limit=size
        )
        async with aclosing(following):
            async for page in following:
                yield page


async def _print(client: AsyncClient, wanted: _Wanted, form: Callable[[Event], str]) -> None:
    end_with_reader()
    backwards = wanted.before is not None
    kept: list[Sequence[Event]] = []  # pages that come backwards, until the oldest one is known
    left = wanted.most
    async with client, aclosing(wanted.pages(client)) as pages:
        async for page in pages:
            if page.gap is not None:
                say_gap(page.gap.requested, page.gap.resumed_from, page.gap.reason)
            events: Sequence[Event] = page.events
            if left is not None:
                events = events[-left:] if backwards else events[:left]
                left -= len(events)
            if backwards:
                kept.append(events)
            else:
                _print_all(events, form)
            if left == 0:
                break
    for events in reversed(kept):
        _print_all(events, form)
    sys.stdout.flush()


def _print_all(events: Sequence[Event], form: Callable[[Event], str]) -> None:
    for event in events:
        print(form(event))
