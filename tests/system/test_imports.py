"""Which way imports go: feed <- feed.fastapi <- feed_server, floor by floor, and never in a circle.

Every import counts, also those for type checkers and those within functions: a circle that is cured by a late import
is one to whoever reads. `python -m tests.support.import_graph` prints the whole in numbers.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.import_graph import Imports, circles, floors, numbers, read_imports, room_of

HOUSE = read_imports()

# Of each package, from the roof to the ground: a room imports what is on the floors below its own, and nothing else of
# the package. A room is a module, or a folder as a whole; the package's own name stands for its `__init__`.
FLOORS = {
    "feed.fastapi": [
        {"feed.fastapi"},
        {"routes"},
        {"auth", "describe", "metrics", "outlet", "pages"},
        {"http"},
        {"logging", "stepping", "topics"},
        {"misfits"},
    ],
    "feed_server": [
        {"feed_server"},
        {"cli"},
        {"bench", "doctor", "server"},
        {"app"},
        {"publishing", "setting_errors", "verifier"},
        {"settings"},
        {"auth", "logging"},
    ],
}

SHARED = {
    "feed.arguments",
    "feed.control",
    "feed.errors",
    "feed.event",
    "feed.json_rules",
    "feed.json_values",
    "feed.media_types",
    "feed.pages",
    "feed.terms",
    "feed.units",
    "feed.pattern",
    "feed.wire",
}
"""What the client has in common with the library: nouns and rules, without a log, a socket or a clock. The client must
not need more of the library than this."""


def shown(arrows: set[tuple[str, str]]) -> str:
    """Arrows that should not be there, one a line, and the numbers of the house."""
    return "\n".join([*(f"{source} imports {target}" for source, target in sorted(arrows)), "", *numbers(HOUSE)])


def is_in(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def arrows(*sources: str) -> set[tuple[str, str]]:
    """All imports between modules that begin in one of these packages."""
    return {(module, target) for module, found in HOUSE.own.items() if is_in(module, *sources) for target in found}


def test_the_library_knows_neither_what_one_embeds_nor_the_server() -> None:
    library = {(source, target) for source, target in arrows("feed") if not is_in(source, "feed.fastapi")}
    upward = {arrow for arrow in library if is_in(arrow[1], "feed.fastapi", "feed_server", "feed_dashboard")}
    # The command's name is the library's, its code the server's; it says how to install that where it is missing.
    assert upward == {("feed.__main__", "feed_server.cli.main")}, shown(upward)


def test_the_client_needs_nothing_of_the_servers_side() -> None:
    beyond = {arrow for arrow in arrows("feed.client") if not is_in(arrow[1], "feed.client") and arrow[1] not in SHARED}
    assert not beyond, shown(beyond)
    beyond = {(module, target) for module, target in arrows(*SHARED) if target not in SHARED}
    assert not beyond, shown(beyond)


def test_what_one_embeds_knows_no_server() -> None:
    upward = {arrow for arrow in arrows("feed.fastapi") if is_in(arrow[1], "feed_server", "feed_dashboard")}
    assert not upward, shown(upward)


def test_the_pages_are_plain_files() -> None:
    assert {module for module in HOUSE.own if is_in(module, "feed_dashboard")} == {"feed_dashboard"}
    assert not HOUSE.own["feed_dashboard"] | HOUSE.foreign["feed_dashboard"]


def test_only_the_command_line_knows_typer_and_rich() -> None:
    found = {module for module, names in HOUSE.foreign.items() if names & {"click", "rich", "typer"}}
    assert found
    assert {module for module in found if not is_in(module, "feed_server.cli")} == set()


@pytest.mark.parametrize("package", ["", *sorted(HOUSE.packages)])
def test_there_is_no_circle(package: str) -> None:
    """Neither among all modules, nor among the rooms of a package: its modules, and its folders as wholes."""
    knots = circles(HOUSE.level(package) if package else HOUSE.own)
    assert not knots, "\n".join([*map(" <-> ".join, knots), "", *numbers(HOUSE)])


@pytest.mark.parametrize("package", FLOORS)
def test_a_room_imports_only_what_is_below_it(package: str) -> None:
    names = [{package if name == package else f"{package}.{name}" for name in floor} for floor in FLOORS[package]]
    height = {name: -number for number, floor in enumerate(names) for name in floor}
    graph = HOUSE.level(package)
    assert graph.keys() == height.keys(), "a new room has a floor: say in FLOORS which"
    upward = {(room, target) for room, found in graph.items() for target in found if height[target] >= height[room]}
    assert not upward, shown(upward)


# The graph itself.


def test_every_import_is_seen(tmp_path: Path) -> None:
    files = {
        "a/__init__.py": "",
        "a/one.py": "import a.two\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from b import c\n",
        "a/two.py": "def f():\n    from a.inner import deep\n    import typer.main\n",
        "a/inner/__init__.py": "from . import deep\n",
        "a/inner/deep.py": "from .. import one\nfrom ..two import f\nfrom a import inner\n",
        "web/b/__init__.py": "from a.one import x\n",
        "web/b/c.py": "",
        "tests/__init__.py": "import a\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = read_imports(tmp_path)
    assert {module: set(targets) for module, targets in found.own.items()} == {
        "a": set(),
        "a.one": {"a.two", "b.c"},
        "a.two": {"a.inner.deep"},
        "a.inner": {"a.inner.deep"},
        "a.inner.deep": {"a.one", "a.two", "a.inner"},
        "b": {"a.one"},
        "b.c": set(),
    }
    assert found.foreign["a.two"] == {"typer"}
    assert found.packages == {"a", "a.inner", "b"}
    assert room_of("a.inner.deep", "a") == "a.inner"
    assert found.level("a") == {"a": set(), "a.one": {"a.two"}, "a.two": {"a.inner"}, "a.inner": {"a.one", "a.two"}}
    assert circles(found.level("a")) == [["a.inner", "a.one", "a.two"]]


def test_a_circle_is_one_floor() -> None:
    graph = {name: frozenset(targets) for name, targets in {"a": "b", "b": "cd", "c": "b", "d": "e", "e": ""}.items()}
    assert circles(graph) == [["b", "c"]]
    assert floors(graph) == 4
    assert floors({}) == 0
    assert list(numbers(Imports(graph, {}, frozenset())))[1].split() == ["all", "modules", "5", "5", "4", "1"]
