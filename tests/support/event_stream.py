"""An event stream, parsed as the standard's text says and by nothing of the feed's: what others are compared with."""

from __future__ import annotations


def parse_event_stream(stream: bytes) -> list[tuple[str, str, str]]:
    """(last event id, event name, data) of each event dispatched, after WHATWG HTML 9.2.6, line by line."""
    text = stream.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    events = []
    last_id, name, data = "", "", ""
    for line in text.split("\n")[:-1]:
        if line == "":
            if data:
                events.append((last_id, name or "message", data.removesuffix("\n")))
            name, data = "", ""
            continue
        if line.startswith(":"):
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data += value + "\n"
        elif field == "event":
            name = value
        elif field == "id" and "\0" not in value:
            last_id = value
    return events
