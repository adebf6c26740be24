"""One client on both sides of a fork: each process has its own connections, and none disturbs another's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificate import certificate
from tests.support.forks import CHILDREN, EACH
from tests.support.running import RunningServer
from tests.support.scripted import accepting, copy

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("transport", ["sse", "websocket"])
@pytest.mark.parametrize("kind", ["threads", "asyncio"])
async def test_each_process_goes_on_by_itself_with_one_client_and_one_subscription(
    server: RunningServer, tmp_path: Path, kind: str, transport: str
) -> None:
    """Over TLS, where two that share a connection break it at once."""
    files = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.chain, files.key)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        feed_reader, feed_writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            await asyncio.wait(
                {asyncio.ensure_future(copy(reader, feed_writer)), asyncio.ensure_future(copy(feed_reader, writer))},
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            feed_writer.close()

    async with accepting(relay, context) as url:
        reports = await run(kind, transport, url, SSL_CERT_FILE=str(files.chain))
    data = {event["id"]: event["data"] for event in server.history("forks", limit=1000)["events"]}
    for number, report in enumerate(reports):
        assert [data[id] for id in report["ids"]] == [f"{number}-{count}" for count in range(EACH)]
        assert len(set(report["got"])) == EACH * (CHILDREN + 1)
        assert report["got"] == reports[0]["got"]
        assert report["broken"] == 0


async def test_each_event_loop_goes_on_by_itself_with_one_client_and_one_subscription(server: RunningServer) -> None:
    for report in await run("loops", "sse", server.url):
        assert len(report["ids"]) == 1
        assert report["got"] == report["ids"]


async def run(kind: str, transport: str, url: str, **environment: str) -> list[Any]:
    """What the program tells, by its numbers."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.forks", kind, transport, url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment}, start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            output, errors = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it has forked, too
    assert process.returncode == 0, errors.decode()
    return sorted((json.loads(line) for line in output.splitlines()), key=lambda report: int(report["number"]))
