"""The server against its own description: schemathesis makes requests of `/openapi.json`, valid and invalid ones, and
holds the answers against it. FEED_SOAK makes more of them, from another seed each time.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.running import RunningServer
from web.grants import Grants
from web.tokens import issue

PROJECT = Path(__file__).parents[1]
PROGRAM = str(Path(sys.executable).parent / "schemathesis")
SECRET = "a secret that is long enough for HS256"
SOAK = bool(os.environ.get("FEED_SOAK"))
SEED = random.randrange(1 << 32) if SOAK else 5
MANY, FEW = (1000, 200) if SOAK else (10, 2)  # examples for each operation and phase

LATER = time.time() + 3600
ADMIN = Grants(["**"], ["**"], admin=True, subject="admin", expires=LATER)
SOMEBODY = Grants(["orders/**"], ["orders/*"], subject="somebody", expires=LATER)


# All phases: examples, coverage, fuzzing, stateful. Every check is on but for those that are named here.
CONFIG = """
continue-on-failure = true
request-timeout = 30

[generation]
database = "none"
"""


def attack(server: RunningServer, folder: Path, examples: int, grants: Grants | None = None) -> None:
    """Let schemathesis loose on it, with a token for these grants. What it finds is the failure's text."""
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    header = [] if grants is None else ["--header", f"Authorization: Bearer {issue(grants, SECRET, 'HS256')}"]
    command = ["--config-file", str(config), "run", f"{server.url}/openapi.json", "--no-color", *header]
    result = subprocess.run(
        [PROGRAM, *command, "--seed", str(SEED), "--max-examples", str(examples)],
        cwd=folder,  # where it leaves its own files
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.schema_hooks", "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    phases = re.findall("^ (.)  (Examples|Coverage|Fuzzing|Stateful)", result.stdout, re.MULTILINE)
    assert [name for sign, name in phases if sign == "✅"] == ["Examples", "Coverage", "Fuzzing", "Stateful"]
    assert "11 selected / 11 total" in result.stdout
    assert server.alive
    assert server.remarks == ""


@pytest.mark.soak
@pytest.mark.timeout(3600 if SOAK else 120)
def test_without_a_key_it_is_as_it_says(serve: Serve, tmp_path: Path) -> None:
    attack(serve("--log", "memory:"), tmp_path, MANY)


@pytest.mark.soak
@pytest.mark.timeout(3600 if SOAK else 120)
@pytest.mark.parametrize(
    ("grants", "examples"), [(None, FEW), (ADMIN, MANY), (SOMEBODY, FEW)], ids=["nobody", "an admin", "somebody"]
)
def test_with_a_key_it_is_as_it_says_to(serve: Serve, tmp_path: Path, grants: Grants | None, examples: int) -> None:
    attack(serve("--log", "memory:", jwt_secret=SECRET), tmp_path, examples, grants)
