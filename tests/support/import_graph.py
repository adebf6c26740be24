"""Which module imports which, read from the syntax trees: imports for type checkers and within functions count too.

`python -m tests.support.import_graph [FOLDER]` prints the numbers of the house, for this checkout or another one: for
all modules, then for each package, whose rooms are its own modules and its folders, each folder as a whole.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support.paths import ROOT

Graph = Mapping[str, frozenset[str]]
"""What each room imports, of the other rooms."""


class Imports(NamedTuple):
    """All imports of the packages: `own` between their modules, `foreign` the top-level names of anything else."""

    own: Graph
    foreign: Graph
    packages: frozenset[str]
    """The modules that are folders."""

    def level(self, package: str) -> Graph:
        """The graph of one package: each module in it is a room, and each folder. The package's own `__init__` is the
        room that bears the package's name."""
        inside = [module for module in self.own if module == package or module.startswith(f"{package}.")]
        arrows: dict[str, set[str]] = {room_of(module, package): set() for module in inside}
        for module in inside:
            room = room_of(module, package)
            targets = {room_of(target, package) for target in self.own[module] if target in inside}
            arrows[room] |= targets - {room}
        return {room: frozenset(targets) for room, targets in arrows.items()}


def room_of(module: str, package: str) -> str:
    """The module or folder that lies in `package` and is, or contains, `module`."""
    depth = package.count(".") + 2
    return ".".join(module.split(".")[:depth])


def read_imports(root: Path = ROOT) -> Imports:
    """Read the packages that lie in `root` and in its folder `web`, which was a package itself once. Not the tests."""
    files: dict[str, Path] = {}
    web = root / "web"
    for source in (root,) if (web / "__init__.py").exists() else (root, web):
        for top in sorted(source.glob("*/__init__.py")):
            if top.parent.name != "tests":
                files |= {_name(file, source): file for file in sorted(top.parent.rglob("*.py"))}
    imported = {module: set(_imported(module, file, files)) for module, file in files.items()}
    return Imports(
        own={module: frozenset(names & files.keys() - {module}) for module, names in imported.items()},
        foreign={module: frozenset(_tops(names - files.keys())) for module, names in imported.items()},
        packages=frozenset(module for module, file in files.items() if file.name == "__init__.py"),
    )


def _name(file: Path, source: Path) -> str:
    parts = file.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _tops(names: Iterable[str]) -> Iterator[str]:
    return (name.partition(".")[0] for name in names)


def _imported(module: str, file: Path, files: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                # `from package import name`: the name may be a module.
                yield inner if (inner := f"{base}.{alias.name}") in files else base


def circles(graph: Graph) -> list[list[str]]:
    """The rooms that can reach each other, as one list for each circle or knot of circles."""
    reached = {room: _reachable(graph, room) for room in graph}
    knots = {
        frozenset({room, *(other for other in reached[room] if room in reached[other])})
        for room in graph
        if room in reached[room]
    }
    return sorted(sorted(knot) for knot in knots)


def _reachable(graph: Graph, room: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[room])
    while waiting:
        if (each := waiting.pop()) not in found:
            found.add(each)
            waiting += graph[each]
    return found


def floors(graph: Graph) -> int:
    """How many rooms the longest way down passes, a circle being one."""
    knots = {room: frozenset(knot) for knot in circles(graph) for room in knot}
    heights: dict[frozenset[str], int] = {}

    def height(knot: frozenset[str]) -> int:
        if knot not in heights:
            below = {target for room in knot for target in graph[room]} - knot
            heights[knot] = 1 + max((height(knots.get(room, frozenset({room}))) for room in below), default=0)
        return heights[knot]

    return max((height(knots.get(room, frozenset({room}))) for room in graph), default=0)


def numbers(imports: Imports) -> Iterator[str]:
    """The table of the whole house and of each of its packages, line by line; then each circle."""
    yield f"{'':32}{'rooms':>8}{'arrows':>8}{'floors':>8}{'circles':>8}"
    found: list[str] = []
    for name, graph in [("all modules", imports.own), *((each, imports.level(each)) for each in _levels(imports))]:
        knots = circles(graph)
        yield f"{name:32}{len(graph):8}{sum(map(len, graph.values())):8}{floors(graph):8}{len(knots):8}"
        found += [f"circle in {name}: {', '.join(knot)}" for knot in knots]
    yield from found


def _levels(imports: Imports) -> list[str]:
    return sorted(package for package in imports.packages if len(imports.level(package)) > 1)


if __name__ == "__main__":
    print("\n".join(numbers(read_imports(*map(Path, sys.argv[1:2])))))
