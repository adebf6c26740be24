"""`feed subscriptions` and `feed kick`: who reads now, and how to end their streams."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any
from urllib.parse import quote

import orjson
import typer

from feed import FeedError
from feed.client import Refused
from feed_server.cli.admin import AdminClient
from feed_server.cli.client import DEFAULT_URL, Token, Url, run_to_end
from feed_server.cli.terminal import WrongUse, escaped_json, say, show_table

_PAGE = 1_000  # subscriptions: the most that the server puts into one page
_COLUMNS = {
    "ID": "id",
    "SUBJECT": "subject",
    "NODE": "node",
    "ADDRESS": "address",
    "TRANSPORT": "transport",
    "SINCE": "since",
    "QUEUED": "queued",
    "PATTERNS": "patterns",
}


# feed subscriptions


def subscriptions(
    url: Url = DEFAULT_URL,
    token: Token = None,
    subject: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only the streams of this subject: the `sub` of their token.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print each subscription as a JSON object.")] = False,
) -> None:
    """List the streams that are open now, on all nodes.

    The token must have admin. A terminal gets a table; a pipe or a file gets one JSON object a line. Nodes that do not
    answer are named on standard error: their streams are missing in the list.

    Example: FEED_TOKEN=$(feed token --admin) feed subscriptions --subject alice
    """
    run_to_end(_list(AdminClient(url, token), subject, as_json=json or not sys.stdout.isatty()))


async def _list(client: AdminClient, subject: str | None, *, as_json: bool) -> None:
    silent: dict[str, None] = {}  # in the order in which they were named
    rows: list[Mapping[str, Any]] = []
    async with client, aclosing(_pages(client)) as pages:
        async for page in pages:
            silent |= dict.fromkeys(map(str, page.get("silent", ())))
            found = [each for each in page["subscriptions"] if subject is None or each.get("subject") == subject]
            if as_json:
                for each in found:
                    print(escaped_json(orjson.dumps(each).decode()))
            else:
                rows += found
    if rows:
        show_table(list(_COLUMNS), [[_cell(row.get(name)) for name in _COLUMNS.values()] for row in rows])
    elif not as_json:
        say("no streams are open" if subject is None else f"no streams of {subject!r} are open")
    sys.stdout.flush()
    if silent:
        say(f"feed: {_named(list(silent))} did not answer in time: the list is without their streams")


async def _pages(client: AdminClient) -> AsyncGenerator[dict[str, Any], None]:
    after = ""
    while True:
        page = await client.get("/subscriptions", limit=_PAGE, **({"after": after} if after else {}))
        if not isinstance(page.get("subscriptions"), list):
            raise FeedError(f"{client.url}: the answer is not a list of subscriptions")
        yield page
        after = page.get("next") or ""
        if not after:
            return


def _cell(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else str(value)


# feed kick


def kick(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="A stream, as feed subscriptions names it.")
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    subject: Annotated[
        str | None, typer.Option(metavar="NAME", help="All streams of this subject: the `sub` of their token.")
    ] = None,
) -> None:
    """End streams, on whichever node they are.

    The token must have admin. A kick is not a ban: a client may come back, and its token is judged anew.

    Example: FEED_TOKEN=$(feed token --admin) feed kick --subject alice
    """
    if subject is not None:
        if ids:
            raise WrongUse("give the ids of streams, or --subject")
        if not subject:
            raise WrongUse("--subject: must not be empty")
        run_to_end(_kick_subject(AdminClient(url, token), subject))
        return
    if not ids:
        raise WrongUse("which streams: give their ids, or --subject")
    for each in ids:
        if not each.strip("."):  # as a path it would be another one
            raise WrongUse(f"{each!r} is not the id of a stream: see feed subscriptions")
    run_to_end(_kick(AdminClient(url, token), list(dict.fromkeys(ids))))


async def _kick(client: AdminClient, ids: Sequence[str]) -> None:
    """End each stream; one that cannot be ended does not keep the others from it."""
    ended = 0
    failures: list[str] = []
    async with client:
        for id in ids:
            try:
                await client.delete(f"/subscriptions/{quote(id, safe='')}")
                ended += 1
            except Refused as error:
                if error.status not in {404, 503}:  # of this one stream
                    raise
                failures.append(f"{id}: {error}")
    say(f"ended {_streams(ended)}")
    for failure in failures[:-1]:
        say(f"feed: {failure}")
    if failures:
        raise FeedError(failures[-1])


async def _kick_subject(client: AdminClient, subject: str) -> None:
    async with client:
        answer = await client.delete("/subscriptions", subject=subject)
    ended, silent = answer.get("ended"), answer.get("silent_nodes", [])
    if not isinstance(ended, int):
        raise FeedError(f"{client.url}: the answer is not a feed's")
    say(f"ended {_streams(ended)}")
    if silent:
        raise FeedError(f"{_named(silent)} did not answer in time: streams there may still be open: try again")


def _streams(count: int) -> str:
    return f"{count:,} stream{'' if count == 1 else 's'}"


def _named(nodes: Sequence[object]) -> str:
    return f"{'node' if len(nodes) == 1 else 'the nodes'} {', '.join(map(str, nodes))}"
