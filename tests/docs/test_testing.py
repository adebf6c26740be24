"""The recipe for tests, run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from feed.testing import Server
from feed.testing import fixtures as fixtures_module
from tests.docs.saved import save, saved, section

PAGE = "docs/recipes/testing.md"


def test_the_tests_of_the_page_run_and_pass(tmp_path: Path) -> None:
    save(tmp_path, saved(PAGE))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    quick = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # those of others
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=quick)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_page_names_every_switch_and_fixture_and_no_other() -> None:
    text = section(PAGE, "The switches")
    table = "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    switches = {name for name in vars(Server) if not name.startswith("_")} - {"url", "port", "connections"}
    assert set(re.findall(r"`(\w+)\(", table)) == switches
    for fixture in ("feed_server", "serve_app"):
        assert hasattr(fixtures_module, fixture)
        assert f"`{fixture}`" in section(PAGE)
