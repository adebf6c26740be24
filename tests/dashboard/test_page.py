"""What the pages at `/` and `/docs` are made of, and what a browser's own `EventSource` makes of a stream."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import Serve
from tests.support import browser as chromium_support
from tests.support.awkward_texts import AWKWARD
from tests.support.browser import Watched, chromium
from tests.support.paths import DASHBOARD

pytestmark = pytest.mark.browser

expect.set_options(timeout=15_000)

EVENTS_URL = re.compile(r"/events/\*\*\?")


def test_awkward_texts_reach_a_browsers_event_source_as_they_were_published(
    serve: Serve, page: Page, watched: Watched
) -> None:
    server = serve("--log", "memory:")
    expected = [text.replace("\r\n", "\n").replace("\r", "\n") for text in AWKWARD]
    page.goto(f"{server.url}/healthz")
    page.evaluate(
        """() => new Promise((resolve) => {
            window.texts = [];
            const source = new EventSource("/events/awkward");
            source.onmessage = (event) => texts.push(event.data);
            source.addEventListener("feed.open", resolve);
        })"""
    )
    for text in AWKWARD:
        server.publish("awkward", text.encode())
    page.wait_for_function("(count) => texts.length >= count", arg=len(AWKWARD))
    assert page.evaluate("texts") == expected

    replayed = page.evaluate(
        """() => new Promise((resolve) => {
            const texts = [];
            const source = new EventSource("/events/awkward?last_event_id=earliest");
            source.onmessage = (event) => texts.push(event.data);
            source.addEventListener("feed.live", () => { source.close(); resolve(texts); });
        })"""
    )
    assert replayed == expected


def test_the_vendored_files_are_the_ones_that_are_listed() -> None:
    vendor = DASHBOARD / "vendor"
    listed = dict(line.split("  ")[::-1] for line in (vendor / "SHA256SUMS").read_text().splitlines())
    files = (path for path in vendor.rglob("*") if path.is_file() and path.parent != vendor)
    found = {str(path.relative_to(vendor)) for path in files if not path.name.endswith(".d.ts")}  # these are ours
    assert {name: hashlib.sha256((vendor / name).read_bytes()).hexdigest() for name in found} == listed


def test_no_page_holds_inline_script_or_style() -> None:
    for path in DASHBOARD.glob("*.html"):
        assert not re.search(r"<style|<script(?![^>]*\ssrc=)|\sstyle=|\son\w+=|//", path.read_text()), path.name
    for path in DASHBOARD.rglob("*.js"):
        if "vendor" in path.parts:
            continue
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", path.read_text())


def test_without_chromium_the_tests_are_skipped_but_in_ci_they_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chromium_support, "CHROMIUM", Path("/nowhere/chromium"))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs Chromium"), chromium():
        pass
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="needs Chromium"), chromium():
        pass
