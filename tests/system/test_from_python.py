"""The examples of the page about the Python client, run as they stand there, and what the page says of it."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from feed import client
from feed.client import AsyncClient, AsyncSubscription, Client, Subscription
from tests.support.doc_blocks import blocks, section
from tests.support.running import RunningServer
from tests.support.streams import eventually

PAGE = ("guides/python-client.md", "From Python")
URL = "http://127.0.0.1:8000"  # as the page has it


@contextmanager
def running_example(number: int, server: RunningServer, folder: Path) -> Iterator[list[str]]:
    """An example, which has no end, for as long as the block lasts; what it has printed."""
    source = blocks(*PAGE)[number]
    assert URL in source
    script = folder / "example.py"
    script.write_text(source.replace(URL, server.url))
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-u", str(script)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        collecting = threading.Thread(target=lines.extend, args=(process.stdout,))
        collecting.start()
        try:
            yield lines
        finally:
            process.kill()
            collecting.join(10)


def test_the_asyncio_example_publishes_and_prints_what_it_gets(server: RunningServer, tmp_path: Path) -> None:
    with running_example(0, server, tmp_path) as lines:
        eventually(lambda: lines)
        id = server.publish("orders/43", "Hello")
        eventually(lambda: len(lines) == 2)
    assert lines[0].split(" ", 1)[1] == "orders/42 created {'total': 3}\n"
    assert lines[1] == f"{id} orders/43 message Hello\n"


def test_the_plain_example_publishes_and_pages_and_prints_what_it_gets(server: RunningServer, tmp_path: Path) -> None:
    with running_example(1, server, tmp_path) as lines:
        eventually(lambda: "orders/2 {'total': 5}\n" in [line.split(" ", 2)[2] for line in lines[-1:]])
        before = len(lines)
        listening = f"{server.url}/subscriptions"
        eventually(lambda: server.http.get(listening).json()["subscriptions"])
        server.publish("orders/43", "Hello")
        eventually(lambda: len(lines) > before)
    assert lines[before - 2].split(" ", 2)[2] == "orders/1 paid\n"
    assert lines[-1] == "Hello\n"


def test_whatever_the_page_names_of_the_client_is_there() -> None:
    parameters = {
        name
        for made in (AsyncClient, AsyncClient.subscribe, AsyncClient.history, AsyncClient.publish)
        for name in inspect.signature(made).parameters
    }
    public = {
        *client.__all__,
        *dir(AsyncSubscription),
        *dir(Subscription),
        *parameters,
        *dir(AsyncClient),
        *dir(client.Page),
    }
    for name in re.findall(r"`(\w+)(?:=\w*|\(…\)|\(\)|\([\w=]+\))?`", section(*PAGE)):
        if not name.isdigit() and name not in {"client", "str", "bytes", "with", "break", "retry", "OSError"}:
            assert name in public, name


@pytest.mark.parametrize(("asynchronous", "plain"), [(AsyncClient, Client), (AsyncSubscription, Subscription)])
def test_both_clients_offer_the_same(asynchronous: type, plain: type) -> None:
    def offered(kind: type) -> dict[str, str]:
        methods = {name: method for name, method in vars(kind).items() if not name.startswith("_")}
        return {
            name.removeprefix("a") if name == "aclose" else name: re.sub(
                r"Async", "", str(inspect.signature(method) if inspect.isfunction(method) else "")
            ).partition(" ->")[0]
            for name, method in methods.items()
        }

    assert offered(asynchronous) == offered(plain)
    made, made_plain = (
        [parameter.name for parameter in inspect.signature(kind).parameters.values()] for kind in (asynchronous, plain)
    )
    assert asynchronous is AsyncSubscription or made == made_plain
