"""Public names as a reference page shows them: how each is called, and the first paragraph of its docstring."""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Set
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


def described_names(module: ModuleType, inner: Mapping[str, Set[str]], besides: ModuleType | None = None) -> str:
    """Return a heading, the call and a description for each public name of a module that is not an error, and a list of
    a class's public members. `inner` are the members of a class that are for the package itself. What another module
    offers too, under the same name, is left to that module."""
    return "\n".join(
        _described(name, value, inner.get(name, frozenset()))
        for name in module.__all__
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


def _described(name: str, value: object, inner: Set[str]) -> str:
    if isinstance(value, type) and name not in MADE_BY_CALLERS:
        body = f"{first_paragraph(value)}\n"
        members = [*_fields(value, inner), *_members(value, inner)]
    elif callable(value) and hasattr(value, "__name__"):
        body = f"```text\n{call(name, value, width=_WIDTH)}\n```\n\n{whole_text(value)}\n"
        members = [*_members(value, inner)] if isinstance(value, type) else []
    else:
        body = f"`{value!r}`\n" if isinstance(value, (str, int, float)) else f"`{_type(value)}`\n"
        members = []
    return f"### `{name}`\n\n{body}" + ("\n" + "\n".join(members) + "\n" if members else "")


def _fields(kind: type, inner: Set[str]) -> Iterator[str]:
    """The fields of a struct that callers only read."""
    if issubclass(kind, msgspec.Struct):
        for name, annotation in inspect.get_annotations(kind).items():
            if not name.startswith("_") and name not in inner:
                yield _bullet(f".{name}: {_type(annotation)}", "")


def _members(kind: type, inner: Set[str]) -> Iterator[str]:
    seen: set[str] = set()
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] != "feed":
            continue
        for name, member in vars(base).items():
            if name.startswith("_") or name in inner or name in seen:
                continue
            seen.add(name)
            if (line := _member(name, member)) is not None:
                yield line


def _member(name: str, member: object) -> str | None:
    if isinstance(member, (classmethod, staticmethod)):
        member = member.__func__
    if inspect.isfunction(member):
        before = "await " if inspect.iscoroutinefunction(member) else ""
        return _bullet(f"{before}{call(name, member)}", first_paragraph(member))
    if isinstance(member, property):
        return _bullet(f".{name}", first_paragraph(member.fget))
    if isinstance(member, cached_property):
        return _bullet(f".{name}", first_paragraph(member.func))
    return None  # a field


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
