"""What the pages and the dashboard for Grafana say of the figures: of those that there are, and of all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from feed.fastapi.metrics.table import FIGURES
from tests.support.doc_blocks import section
from tests.support.paths import DOCS
from tests.support.running import RunningServer, running
from tests.support.streams import eventually, subscribed
from tests.support.tokens import SECRET, bearer, token

GRAFANA = DOCS / "grafana.json"
MONITORING = ("operations/monitoring.md", "Monitoring")
OF_PROMETHEUS = {"job", "instance"}


@pytest.fixture(scope="module")
def labels() -> Iterator[dict[str, set[str]]]:
    """The samples of `/metrics` as it really is, and the labels of each."""
    with running("--log", "memory:", "--retain", "noise/**=1h") as server:
        yield _labels(server)


def _labels(server: RunningServer) -> dict[str, set[str]]:
    server.publish("a")
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(server.http.get(f"{server.url}/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def check(expression: str, labels: dict[str, set[str]]) -> set[str]:
    """That an expression of PromQL asks for samples and labels that there are. Gives the samples."""
    named = re.findall(r"\b(feed_\w+)(?:\{([^}]*)\})?", expression)
    assert named, expression
    known = set(OF_PROMETHEUS)
    for name, matchers in named:
        assert name in labels, f"{name} in {expression}"
        known |= labels[name]
        matched = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        assert matched <= labels[name] | OF_PROMETHEUS, expression
    for grouped in re.findall(r"\bby\s*\(([^)]*)\)", expression):
        assert set(re.findall(r"\w+", grouped)) <= known, expression
    assert expression.count("(") == expression.count(")"), expression
    if "histogram_quantile" in expression:
        assert all(name.endswith("_bucket") for name, _ in named), expression
        assert "by (le" in expression, expression
    return {name for name, _ in named}


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana would import it."""
    document: dict[str, Any] = json.loads(GRAFANA.read_text(encoding="utf-8"))
    return document


def panels() -> Iterator[dict[str, Any]]:
    """Those that show something."""
    return (panel for panel in dashboard()["panels"] if panel["type"] != "row")


def test_each_panel_of_the_dashboard_asks_for_what_there_is(labels: dict[str, set[str]]) -> None:
    asked: set[str] = set()
    for panel in panels():
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            asked |= check(target["expr"], labels)
            for name in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert re.search(rf"\bby \({name}\)", target["expr"]) or name == "node", target["expr"]
    for variable in dashboard()["templating"]["list"]:
        asked |= check(variable["query"]["query"], labels)
    shown = {re.sub("_(bucket|sum|count|total)$", "", name) for name in asked}
    assert shown == {figure.name for figure in FIGURES}, "each figure is shown somewhere"


def test_the_dashboard_takes_whichever_prometheus_there_is() -> None:
    (source,) = dashboard()["__inputs"]
    assert (source["type"], source["pluginId"]) == ("datasource", "prometheus")
    uid = f"${{{source['name']}}}"
    sources = [panel["datasource"] for panel in panels()]
    sources += [target["datasource"] for panel in panels() for target in panel["targets"]]
    sources += [variable["datasource"] for variable in dashboard()["templating"]["list"]]
    assert all(each == {"type": "prometheus", "uid": uid} for each in sources)
    assert dashboard()["id"] is None


def test_no_two_panels_of_the_dashboard_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in own) < 24
        assert not taken & own, panel["title"]
        taken |= own


def test_the_rules_of_the_page_ask_for_what_there_is(labels: dict[str, set[str]]) -> None:
    rules = re.findall(r"^ +expr: (.*)$", section(*MONITORING), re.MULTILINE)
    assert len(rules) == section(*MONITORING).count("- alert:") > 0
    for rule in rules:
        check(rule, labels)


def test_the_lines_of_the_page_are_what_the_server_logs() -> None:
    """Their names, in their order; the values are of a day like any other."""
    on_the_page = re.findall(r"^[\d-]+ [\d:.+]+ INFO (.*)$", section(*MONITORING), re.MULTILINE)
    with running("--log", "memory:", log_level="info", log_format="text", jwt_secret=SECRET) as server:
        own = bearer(token(["**"], ["**"], sub="shop"))
        with subscribed(f"{server.url}/events/orders/*", own) as stream:
            server.http.post(f"{server.url}/events/orders/42", content=b"hi", headers=own)
            stream.frame()
        logged = eventually(lambda: re.findall(r"INFO (.*)$", server.remarks, re.MULTILINE)[1:] and server.remarks)
    in_log = re.findall(r"INFO (.*)$", logged, re.MULTILINE)
    assert [_names(line) for line in on_the_page] == [_names(line) for line in in_log]


def _names(line: str) -> list[str]:
    return [re.sub("=.*", "", part) for part in line.split() if not part.startswith("principal=")]
