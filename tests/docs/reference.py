"""The reference pages, as far as the code knows what stands in them: `python -m tests.docs.reference --write`.

Without `--write` it says which pages are not what the code says, and ends with 1. What is written by hand is left as it
is: all outside of the marked regions, and a table's last column where a region says so (`tests.docs.regions`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any, get_args

import typer

import feed
import feed.client
import feed.errors
import feed.fastapi
from feed import Feed, FeedError
from feed.control import Reason
from feed.fastapi.describe.openapi import MARKS, PAYLOADS
from feed.fastapi.http.parameters import PARAMETERS
from feed.fastapi.http.problems import status_of
from feed.fastapi.metrics.table import FIGURES, Figure, LoopDelay, Snapshot
from feed_server.app import create_app
from feed_server.cli.main import app as command_line
from feed_server.settings import Settings, is_secret, option, variable
from tests.docs.regions import Write, plain, rewritten, table
from tests.docs.signatures import described_names, first_paragraph, is_error
from tests.support.paths import DOCS

REFERENCE = DOCS / "reference"

_WIRE = {"sse", "line", "envelope", "message", "topic", "forget_wire_formats", "size", "retry", "type", "id", "data"}
INNER: dict[str, set[str]] = {
    "Event": {"sse", "line", "envelope", "forget_wire_formats", "size"},
    "Draft": {"data_bytes", "is_json", "envelope"},
    "Gap": _WIRE,
    "Feed": {"append", "attach", "check_process", "detach", "loop", "read_page", "read_topics", "running"}
    | {"select", "turn_away"},
    "Grants": {"check_admin", "check_not_expired", "check_publish", "check_publish_all", "check_publishes_at_all"}
    | {"check_subscribe", "hint"},
    "Limits": {"drained_retry", "jittered_retry", "retry_after"},
    "Topic": {"covers", "draft", "validate"},
}
"""Members of classes that belong to the package itself, and are on none of the pages."""

_SUBSCRIPTION = {"announce_gap", "beat", "behind", "block", "break_off", "end", "fall_behind", "flow_into", "flush"} | {
    "lose", "note_position", "offer", "peer", "queued", "take", "told", "unblock", "wake"
}  # fmt: skip


def settings(present: str) -> str:
    """Write a row for each setting: what `feed serve` makes its options of."""
    defaults = Settings.model_construct().model_dump(mode="json")

    def row(name: str) -> Sequence[str]:
        default = defaults[name]
        shown = "" if default in (None, "", False) else f"`{default}`"
        return f"`{variable(name)}`", shown, plain(Settings.model_fields[name].description or "")

    return table(present, ["setting", "default", "meaning"], map(row, Settings.model_fields), by_hand="to know")


def metrics(present: str) -> str:
    """Write a row for each metric, with the values of its label, which are known beforehand."""
    now = Snapshot(Feed("memory:"), LoopDelay(), None)

    def row(figure: Any) -> Sequence[str]:
        kind = figure.kind if isinstance(figure, Figure) else "histogram"
        total = "_total" if kind == "counter" else ""
        values = ", ".join(f"`{value}`" for value in figure.values(now)) if figure.label else ""
        label = f"`{figure.label}`: {values}" if figure.label else ""
        return f"`{figure.name}{total}`", kind, label, figure.documentation

    return table(present, ["metric", "kind", "label", "meaning"], map(row, FIGURES), by_hand="when to worry")


def parameters(present: str) -> str:
    """Write a row for each query parameter: the routes that take it, and what `/docs` says of it."""
    words: dict[str, list[str]] = {name: [] for name in PARAMETERS}
    for _, _, operation in _operations():
        for each in operation.get("parameters", ()):
            if each["in"] == "query" and each["description"] not in words[each["name"]]:
                words[each["name"]].append(each["description"])

    def row(name: str) -> Sequence[str]:
        uses = PARAMETERS[name]
        takers = sorted(re.sub(r" \(.*", "", use.value) for use in uses)
        return f"`{name}`", "all" if uses == PARAMETERS["token"] else "; ".join(takers), " · ".join(words[name])

    return table(present, ["parameter", "taken by", "meaning"], map(row, PARAMETERS), by_hand="to know")


def routes(present: str) -> str:
    """Write a row for each route of the server, with the statuses that it answers."""
    rows = (
        (
            f"`{method.upper()} {path}`",
            operation.get("description") or operation.get("summary") or "",
            " ".join(sorted(operation["responses"])),
        )
        for path, method, operation in _operations()
    )
    return table(present, ["route", "what it does", "statuses"], rows, by_hand="")


def _operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    document = create_app(Settings(log="memory:")).openapi()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield path, method, operation


def control_events(present: str) -> str:
    """Write a row for each control event, with the members of its data."""
    rows = ((f"`{name}`", _members(schema)) for name, schema in PAYLOADS.items())
    return table(present, ["type", "data"], rows, by_hand="meaning")


def _members(schema: dict[str, Any]) -> str:
    """The members of an object, the optional ones with a question mark."""
    properties = schema.get("properties", {})
    required = schema.get("required", ())
    return ", ".join(f"`{name}{'' if name in required else '?'}`" for name in properties) or "empty"


def marks(present: str) -> str:
    """Write a row for each event of the log that only the feed makes, with the members of its data."""
    rows = ((f"`{name}`", _members(schema)) for name, schema in MARKS.items())
    return table(present, ["type", "data"], rows, by_hand="meaning")


def reasons(present: str) -> str:
    """Write a row for each reason with which the server ends a stream."""
    return table(present, ["reason"], ((f"`{reason}`",) for reason in get_args(Reason)), by_hand="meaning")


def errors(present: str) -> str:
    """Write a row for each class of errors, with its HTTP status."""
    rows = ((f"`feed.{name}`", _status(kind), first_paragraph(kind)) for name, kind in _errors(feed))
    return table(present, ["error", "HTTP status", "meaning"], rows, by_hand="what to do")


def client_errors(present: str) -> str:
    """Write a row for each class of errors that only the clients raise."""
    rows = ((f"`feed.client.{name}`", first_paragraph(kind)) for name, kind in _errors(feed.client))
    return table(present, ["error", "meaning"], rows, by_hand="what to do")


def _errors(module: Any) -> Iterator[tuple[str, type[FeedError]]]:
    """The errors that a module names, and that `feed` does not name already, unless the module is `feed`."""
    for name in module.__all__:
        kind = getattr(module, name)
        if is_error(kind) and (module is feed or kind not in vars(feed).values()):
            yield name, kind


def _status(kind: type[FeedError]) -> str:
    status = status_of(kind.__new__(kind))
    return "" if status == HTTPStatus.INTERNAL_SERVER_ERROR else str(status)


def error_tree(present: str) -> str:
    """Write the tree of errors, as `feed.errors` begins with it."""
    lines = (feed.errors.__doc__ or "").splitlines()
    tree = [line.removeprefix("    ") for line in lines if line.startswith("    ")]
    return "```text\n" + "\n".join(tree) + "\n```\n"


def statuses(present: str) -> str:
    """Write a row for each status that is an error, as problem documents bear it."""
    found = {status for _, _, operation in _operations() for status in operation["responses"] if status >= "400"}
    raised: dict[str, list[str]] = {status: [] for status in sorted(found | _ELSEWHERE)}
    for name, kind in _errors(feed):
        if (status := _status(kind)) in raised:
            raised[status].append(f"`{name}`")
    rows = ((f"`{status}`", ", ".join(names)) for status, names in raised.items())
    return table(present, ["status", "error"], rows, by_hand="meaning")


_ELSEWHERE = {"405", "426", "500"}  # of no route in particular


def commands(present: str) -> str:
    """Write a section for each command: what it does, its arguments and its options."""
    group: Any = typer.main.get_command(command_line)
    return "\n".join(_command(name, command) for name, command in group.commands.items())


def _command(name: str, command: Any) -> str:
    own = [each for each in command.params if name != "serve" or each.name not in Settings.model_fields]
    takes = [each for each in own if each.param_type_name == "argument"]
    usage = " ".join([f"feed {name}", *(map(_argument, takes)), "[OPTIONS]"])
    paragraphs = [_paragraph(" ".join(each.split())) for each in (command.help or "").split("\n\n")]
    text = f"### `{usage}`\n\n" + "\n\n".join(paragraphs) + "\n"
    if name == "serve":
        text += "\nEach [setting](settings.md) is an option: "
        text += f"`{variable('max_data')}` is `{option('max_data')}`. Secrets are not: "
        text += ", ".join(f"`{variable(each)}`" for each in filter(is_secret, Settings.model_fields)) + ".\n"
    rows = [(f"`{_named(each)}`", plain(each.help or ""), _default(each)) for each in own if each.name != "help"]
    return text + ("\n" + table("", ["", "meaning", "default"], rows) if rows else "")


def _paragraph(text: str) -> str:
    example = text.removeprefix("Example: ")
    return plain(text) if example == text else f"```sh\n{example}\n```"


def _argument(parameter: Any) -> str:
    shown: str = parameter.metavar or parameter.name.upper()
    if parameter.nargs == -1 or getattr(parameter, "multiple", False):
        shown += "…"
    return shown if parameter.required else f"[{shown.strip('[]')}]"


def _named(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper()).strip("[]")
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    choices = "|".join(str(getattr(each, "value", each)) for each in parameter.type_descriptor.choices or ())
    shown = "" if parameter.is_flag else parameter.metavar or choices
    return f"{names} {shown}".strip()


def _default(parameter: Any) -> str:
    default = getattr(parameter.default, "value", parameter.default)
    named = f"`{parameter.envvar}`" if parameter.envvar else ""
    if default in (None, False, (), []) or callable(default):
        return named
    return f"{named}, else `{default}`" if named else f"`{default}`"


def library(present: str) -> str:
    """Write what `feed` offers, but for `Feed` itself."""
    others = [name for name in feed.__all__ if name != "Feed"]
    return described_names(feed, {**INNER, "Subscription": _SUBSCRIPTION}, names=others)


def feed_class(present: str) -> str:
    """Write what a `Feed` can do."""
    return described_names(feed, INNER, names=["Feed"])


def embedding(present: str) -> str:
    """Write what `feed.fastapi` offers."""
    return described_names(feed.fastapi, INNER)


def client(present: str) -> str:
    """Write what `feed.client` offers."""
    return described_names(feed.client, INNER, feed)


REGIONS: dict[str, Write] = {
    "settings": settings,
    "metrics": metrics,
    "parameters": parameters,
    "routes": routes,
    "control-events": control_events,
    "marks": marks,
    "reasons": reasons,
    "errors": errors,
    "client-errors": client_errors,
    "error-tree": error_tree,
    "statuses": statuses,
    "commands": commands,
    "library": library,
    "feed": feed_class,
    "embedding": embedding,
    "client": client,
}
"""Who writes which region."""


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or say which are not what they should be."""
    write, stale = "--write" in arguments, []
    for page in sorted(REFERENCE.glob("*.md")):
        present = page.read_text(encoding="utf-8")
        if (wanted := rewritten(present, REGIONS)) != present:
            stale.append(page.name)
            if write:
                page.write_text(wanted, encoding="utf-8")
    if stale:
        print(f"{'written' if write else 'not what the code says: python -m tests.docs.reference --write'}: {stale}")
    return 1 if stale and not write else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
