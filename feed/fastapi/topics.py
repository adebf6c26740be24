"""Typed topics: `Topic("orders/{id}", Order)` gives the data of events a model.

pydantic validates what is published there over HTTP and WebSocket. The data is kept as it was published: the model only
checks it. `feed` itself does not know typed topics.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar, overload

import orjson
from pydantic import TypeAdapter, ValidationError

from feed import Event, Feed, Invalid
from feed.event import DEFAULT_TYPE, Draft, check_pattern, check_topic, check_type, json_draft, on_terms
from feed.fastapi.misfits import misfit
from feed.pattern import TopicIndex, matches
from feed.terms import DELETED, terms_of

T = TypeVar("T")

_MAX_ERRORS = 20  # errors that are told of one event
_MAX_FOUND = 1_000  # errors that are looked at: naming a hundred thousand would block the event loop for long
_MAX_WORDS = 200  # characters of each: its place, and pydantic's words, may contain whole parts of the data
_PLACE = re.compile(r"\{(.*)\}", re.DOTALL)


class Mismatch(Invalid):
    """The data does not fit its topic. Each of `errors` says what is wrong, and its place as a JSON pointer."""

    def __init__(self, what: str, detail: str, errors: Sequence[dict[str, str]] = ()) -> None:
        super().__init__(what, detail)
        self.errors = errors

    def placed(self, place: str) -> Mismatch:
        """Return the same error for one event of a batch."""
        return Mismatch(place, str(self), self.errors)


class Topic(Generic[T]):
    """Topics whose data fits the same model.

    `address` is a topic in which segments may be parameters: `orders/{id}`. A parameter is one whole segment. `model`
    is anything that pydantic can validate: a model, a dataclass, `list[int]`, `str`. With `type` the model is for
    events of this type only, and events that are published through this topic have it. Other topics of the same address
    may have models for other types.

    `orders(id=7)` is the name of one topic, a `str` with three methods: `publish` takes a value of the model, `latest`
    returns the newest one, and `delete` ends it. `orders.pattern` is the pattern of all these topics.
    `orders.parse(event)` returns the value in an event.
    """

    @overload
    def __init__(self, address: str, model: type[T], *, type: str | None = None) -> None: ...

    @overload
    def __init__(self: Topic[Any], address: str, model: Any, *, type: str | None = None) -> None: ...

    def __init__(self, address: str, model: Any, *, type: str | None = None) -> None:
        """Check the address. Raises `Invalid` if a topic cannot have it, or if it has the same parameter twice."""
        self.address = address
        self.model = model
        self.type = None if type is None else check_type(type)
        self.segments = tuple(map(_segment, address.split("/")))
        self.parameters = tuple(segment.name for segment in self.segments if segment.is_parameter)
        if len(set(self.parameters)) < len(self.parameters):
            raise Invalid("address", "has the same parameter twice")
        self.pattern = check_pattern("/".join("*" if each.is_parameter else each.name for each in self.segments))
        self.adapter: TypeAdapter[T] = TypeAdapter(model)

    def __call__(self, **parameters: object) -> TopicName[T]:
        """Return the topic with these parameters. Raises `TypeError` for a parameter that is missing or unknown,
        `Invalid` for a value that is not one segment."""
        if set(parameters) != set(self.parameters):
            raise TypeError(f"{self.address} takes these parameters: {', '.join(self.parameters) or 'none'}")
        for name, value in parameters.items():
            if "/" in str(value) or not str(value):
                raise Invalid(name, "has to be one segment of a topic: not empty, and without '/'")
        segments = (str(parameters[each.name]) if each.is_parameter else each.name for each in self.segments)
        return TopicName(check_topic("/".join(segments)), self)

    def covers(self, topic: str, type: str) -> bool:
        """Return whether this is the kind of events with this topic and type."""
        return matches(self.pattern, topic) and self.type in (None, type)

    def parse(self, event: Event) -> T:
        """Return the data of an event as a value of the model. Raises `Mismatch` if the data does not fit the model, or
        the event has another topic or type: an event may be older than the model, or published without a check."""
        if not self.covers(event.topic, event.type):
            raise Mismatch("event", f"{event.topic!r} with the type {event.type!r} is not one of {self!r}")
        return self.validate(event.text, is_json=event.is_json)

    def validate(self, data: str, *, is_json: bool) -> T:
        """Return data as a value of the model. Raises `Mismatch`."""
        try:
            # A text may have been published as a JSON string.
            return self.adapter.validate_json(data if is_json else orjson.dumps(data))
        except ValidationError as error:
            raise self._mismatch(error, is_json=is_json) from None

    def draft(self, topic: str, value: T, type: str | None = None) -> Draft:
        """Make an event to publish of a value. Raises `Mismatch`, and what pydantic's serializers raise."""
        type = type or self.type or DEFAULT_TYPE
        if not self.covers(topic, type):
            raise Mismatch("event", f"{topic!r} with the type {type!r} is not one of {self!r}")
        draft = json_draft(topic, self.adapter.dump_json(value, by_alias=True), type)
        self.validate(draft.text, is_json=draft.is_json)  # a model may be changed, or made without validation
        return draft

    def _mismatch(self, error: ValidationError, *, is_json: bool) -> Mismatch:
        if (count := error.error_count()) > _MAX_FOUND:
            return Mismatch("data", f"does not fit {self.address}, in {count:,} places")
        found = error.errors(include_url=False, include_input=False)
        errors = [
            {"pointer": _shortened(_pointer(each["loc"])), "detail": _shortened(misfit(each))}
            for each in found[:_MAX_ERRORS]
        ]
        words = "; ".join(
            f"{each['pointer']}: {each['detail']}" if each["pointer"] else each["detail"] for each in errors
        )
        more = f"; and {len(found) - _MAX_ERRORS} more" if len(found) > _MAX_ERRORS else ""
        hint = "" if is_json else " (it was published as text: JSON needs `Content-Type: application/json`)"
        return Mismatch("data", f"does not fit {self.address}: {words}{more}{hint}", errors)

    def __repr__(self) -> str:
        kind = "" if self.type is None else f", type={self.type!r}"
        return f"Topic({self.address!r}, {getattr(self.model, '__name__', self.model)}{kind})"


class TopicName(str, Generic[T]):
    """The name of a topic whose kind of data is known. It is a `str`."""

    __slots__ = ("kind",)
    kind: Topic[T]

    def __new__(cls, name: str, kind: Topic[T]) -> TopicName[T]:
        """Make a string that keeps its `kind`."""
        made = super().__new__(cls, name)
        made.kind = kind
        return made

    async def publish(
        self,
        feed: Feed,
        value: T,
        *,
        type: str | None = None,
        key: str | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        ttl: float | None = None,
    ) -> str:
        """Commit one event, and return its id, on the terms of `Feed.publish`. Raises `Mismatch`, too, for a value that
        the model would refuse."""
        draft = on_terms(self.draft(value, type), terms_of(if_match, if_none_match, ttl))
        return (await feed.publish_batch([draft], key=key))[0]

    async def latest(self, feed: Feed) -> T | None:
        """Return the newest value of the topic, None if it has none, or was deleted.

        Raises `Mismatch` as `Topic.parse` does: for data that does not fit the model, and where the topic's newest
        event has another type. Raises what `Feed.latest` raises.
        """
        event = await feed.latest(str(self))
        return None if event is None else self.kind.parse(event)

    async def delete(self, feed: Feed, *, if_match: str | None = None, key: str | None = None) -> str:
        """Delete the value of the topic, and return the id of the tombstone, as `Feed.delete` does."""
        return await feed.delete(str(self), if_match=if_match, key=key)

    def draft(self, value: T, type: str | None = None) -> Draft:
        """Make an event to publish, for a batch: `feed.publish_batch([orders(id=7).draft(order), …])`."""
        return self.kind.draft(str(self), value, type)


class Topics:
    """The typed topics of a feed. For each topic and type the first one in the list counts that covers it.

    With `strict`, only events that one of them covers may be published. `are_checked` says whether there is anything to
    check.
    """

    def __init__(self, topics: Iterable[Topic[Any]] = (), *, strict: bool = False) -> None:
        self.topics = tuple(topics)
        self.strict = strict
        self.are_checked = strict or bool(self.topics)
        self._index: TopicIndex[int] = TopicIndex()
        for place, topic in enumerate(self.topics):
            self._index.add(topic.pattern, place)

    def find(self, topic: str, type: str) -> Topic[Any] | None:
        """Return the typed topic for events with this topic and type, None without one."""
        places = {place for group in self._index.find(topic) for place in group}
        for place in sorted(places):
            if self.topics[place].type in (None, type):
                return self.topics[place]
        return None

    def check(self, draft: Draft) -> None:
        """Raise `Mismatch` for an event that may not be published. Deleting a value has no data to be checked."""
        if draft.type == DELETED:
            return
        kind = self.find(draft.topic, draft.type)
        if kind is not None:
            kind.validate(draft.text, is_json=draft.is_json)
        elif self.strict:
            raise Mismatch("topic", f"no topic of this feed is {draft.topic!r} with the type {draft.type!r}")

    def check_all(self, drafts: Iterable[Draft], place: Callable[[int], str]) -> None:
        """Check the events of a batch. `place` returns where one of them is in the request."""
        for count, draft in enumerate(drafts):
            try:
                self.check(draft)
            except Mismatch as error:
                where = place(count)
                raise (error.placed(where) if where else error) from None


class _Segment:
    def __init__(self, name: str, *, is_parameter: bool) -> None:
        self.name = name
        self.is_parameter = is_parameter


def _segment(text: str) -> _Segment:
    found = _PLACE.fullmatch(text)
    if found is None:
        if "{" in text or "}" in text or "*" in text:
            raise Invalid("address", "a segment is a name or one parameter: orders/{id}/lines")
        return _Segment(text, is_parameter=False)
    if not found[1].isidentifier():
        raise Invalid("address", f"a parameter has a name, such as {{id}}: {text!r}")
    return _Segment(found[1], is_parameter=True)


def _pointer(place: Sequence[int | str]) -> str:
    """Return a place as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in place)


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_WORDS else f"{text[: _MAX_WORDS - 1]}…"
