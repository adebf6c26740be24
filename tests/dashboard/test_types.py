"""The types of the pages' JavaScript are checked, as `make types` does, and what is wrong is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.dashboard import types
from tests.support import npm
from tests.support.paths import DASHBOARD


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    npm.install_or_skip(types.FOLDER)


def test_the_pages_are_right_and_feed_js_is_what_its_users_may_take_it_for() -> None:
    done = types.check()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


MISTAKES = {
    "app/rows.js": ("event.text.length", "event.txet.length", "Property 'txet' does not exist on type 'FeedEvent'"),
    "feed/connection.js": ("attempt.silence", "attempt.quiet", "Property 'quiet' does not exist on type 'Attempt'"),
    "app/list.js": ('<div role="row"', "${event.offset}<div", "Property 'offset' does not exist on type 'FeedEvent'"),
}


def test_a_mistake_in_any_of_the_files_is_found(tmp_path: Path) -> None:
    shutil.copytree(DASHBOARD, tmp_path / "pages")
    for name, (right, wrong, _) in MISTAKES.items():
        file = tmp_path / "pages" / name
        text = file.read_text()
        assert right in text
        file.write_text(text.replace(right, wrong, 1))
    project = json.dumps(
        {
            "extends": str(types.FOLDER / "tsconfig.json"),
            "files": [str(types.FOLDER / "globals.d.ts"), str(types.FOLDER / "node_modules/uplot/dist/uPlot.d.ts")],
            "include": [str(tmp_path / "pages")],
            "exclude": [str(tmp_path / "pages/vendor")],
        }
    )
    (tmp_path / "tsconfig.json").write_text(project)
    done = types.check(tmp_path)
    assert done.returncode != 0
    found = done.stdout.splitlines()
    assert len(found) == len(MISTAKES), done.stdout
    for name, (*_, words) in MISTAKES.items():
        assert any(f"pages/{name}" in line and words in line for line in found), done.stdout


def test_the_libraries_types_are_of_the_versions_that_are_sent() -> None:
    sent = (DASHBOARD / "vendor/README.md").read_text().lower()
    for name in ("lit-html", "uplot"):
        version = json.loads((types.FOLDER / f"node_modules/{name}/package.json").read_text())["version"]
        assert f"{name} {version}," in sent
