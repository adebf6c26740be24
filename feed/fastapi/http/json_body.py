"""Decode events from JSON bodies, never more than a batch may hold, and say what is wrong with a bad one.

msgspec only tells that a body is wrong. Its words, and its choice of exception, change between releases; so once a body
is wrong, this module finds out what is.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any, Generic, TypeVar, get_args

import msgspec

from feed import Invalid, Malformed
from feed.event import check_depth, parse_json
from feed.json_rules import json_fault
from feed.options import MAX_BATCH

T = TypeVar("T", bound=msgspec.Struct)

LARGE = 256 << 10
"""Size of a body, in bytes, above which decoding takes long enough to hold up other work."""

SPACE = b" \t\r\n"
"""Whitespace that JSON allows around a value."""

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""All that msgspec raises for bytes that are not JSON, or not what was expected. Some releases raise Python's own error
for invalid UTF-8 in a text."""

_REPEATED = 64  # characters of a client's name for a field that an error repeats


class Kind(Generic[T]):
    """Decodes one kind of event from JSON: the fields of a struct. `called` is its name in error messages. `one` is the
    plain decoder, for callers that turn its errors into messages themselves, with `fault`."""

    def __init__(self, struct: type[T], called: str) -> None:
        self._struct = struct
        self._called = called
        self.one = msgspec.json.Decoder(struct)
        self._many = msgspec.json.Decoder(list[struct])  # type: ignore[valid-type]

    def decode(self, raw: bytes, place: str = "body") -> T:
        """Decode one event. Raises `Malformed` for what is not JSON, and `Invalid`."""
        try:
            return self.one.decode(raw)
        except UNREADABLE as error:
            raise self.fault(error, raw, place) from None

    def decode_all(self, body: bytes) -> list[T]:
        """Decode a list of events. Raises as `decode` does, and `Invalid` for more events than a batch may hold."""
        if len(body) <= LARGE:
            try:
                found: list[T] = self._many.decode(body)
            except UNREADABLE:
                pass  # decode them one by one below, to name the place of the wrong one
            else:
                check_count(len(found))
                return found
        elements = _elements(body)
        check_count(len(elements))
        return [self.decode(bytes(raw), f"event {place}") for place, raw in enumerate(elements)]

    def fault(self, error: Exception, raw: bytes, place: str) -> Invalid | Malformed:
        """Return the error to raise instead of `error`, one of `UNREADABLE`, that `raw` caused."""
        raw = raw.strip(SPACE)
        if len(raw) > LARGE:
            # Not parsed: the objects made of it would take as much memory as the client likes.
            if isinstance(error, msgspec.ValidationError):
                return Invalid(place, f"is not {self._called} with {self._fields}, or one of these has to be text")
            return Malformed(f"{place}: not JSON: {json_fault(raw)}")
        try:
            value = parse_json(raw, place)
            check_depth(raw, place)
        except Malformed as malformed:
            return malformed
        return Invalid(*self._misfit(value, place))

    def _misfit(self, value: object, place: str) -> tuple[str, str]:
        """Return which part of a value is wrong, and why."""
        if not isinstance(value, dict):
            return place, f"has to be {self._called}, a JSON object with {self._fields}, not {_kind_of(value)}"
        known = {field.encode_name: field for field in msgspec.structs.fields(self._struct)}
        where = "" if place == "body" else f"{place}: "
        if self._struct.__struct_config__.forbid_unknown_fields:
            for name in value:
                if name not in known:
                    return f"{where}{name[:_REPEATED]!a}", f"is not a field of {self._called}, which has {self._fields}"
        for name, field in known.items():
            if name not in value:
                if field.required:
                    return f"{where}{name}", f"is missing: {self.has}"
            elif not _fits(value[name], field.type):
                wanted = "true or false" if field.type is bool else "text"
                return f"{where}{name}", f"has to be {wanted}, not {_kind_of(value[name])}"
        return place, f"is not {self._called} with {self._fields}, each given once"

    @property
    def has(self) -> str:
        """Say which fields there are."""
        return f"{self._called} has {self._fields}"

    @cached_property
    def _fields(self) -> str:
        names = [field.encode_name for field in msgspec.structs.fields(self._struct)]
        return f"{', '.join(names[:-1])} and {names[-1]}"


def _fits(value: object, expected: object) -> bool:
    """Return whether a value fits a field of this type: text, text or null, true or false, or anything
    (`msgspec.Raw`)."""
    if expected is msgspec.Raw:
        return True
    if expected is bool:
        return isinstance(value, bool)
    return isinstance(value, str) or (value is None and type(None) in get_args(expected))


def _kind_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "text"
        case int() | float():
            return "a number"
        case list():
            return "an array"
    return "an object"


def _elements(body: bytes) -> list[msgspec.Raw]:
    """Split an array into its elements, at most one more than a batch holds. Raises as `Kind.decode` does."""
    if not body.lstrip(SPACE).startswith(b"["):
        if len(body) <= LARGE:
            parse_json(body, "body")
        raise Invalid("body", "has to be an array of events")
    try:
        if len(body) <= LARGE:
            return _raws.decode(body)
        return [each for each in msgspec.structs.astuple(_bounded().decode(body)) if each is not None]
    except UNREADABLE:
        raise Malformed(f"body: not JSON: {json_fault(body)}") from None


_raws = msgspec.json.Decoder(list[msgspec.Raw])


@cache
def _bounded() -> msgspec.json.Decoder[Any]:
    """Return a decoder for lists that stops one element above a batch's limit. Without that bound a large body would
    become hundreds of thousands of objects, and hold up all other threads. Only a struct has a bound that msgspec obeys
    while reading. The decoder is made at its first use, as making it takes a while."""
    places = [(f"element_{place}", msgspec.Raw, None) for place in range(MAX_BATCH + 1)]
    return msgspec.json.Decoder(msgspec.defstruct("Elements", places, array_like=True))


def check_count(count: int) -> None:
    """Raises `Invalid` for more events than a batch may hold."""
    if count > MAX_BATCH:
        raise Invalid("batch", f"may hold at most {MAX_BATCH:,} events")
