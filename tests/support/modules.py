"""The dashboard's pure modules, tested as tables: inputs and outputs, evaluated by a real browser in one page load."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from playwright.sync_api import Page

from tests.support.running import RunningServer

_CALL_EACH = """async ([module, name, table]) => {
    const { [name]: called } = await import(module);
    return table.map((values) => {
        try {
            return { given: JSON.stringify(called(...JSON.parse(values))) ?? "undefined" };
        } catch (error) {
            return { thrown: String(error) };
        }
    });
}"""


def outputs(page: Page, server: RunningServer, module: str, name: str, table: Sequence[Sequence[object]]) -> list[Any]:
    """What the function `name` of the module at `/assets/{module}` gives for each row of arguments. Arguments and what
    is given are JSON; `undefined` is None, and an error its words. The page has to be one of the server's."""
    rows = [json.dumps(values) for values in table]
    found = page.evaluate(_CALL_EACH, [f"{server.url}/assets/{module}", name, rows])
    return [_value(each) for each in found]


def _value(answer: dict[str, str]) -> Any:
    if "thrown" in answer:
        return answer["thrown"]
    return None if answer["given"] == "undefined" else json.loads(answer["given"])
