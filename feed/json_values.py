"""What JSON makes of Python values that it has no form for itself: dates, UUIDs, dataclasses, models and others.

Only values that `json` does not know come here, so that plain ones cost nothing. No library is imported for the sake
of its values: a pydantic model is whatever has a method `model_dump`.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PurePath
from typing import Any
from uuid import UUID

import msgspec

from feed.arguments import BYTES

_ISO_8601 = (datetime, date, time)
_TEXT = (
    UUID,
    Decimal,  # as a number, 1.10 would be 1.1 for most readers
    PurePath,
    IPv4Address,
    IPv6Address,
    IPv4Interface,
    IPv6Interface,
    IPv4Network,
    IPv6Network,
)

_OF_OUR_OWN = (*BYTES, *_ISO_8601, timedelta, Decimal, UUID)  # msgspec has other forms for some of these


class NoForm(ValueError):
    """A value that JSON has no form for. The words say what to do."""


def json_form(value: object) -> object:
    """Return what stands for the value in JSON: text, a number, a list or a dict, whose parts may need this again.

    Raises `NoForm`.
    """
    if isinstance(value, _ISO_8601):
        return value.isoformat()
    if isinstance(value, _TEXT):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (set, frozenset)):
        return _sorted(value)
    if isinstance(value, deque):
        return list(value)
    return _form_of_object(value)


def with_text_keys(value: object) -> Any:
    """Return a value whose dicts have keys that JSON can have: dates, UUIDs and enums become text there, too.

    Raises `NoForm` for a key that has no form as a text.
    """
    if isinstance(value, dict):
        return {_key(key): with_text_keys(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [with_text_keys(each) for each in value]
    return value


def _form_of_object(value: object) -> object:
    dump = None if isinstance(value, type) else getattr(type(value), "model_dump", None)
    if callable(dump):
        return _dumped(value, dump)
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value, builtin_types=_OF_OUR_OWN, enc_hook=json_form)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, BYTES):
        raise NoForm(
            "JSON has no form for bytes inside other data: make them text first, such as with decode() or base64"
        )
    raise NoForm(
        f"JSON has no form for {type(value).__name__}: make it a dict, a list, a text or a number first, or use a "
        "dataclass or a pydantic model"
    )


def _dumped(model: object, dump: Callable[..., object]) -> object:
    try:
        return dump(model, mode="json")
    except Exception as error:
        raise NoForm(f"model_dump(mode='json') of {type(model).__name__} failed: {type(error).__name__}") from error


def _sorted(values: set[Any] | frozenset[Any]) -> list[Any]:
    """In an order that is the same in each process: the same data under the same key has to be the same request."""
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=repr)


def _key(key: object) -> object:
    if key is None or isinstance(key, (str, int, float)):
        return key
    form = json_form(key) if isinstance(key, (*_ISO_8601, *_TEXT, Enum)) else None
    if not isinstance(form, (str, int, float)):
        raise NoForm(f"a key of the type {type(key).__name__}: make it a text or a number first")
    return form
