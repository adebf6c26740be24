"""JSON bodies: events that are read without making more of them than are taken, and the words for what is wrong.

msgspec says that a body is not what was expected, and nothing else of what it says is used: its words, and which error
it raises for what, change with its release. What is wrong is found out here, once something is.
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
"""Bytes of a body that takes its time."""

SPACE = b" \t\r\n"
"""What may stand around a value in JSON."""

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Whatever msgspec raises for bytes that it cannot read, or that are not what was expected. Not all of it is its own:
invalid UTF-8 in a text is Python's in some releases."""

_REPEATED = 64  # characters of a name that are said back: it is as long as a client has made it


class Kind(Generic[T]):
    """One kind of event in JSON: the fields of a struct. `called` is its name in what is said of it, and `one` what
    reads it, for those who say themselves what is wrong (`fault`)."""

    def __init__(self, struct: type[T], called: str) -> None:
        self._struct = struct
        self._called = called
        self.one = msgspec.json.Decoder(struct)
        self._many = msgspec.json.Decoder(list[struct])  # type: ignore[valid-type]

    def decode(self, raw: bytes, place: str = "body") -> T:
        """The event that this is. Raises `Malformed` for what is no JSON, and `Invalid`."""
        try:
            return self.one.decode(raw)
        except UNREADABLE as error:
            raise self.fault(error, raw, place) from None

    def decode_all(self, body: bytes) -> list[T]:
        """The list that a body is. Raises as `decode` does, and for more than a batch may hold."""
        if len(body) <= LARGE:
            try:
                found: list[T] = self._many.decode(body)
            except UNREADABLE:
                pass  # each by itself, for the place of the one that is wrong
            else:
                check_count(len(found))
                return found
        elements = _elements(body)
        check_count(len(elements))
        return [self.decode(bytes(raw), f"event {place}") for place, raw in enumerate(elements)]

    def fault(self, error: Exception, raw: bytes, place: str) -> Invalid | Malformed:
        """What to raise for one of `UNREADABLE`, which these bytes are the cause of."""
        raw = raw.strip(SPACE)
        if len(raw) > LARGE:
            # To look into it would make as much of it as somebody likes to send.
            if isinstance(error, msgspec.ValidationError):
                return Invalid(place, f"is not {self._called} of {self._fields}, or one of these is no text")
            return Malformed(f"{place}: not JSON: {json_fault(raw)}")
        try:
            value = parse_json(raw, place)
            check_depth(raw, place)
        except Malformed as malformed:
            return malformed
        return Invalid(*self._misfit(value, place))

    def _misfit(self, value: object, place: str) -> tuple[str, str]:
        """What of a value is not as expected, and why."""
        if not isinstance(value, dict):
            return place, f"is {self._called}, a JSON object of {self._fields}, and not {_kind_of(value)}"
        known = {field.encode_name: field for field in msgspec.structs.fields(self._struct)}
        where = "" if place == "body" else f"{place}: "
        if self._struct.__struct_config__.forbid_unknown_fields:
            for name in value:
                if name not in known:
                    return f"{where}{name[:_REPEATED]!a}", f"is no field of {self._called}: it has {self._fields}"
        for name, field in known.items():
            if name not in value:
                if field.required:
                    return f"{where}{name}", f"is missing: {self._called} has {self._fields}"
            elif not _is_text_or_free(value[name], field.type):
                return f"{where}{name}", f"is text, and not {_kind_of(value[name])}"
        return place, f"is not {self._called} of {self._fields}, each once"

    @cached_property
    def _fields(self) -> str:
        names = [field.encode_name for field in msgspec.structs.fields(self._struct)]
        return f"{', '.join(names[:-1])} and {names[-1]}"


def _is_text_or_free(value: object, expected: object) -> bool:
    """Whether a value is one for a field of this type: text, text or null, or whatever there is."""
    if expected is msgspec.Raw:
        return True
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
    """The elements of an array, of which there may be one more than a batch holds. Raises as `Kind.decode` does."""
    if not body.lstrip(SPACE).startswith(b"["):
        if len(body) <= LARGE:
            parse_json(body, "body")
        raise Invalid("body", "is an array of events")
    try:
        if len(body) <= LARGE:
            return _raws.decode(body)
        return [each for each in msgspec.structs.astuple(_bounded().decode(body)) if each is not None]
    except UNREADABLE:
        raise Malformed(f"body: not JSON: {json_fault(body)}") from None


_raws = msgspec.json.Decoder(list[msgspec.Raw])


@cache
def _bounded() -> msgspec.json.Decoder[Any]:
    """A list of which no more is made than tells that it is too long. Else there would be hundreds of thousands of a
    large body, and all other threads held up while they are made. Only a struct has a bound that is kept while it is
    read. Made when it is needed: it takes a while itself."""
    places = [(f"element_{place}", msgspec.Raw, None) for place in range(MAX_BATCH + 1)]
    return msgspec.json.Decoder(msgspec.defstruct("Elements", places, array_like=True))


def check_count(count: int) -> None:
    """Raises `Invalid` for more events than a batch may hold."""
    if count > MAX_BATCH:
        raise Invalid("batch", f"may hold {MAX_BATCH:,} events at most")
