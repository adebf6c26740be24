"""`feed topics`: the names of the topics that have retained events."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import orjson
import typer

from feed.client import PATIENCE, AsyncClient, TopicInfo, checked_url
from feed.wire import rfc3339
from feed_server.cli.client import DEFAULT_URL, UNSAID, Token, Url, Waiting, end_with_reader, run_to_end
from feed_server.cli.terminal import escaped_json, say, show_table


def topics(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATTERN", help="A topic; a segment may be *, and the last one **. Without one: all topics."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    after: Annotated[
        str | None, typer.Option(metavar="TOPIC", help="Only topics behind this one, in the order of names.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print each topic as a JSON object.")] = False,
) -> None:
    """List the topics that have retained events, by name.

    Of each topic the type, id and time of its newest event are shown. A topic whose newest event is of type
    feed.deleted has no value any more. A terminal gets a table; a pipe or a file gets one JSON object a line.

    Example: feed topics 'orders/**'
    """
    waiting = Waiting(checked_url(url), f"trying again, for {PATIENCE:g} s in all", patience=UNSAID)
    client = AsyncClient(url, token, on_wait=waiting)
    run_to_end(_list(client, patterns or ["**"], after or "", as_json=json or not sys.stdout.isatty()))


async def _list(client: AsyncClient, patterns: Sequence[str], after: str, *, as_json: bool) -> None:
    end_with_reader()
    rows: list[Sequence[str]] = []
    async with client:
        async for topic in client.topics(patterns, after=after):
            if as_json:
                print(_json_line(topic))
            else:
                rows.append((topic.name, topic.type, topic.last_id, rfc3339(topic.last_time_ms)))
    if rows:
        show_table(("TOPIC", "TYPE", "LAST ID", "LAST TIME"), rows)
    elif not as_json:
        say("there are no topics with retained events")
    sys.stdout.flush()


def _json_line(topic: TopicInfo) -> str:
    """Return the topic as the server lists it."""
    fields = {
        "topic": topic.name,
        "last_id": topic.last_id,
        "last_time": rfc3339(topic.last_time_ms),
        "type": topic.type,
    }
    return escaped_json(orjson.dumps(fields).decode())
