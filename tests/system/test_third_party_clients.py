"""Other people's clients read the same events in the same order, and come back after a restart and a broken connection
as far as they can; where they cannot, what their user has to do by hand is done here, and is enough."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.support.browser import chromium
from tests.support.doc_blocks import section
from tests.support.running import RunningServer, running
from tests.support.streams import eventually
from tests.system import third_party
from tests.system.third_party import Curl, Event, Program

pytestmark = pytest.mark.browser

TOPIC = "third/party"
TYPES = ["named", "é\U0001f600"]

HOSTILE = [
    "plain",
    "two\nlines",
    "\r\n CRLF and \r CR \r\n\r\n",
    "\n\nline ends first",
    "and last\n\n",
    "\n",
    "",
    " ",
    "   leading spaces",
    ":colon",
    ": comment\n: or not",
    "data: x\nid: 9\nevent: feed.closing\nretry: 1",
    "line separators \u2028\u2029\u0085\x0b\x0c end no line",
    "\0nul\0",
    "\ufeffBOM",
    "\tTab, \x1b[31mred",
    "\U0001f600 é",
    '{"json": [1, "\u2028"]}',
    "x" * (256 << 10),
]
AFTER_RESTART = ["after the restart", "\nand its\nsecond"]
AFTER_KILL = ["after the kill", ""]


def decoded(data: str) -> str:
    """What an SSE client makes of data: line ends become LF."""
    return data.replace("\r\n", "\n").replace("\r", "\n")


def publish(server: RunningServer, texts: list[str]) -> list[Event]:
    """Publish texts of changing types, and give the events."""
    published = []
    for number, data in enumerate(texts):
        type = ["message", *TYPES][number % 3]
        answer = server.http.post(f"{server.url}/events", json={"topic": TOPIC, "type": type, "data": data})
        assert answer.status_code == 201, answer.text
        published.append({"id": answer.json()["id"], "type": type, "data": data})
    return published


class InPage:
    """A reader in Chromium, which is looked at where its page is."""

    def __init__(self, page: Page, reader: str, url: str) -> None:
        self._page, self._name = page, reader
        page.evaluate("([reader, url, types]) => read(reader, url, types)", [reader, url, TYPES])

    def _record(self) -> Any:
        return self._page.evaluate("(name) => records[name]", self._name)

    @property
    def events(self) -> list[Event]:
        """What it got so far, but for what the stream says of itself."""
        return [event for event in self._record()["events"] if not event["type"].startswith("feed.")]

    @property
    def remarks(self) -> str:
        """How it has ended."""
        return str(self._record()["ended"] or "")

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return bool(self.remarks)

    def close(self) -> None:
        """It goes with its page."""


Reader = Program | InPage


# As the library's own README shows it; it ends with the connection, and says so with these words.
PLAIN = {
    "eventsource": "",
    "fetch-event-source": "resolved",
    "httpx-sse": "",
    "aiohttp-sse-client2": "ClientConnectorError",
    "sseclient-py": "",
    "curl": "curl ended with 0",
}

# By itself, or with what its user has to do by hand.
RESUMING = [
    "EventSource of Chromium",
    "reconnecting-eventsource",
    "eventsource by hand",
    "fetch-event-source by hand",
    "httpx-sse by hand",
    "aiohttp-sse-client2 by hand",
    "sseclient-py by hand",
    "curl by hand",
]

# What cannot decode all data takes the JSON of `?envelope=1`, which has no line ends and no spaces to lose.
IN_ENVELOPES = {"fetch-event-source by hand", "aiohttp-sse-client2 by hand"}


def without_first_empty_lines(data: str) -> str:
    """What fetch-event-source makes of data: it forgets empty lines at the beginning, and a BOM that begins a line."""
    found = ""
    for line in decoded(data).split("\n"):
        found = f"{found}\n{line.removeprefix(chr(0xFEFF))}" if found else line.removeprefix(chr(0xFEFF))
    return found


def without_leading_spaces(data: str) -> str:
    """What aiohttp-sse-client2 makes of data: it forgets the spaces that a line begins with, and the last line ends."""
    return "\n".join(line.lstrip(" ") for line in decoded(data).split("\n")).rstrip("\n")


HEARD = {"fetch-event-source": without_first_empty_lines, "aiohttp-sse-client2": without_leading_spaces}


@dataclass
class Story:
    """What each reader got and said over three runs of one server: SIGTERM ends the first, SIGKILL the second."""

    published: list[list[Event]]
    events: dict[str, list[Event]]
    remarks: dict[str, str]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, curl_program: str) -> Iterator[Story]:
    """One story for all tests: it takes as long as its slowest reader."""
    third_party.install()
    folder = tmp_path_factory.mktemp("third")
    with ExitStack() as stack:
        origin = stack.enter_context(third_party.page_server())
        log = f"sqlite:{folder / 'feed.db'}"
        server = stack.enter_context(running("--log", log, retry=0.1, drain=1, origins=origin))
        readers = start(stack, f"{server.url}/events/{TOPIC}?last_event_id=earliest", origin, folder)
        published: list[list[Event]] = []
        for texts, end in ((HOSTILE, server.stop), (AFTER_RESTART, server.kill), (AFTER_KILL, None)):
            published.append(publish(server, texts))
            for name, reader in readers.items():
                if name in RESUMING or len(published) == 1:
                    eventually(partial(has, reader, sum(map(len, published))), 20)
            if end is not None:
                end()
                for name in PLAIN:
                    eventually(partial(has_ended, readers[name]))
                server.start()
        yield Story(
            published,
            {name: reader.events for name, reader in readers.items()},
            {name: reader.remarks for name, reader in readers.items()},
        )


def has(reader: Reader, count: int) -> bool:
    return len(reader.events) >= count


def has_ended(reader: Reader) -> bool:
    return reader.ended


def start(stack: ExitStack, url: str, origin: str, folder: Path) -> dict[str, Reader]:
    """All readers, each beginning with the oldest event."""
    readers: dict[str, Reader] = {
        "eventsource": third_party.node(url, *TYPES),
        "eventsource by hand": third_party.node(url, "by-hand", *TYPES),
        "httpx-sse": third_party.python("httpx_sse", url),
        "httpx-sse by hand": third_party.python("httpx_sse", url, "by-hand"),
        "aiohttp-sse-client2": third_party.python("aiohttp", url),
        "aiohttp-sse-client2 by hand": third_party.python("aiohttp", f"{url}&envelope=1", "by-hand"),
        "sseclient-py": third_party.python("sseclient", url),
        "sseclient-py by hand": third_party.python("sseclient", url, "by-hand"),
        "curl": Curl(folder / "plain", url),
        "curl by hand": Curl(folder / "by-hand", url, "by-hand"),
    }
    for reader in readers.values():
        stack.callback(reader.close)
    page = stack.enter_context(chromium()).new_page()
    page.goto(f"{origin}/page.html")
    page.wait_for_function("globalThis.ready")
    readers |= {
        "EventSource of Chromium": InPage(page, "native", url),
        "reconnecting-eventsource": InPage(page, "reconnecting", url),
        "fetch-event-source": InPage(page, "fetch", url),
        "fetch-event-source by hand": InPage(page, "fetch by hand", f"{url}&envelope=1"),
    }
    return readers


def as_heard(reader: str, events: list[Event]) -> list[Event]:
    """What this reader should have made of events."""
    if reader in IN_ENVELOPES:
        return events
    hear = HEARD.get(reader, decoded)
    return [{**event, "data": hear(event["data"])} for event in events]


def got(story: Story, reader: str) -> list[Event]:
    """What this reader got, out of its envelopes."""
    events = story.events[reader]
    if reader not in IN_ENVELOPES:
        return events
    opened = [json.loads(event["data"]) for event in events]
    assert [event["id"] for event in events] == [event["id"] for event in opened]
    return [{name: event[name] for name in ("id", "type", "data")} for event in opened]


@pytest.mark.parametrize("reader", RESUMING)
def test_over_a_restart_and_a_crash_each_event_comes_once_in_order_as_it_was_published(
    story: Story, reader: str
) -> None:
    everything = [event for run in story.published for event in run]
    assert got(story, reader) == as_heard(reader, everything)


@pytest.mark.parametrize("reader", PLAIN)
def test_what_ends_with_its_connection_got_all_before_and_says_so(story: Story, reader: str) -> None:
    assert got(story, reader) == as_heard(reader, story.published[0])
    assert story.remarks[reader].strip() == PLAIN[reader]


def test_what_some_clients_lose_is_no_more_than_is_known() -> None:
    lost = {name: [data for data in HOSTILE if hear(data) != decoded(data)] for name, hear in HEARD.items()}
    assert lost == {
        "fetch-event-source": [HOSTILE[number] for number in (2, 3, 5, 14)],
        "aiohttp-sse-client2": [HOSTILE[number] for number in (2, 4, 5, 7, 8)],
    }


def test_the_page_names_the_versions_that_were_tried() -> None:
    text = section("guides/other-clients.md", "Other clients")
    packages = json.loads((third_party.FOLDER / "package.json").read_text())["devDependencies"]
    tried = {**packages, **{name: version(name) for name in ("httpx-sse", "aiohttp-sse-client2", "sseclient-py")}}
    for name, number in tried.items():
        assert re.search(rf"`{re.escape(name)}` {re.escape(number)} ", text), (name, number)
