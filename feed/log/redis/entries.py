"""Encodes events for the stream, and decodes its entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from feed.event import Draft, Event, event_size
from feed.log.conditions import has_terms
from feed.log.idempotency import IdempotencyKey
from feed.terms import Terms

_pack = msgspec.msgpack.Encoder().encode

_CLASSED = 16  # fields of an event that names its class


def pack_batches(batches: Sequence[tuple[Sequence[Draft], IdempotencyKey | None]]) -> bytes:
    """Encode batches for the script `append`. One argument costs both sides less than one for each field."""
    return _pack(
        [
            (
                [
                    (
                        draft.topic,
                        draft.type,
                        "1" if draft.is_json else "0",
                        draft.text,
                        event_size(draft.topic, draft.type, draft.text),
                        *(() if draft.terms is None else (_terms(draft.terms),)),
                    )
                    for draft in drafts
                ],
                "" if key is None else f"{key.principal}\n{key.key}",
                "" if key is None else key.fingerprint.hex(),
                has_terms(drafts),
            )
            for drafts, key in batches
        ]
    )


def _terms(terms: Terms) -> tuple[bool, str, bool, int | bool]:
    return terms.delete, terms.if_match or "", terms.if_none_match, terms.ttl or False


def parse_entries(entries: Sequence[Any]) -> list[Event]:
    """Return the events of what XRANGE gives. An entry that somebody else has written or damaged is left out: a
    hole."""
    events = []
    name, epoch = b"", ""
    for id, fields in entries:
        if len(fields) == _CLASSED and fields[14] == b"class":
            fields = fields[:14]
        try:
            _, name_now, _, time, _, _, _, topic, _, type, _, json, _, data = fields
            if name_now != name:
                name, epoch = name_now, name_now.decode()
            event = Event(epoch, int(id[2:]), topic.decode(), type.decode(), data.decode(), json == b"1", int(time))
        except ValueError:
            name = b""
            continue
        if fields[0] == b"epoch" and id[:2] == b"0-":
            events.append(event)
    return events


def last_seq(entries: Sequence[Any]) -> int | None:
    """Return the last seq of these entries, whoever wrote them; None if their ids are not the feed's."""
    prefix, _, seq = entries[-1][0].partition(b"-")
    return int(seq) if prefix == b"0" else None
