"""A real Chromium for tests: started without a word to the outside, and what its pages do wrong is remembered."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Dialog, Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")

_ARGUMENTS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

# Nothing but this machine has an address: a page that needs more fails here, with or without a network.
_NAMES = "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"

_REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
    console.error(`policy violation: ${event.violatedDirective} ${event.blockedURI}`))
"""


@contextlib.contextmanager
def chromium(rebound: Collection[str] = ()) -> Iterator[Browser]:
    """A Chromium for as long as the block lasts, for which the names in `rebound` are this machine's. Skips where there
    is none, but in CI it fails."""
    if not CHROMIUM.exists():
        reason = f"needs Chromium at {CHROMIUM}: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # which Chromium refuses to root
    with sync_playwright() as playwright:
        rules = ", ".join([*(f"MAP {name} 127.0.0.1" for name in rebound), _NAMES])
        arguments = [*_ARGUMENTS, f"--host-resolver-rules={rules}", *sandbox]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watched:
    """What a page did: every address it asked for, and what must never happen."""

    requests: list[str] = field(default_factory=list)
    page_errors: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """Uncaught errors, dialogs and breaches of the content security policy. Empty is good."""
        return [*self.page_errors, *self.dialogs, *self.violations]


def watch(page: Page) -> Watched:
    """Watch a page from before it is opened."""
    watched = Watched()

    def dismiss(dialog: Dialog) -> None:
        watched.dialogs.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page.add_init_script(_REPORT_VIOLATIONS)
    page.on("request", lambda request: watched.requests.append(request.url))
    page.on("pageerror", lambda error: watched.page_errors.append(f"page error: {error}"))
    page.on("dialog", dismiss)
    page.on(
        "console",
        lambda message: watched.violations.append(message.text) if "policy violation" in message.text else None,
    )
    return watched
