"""JSON bodies: lists that are read without making more of them than are taken, and the words for what is wrong."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec

from feed import Invalid, Malformed
from feed.event import parse_json
from feed.feed import MAX_BATCH

T = TypeVar("T", bound=msgspec.Struct)

LARGE = 256 << 10
"""Bytes of a body that takes its time."""

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Whatever msgspec raises for bytes that it cannot read, or that are not what was expected. Not all of it is its own:
invalid UTF-8 in a text is Python's."""

_MAX_WORDS = 300  # characters: the name of a field that nobody knows is as long as a client has made it

_TOO_MANY = "Expected `array` of at most length"


class Many(Generic[T]):
    """A batch of one kind of event."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._any_number = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]

    @cached_property
    def _bounded(self) -> msgspec.json.Decoder[Any]:
        """A list that ends at the first that is one too many. Else there would be hundreds of thousands of a large
        body, and all other threads held up while they are made. Only a struct has a bound that is kept while it is
        read. Made when it is needed: it takes a while itself."""
        places = [(f"event_{place}", self._kind, None) for place in range(MAX_BATCH)]
        return msgspec.json.Decoder(msgspec.defstruct("Batch", places, array_like=True, forbid_unknown_fields=True))

    def decode(self, body: bytes) -> list[T]:
        """The list that a body is. Raises `Invalid` for more than a batch may hold, and `UNREADABLE`."""
        if len(body) <= LARGE:
            found = self._any_number.decode(body)
        else:
            try:
                batch = msgspec.structs.astuple(self._bounded.decode(body))
            except msgspec.ValidationError as error:
                if str(error).startswith(_TOO_MANY):
                    check_count(MAX_BATCH + 1)
                raise
            found = [each for each in batch if each is not None]
        check_count(len(found))
        return found


def unreadable(error: Exception, raw: bytes, place: str = "body") -> Invalid | Malformed:
    """What to raise for one of `UNREADABLE`, which these bytes are the cause of."""
    if type(error) is msgspec.DecodeError and len(raw) <= LARGE:
        try:
            parse_json(raw, place)
        except Malformed as better:  # of half a surrogate pair msgspec says that the input was truncated
            return better
    words = str(error)
    if len(words) > _MAX_WORDS:
        words = f"{words[:_MAX_WORDS]}…"
    return Invalid(place, words) if isinstance(error, msgspec.ValidationError) else Malformed(f"{place}: {words}")


def check_count(count: int) -> None:
    """Raises `Invalid` for more events than a batch may hold."""
    if count > MAX_BATCH:
        raise Invalid("batch", f"may hold {MAX_BATCH:,} events at most")
