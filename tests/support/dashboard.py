"""The dashboard as a test sees it: what is in its list, and what its connection is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.support.running import RunningServer

TIMEOUT = 15_000  # milliseconds

# The list holds in the document only what is in view, and a little more: scroll through it and collect. Not to its very
# end, where it would load older events. Back at the top it follows again.
_COLLECT = """
async () => {
    const list = document.getElementById("list");
    if (!list.clientHeight) return [];
    const frame = () => new Promise(requestAnimationFrame); // the list has drawn by then
    const rows = new Map();
    const collect = () => {
        for (const row of list.querySelectorAll("[data-n]")) {
            const [time, topic, type, data, id] = Array.from(row.children, (cell) => cell.textContent);
            rows.set(Number(row.dataset.n), {time, topic, type, data, id});
        }
    };
    const before = list.scrollTop;
    const end = Math.max(0, list.scrollHeight - list.clientHeight - 100);
    for (let top = 0, over = false; !over; top += 0.9 * list.clientHeight) {
        over = top >= end;
        list.scrollTop = Math.min(top, end);
        await frame();
        collect();
    }
    list.scrollTop = before;
    await frame();
    return Array.from(rows).sort(([a], [b]) => a - b).map(([, row]) => row);
}
"""


@dataclass
class Dashboard:
    """A page on which the dashboard of a server is open."""

    page: Page
    server: RunningServer

    def open(self, view: str = "", state: str = "Live") -> Dashboard:
        """Open it with the parameters that a shared view has, and wait until its connection is so."""
        self.page.goto(f"{self.server.url}/{view}")
        expect(self.state).to_have_text(state, timeout=TIMEOUT)
        return self

    def part(self, name: str) -> Locator:
        """An element by what tests call it."""
        return self.page.get_by_test_id(name)

    @property
    def state(self) -> Locator:
        """The connection, in a word or two."""
        return self.part("state")

    def row(self, topic: str, data: str) -> Locator:
        """The rows in view of that topic and data."""
        event = self.part("event").filter(has=self.part("event-topic").get_by_text(topic, exact=True))
        return event.filter(has=self.part("event-data").get_by_text(data, exact=True))

    def wait_for(self, topic: str, data: str) -> None:
        """Until there is a row in view of that topic and data."""
        expect(self.row(topic, data)).to_have_count(1, timeout=TIMEOUT)

    def rows(self) -> list[dict[str, str]]:
        """All rows of the list, the oldest first, with `time`, `topic`, `type`, `data` and `id` as shown."""
        found: list[dict[str, str]] = self.page.evaluate(_COLLECT)
        return found

    def data(self, topic: str) -> list[str]:
        """The data of a topic's rows, the oldest first."""
        return [row["data"] for row in self.rows() if row["topic"] == topic]

    def publish_many(self, topic: str, texts: list[str]) -> None:
        """One batch of texts."""
        answer = self.server.http.post(
            f"{self.server.url}/events", json=[{"topic": topic, "data": text} for text in texts]
        )
        assert answer.status_code == 201, answer.text

    def clipboard(self) -> Any:
        """What was copied last."""
        return self.page.evaluate("navigator.clipboard.readText()")

    def record_states(self) -> None:
        """Keep every state from now on in `states`: what was there only for a moment counts too."""
        self.page.evaluate(
            """() => {
                const state = document.querySelector('[data-testid="state"]');
                window.states = [state.textContent];
                new MutationObserver(() => states.at(-1) !== state.textContent && states.push(state.textContent))
                    .observe(state, {childList: true, characterData: true, subtree: true});
            }"""
        )
