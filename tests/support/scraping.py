"""`/metrics` as a test reads it, and the workers of a `feed serve --workers`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.support.running import RunningServer

Scraped = dict[str, dict[str, float]]
"""Values by sample and node. A sample that has another label than `node` bears it in its name:
`feed_gaps_total expired`."""


def scraped(text: str) -> Scraped:
    """The samples of a page in Prometheus's text format."""
    found: Scraped = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            node, *others = (sample.labels[name] for name in sorted(sample.labels, key=lambda name: name != "node"))
            nodes = found.setdefault(" ".join([sample.name, *others]), {})
            assert node not in nodes, f"twice: {sample}"
            nodes[node] = sample.value
    return found


def scrape(server: RunningServer, http: httpx.Client | None = None) -> Scraped:
    """What a server says now."""
    answer = (http or server.http).get(f"{server.url}/metrics")
    assert answer.status_code == 200, answer.text
    return scraped(answer.text)


def workers(server: RunningServer) -> list[int]:
    """Its workers' process numbers."""
    return sorted(child.pid for child in psutil.Process(server.pid).children())


@contextlib.contextmanager
def client_of_each(server: RunningServer) -> Iterator[dict[int, httpx.Client]]:
    """A client for each worker, with a connection that stays with it."""
    pids = workers(server)
    with contextlib.ExitStack() as stack:
        found: dict[int, httpx.Client] = {}
        for _ in range(100):
            http = stack.enter_context(httpx.Client(verify=False, timeout=30))
            answer = http.get(f"{server.url}/healthz")
            port = answer.extensions["network_stream"].get_extra_info("client_addr")[1]
            found.setdefault(served_by(pids, port), http)
            if len(found) == len(pids):
                break
        assert len(found) == len(pids), "some worker takes no connection"
        yield found


def served_by(pids: list[int], port: int) -> int:
    """Which process has the connection whose other end is this port."""
    for pid in pids:
        for connection in psutil.Process(pid).net_connections("tcp"):
            if connection.raddr and connection.raddr.port == port:
                return pid
    raise AssertionError("nobody has the connection")
