"""Public names as a reference page shows them: how each is called, and what its docstring says.

Of `EXPLAINED` classes each method has a section with its whole docstring. Of all others there is a list of members with
the first paragraph of each.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import re
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from functools import cached_property
from textwrap import dedent
from types import ModuleType

import msgspec

_MODULES = re.compile(r"\b(?:[a-z_]\w*\.)+(?=[A-Za-z_])")
_HIDDEN_PARAMETERS = {"self", "cls"}
_NOTHING = object()
_WIDTH = 100

MADE_BY_CALLERS = {"AsyncClient", "Client", "Feed", "FeedOptions", "Grants", "Limits", "Retention", "Topic"}
"""Classes whose constructor is shown. All others are made by the package, and their fields are shown."""

EXPLAINED = {"AsyncClient", "Feed"}
"""Classes of whose methods the whole docstring is shown."""

PLAIN = {"Client": "AsyncClient"}
"""Classes of plain code, and their twins in asyncio. What both docstrings say is said once, of the twin."""


def described_names(
    module: ModuleType, inner: Mapping[str, Set[str]], besides: ModuleType | None = None, names: Collection[str] = ()
) -> str:
    """Return a heading, the call and a description for each public name of a module that is not an error, and a list of
    a class's public members. `inner` are the members of a class that are for the package itself. What another module
    offers too, under the same name, is left to that module. `names` are those that are described, all unless given."""
    return "\n".join(
        _described(module, name, value, inner.get(name, frozenset()))
        for name in (names or module.__all__)
        if not is_error(value := getattr(module, name)) and value is not getattr(besides, name, _NOTHING)
    )


def is_error(value: object) -> bool:
    """Return whether a value is a class of exceptions."""
    return isinstance(value, type) and issubclass(value, BaseException)


def first_paragraph(value: object) -> str:
    """Return the first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())


def call(name: str, function: Callable[..., object], *, width: int = 0) -> str:
    """Return how something is called: `publish(topic: str, data: object) -> str`. With a width, a call that is longer
    has a line for each parameter."""
    signature = inspect.signature(function)
    shown: list[str] = []
    stars = False
    for parameter in signature.parameters.values():
        if parameter.name in _HIDDEN_PARAMETERS:
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not stars:
            shown.append("*")
        stars |= parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        shown.append(_parameter(parameter))
    returned = signature.return_annotation
    ends = "" if returned is signature.empty or isinstance(function, type) else f" -> {_type(returned)}"
    line = f"{name}({', '.join(shown)}){ends}"
    if width and len(line) > width:
        return "\n".join([f"{name}(", *(f"    {each}," for each in shown), f"){ends}"])
    return line


def whole_text(value: object) -> str:
    """Return all paragraphs of a docstring, each on one line; a paragraph that is indented is a block of code."""
    paragraphs = (inspect.getdoc(value) or "").split("\n\n")
    return "\n\n".join(
        f"```python\n{dedent(each)}\n```" if each.startswith("    ") else " ".join(each.split()) for each in paragraphs
    )


def _described(module: ModuleType, name: str, value: object, inner: Set[str]) -> str:
    sections: list[str] = []
    members: list[str] = []
    if isinstance(value, type):
        made = name in MADE_BY_CALLERS
        body = _called(name, value) if made else f"{first_paragraph(value)}\n"
        members += () if made else _fields(value, inner)
        twin = getattr(module, PLAIN[name]) if name in PLAIN else None
        for member, found in _members(value, inner):
            if name in EXPLAINED and inspect.isfunction(found):
                sections.append(f"#### `{name}.{member}`\n\n{_called(member, found)}")
            else:
                members.append(_line(member, found, twin))
    elif inspect.isfunction(value):
        body = _called(name, value)
    else:
        shown = repr(value) if isinstance(value, (str, int, float)) else _type(value).replace("'", '"')
        body = f"`{shown}`\n" + (f"\n{words}\n" if (words := text_of_constant(module, name)) else "")
    listed = "\n".join(members) + "\n" if members else ""
    return "\n".join(filter(None, [f"### `{name}`\n", body, listed, *sections]))


def _called(name: str, value: Callable[..., object]) -> str:
    return f"```text\n{_awaited(value)}{call(name, value, width=_WIDTH)}\n```\n\n{whole_text(value)}\n"


def text_of_constant(module: ModuleType, name: str) -> str:
    """Return the docstring of a constant on one line, '' if it has none: the text below it, where it is assigned. The
    package's own module only imports it."""
    body = ast.parse(inspect.getsource(module)).body
    for statement, below in zip(body, [*body[1:], None], strict=True):
        match statement:
            case ast.ImportFrom(module=str(source), names=names):
                for each in names:
                    if (each.asname or each.name) == name:
                        return text_of_constant(importlib.import_module(source), each.name)
            case ast.Assign(targets=[ast.Name(id=assigned)]) if assigned == name:
                match below:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        return " ".join(text.split())
    return ""


def _fields(kind: type, inner: Set[str]) -> Iterator[str]:
    """The fields of a struct that callers only read."""
    if issubclass(kind, msgspec.Struct):
        for name, annotation in inspect.get_annotations(kind).items():
            if not name.startswith("_") and name not in inner:
                yield _bullet(f".{name}: {_type(annotation)}", "")


def _members(kind: type, inner: Set[str]) -> Iterator[tuple[str, object]]:
    """The public methods and properties of a class, which may be those of its bases."""
    seen: set[str] = set()
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] != "feed":
            continue
        for name, member in vars(base).items():
            if name.startswith("_") or name in inner or name in seen:
                continue
            seen.add(name)
            if isinstance(member, (classmethod, staticmethod)):
                member = member.__func__
            if inspect.isfunction(member) or isinstance(member, (property, cached_property)):  # else it is a field
                yield name, member


def _line(name: str, member: object, twin: type | None) -> str:
    if inspect.isfunction(member):
        words = first_paragraph(member)
        if twin is not None and (other := vars(twin).get(name)) is not None and _says_the_same(member, other):
            place = f"{twin.__name__}.{name}"
            words = f"As [`{place}`](#{place.replace('.', '').lower()}), without `await` and `async`."
        return _bullet(f"{_awaited(member)}{call(name, member)}", words)
    return _bullet(f".{name}", first_paragraph(member.func if isinstance(member, cached_property) else member))


def _says_the_same(plain: object, twin: object) -> bool:
    return whole_text(plain) == whole_text(twin).replace("`async ", "`")


def _awaited(function: object) -> str:
    return "await " if inspect.iscoroutinefunction(function) else ""


def _bullet(code: str, words: str) -> str:
    return f"- `{code}`" + (f"<br>{words}" if words else "")


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(parameter.kind.name, "")
    text = f"{stars}{parameter.name}"
    if parameter.annotation is not parameter.empty:
        text += f": {_type(parameter.annotation)}"
    if parameter.default is not parameter.empty:
        spaces = " " if parameter.annotation is not parameter.empty else ""
        text += f"{spaces}={spaces}{_default(parameter.default)}"
    return text


def _default(value: object) -> str:
    if isinstance(value, msgspec.Struct):
        return f"{type(value).__name__}()" if value == type(value)() else repr(value)
    if isinstance(value, float) and math.isinf(value):
        return "math.inf"
    return repr(value)


def _type(annotation: object) -> str:
    if isinstance(annotation, str):
        return _MODULES.sub("", annotation)
    if annotation is None or annotation is type(None):
        return "None"
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return _MODULES.sub("", str(annotation))
