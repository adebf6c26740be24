"""The server against its own description: schemathesis makes requests of `/openapi.json`, valid and invalid ones, and
holds the answers against it. FEED_SOAK makes more of them, from another seed each time.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from feed.pattern import EVERYTHING
from tests.conftest import Serve
from tests.running import RunningServer
from web.grants import Grants
from web.tokens import issue

SECRET = "a secret that is long enough for HS256"
SOAK = bool(os.environ.get("FEED_SOAK"))
EXAMPLES = 500 if SOAK else 15
SEED = random.randrange(1 << 32) if SOAK else 5

EVERYWHERE = EVERYTHING.patterns
TOKENS = {
    "nobody": None,
    "an admin": Grants(EVERYWHERE, EVERYWHERE, admin=True, subject="admin", expires=time.time() + 3600),
    "somebody with few grants": Grants(["orders/**"], ["orders/*"], subject="few", expires=time.time() + 3600),
}

# All phases and all checks but what is named here.
CONFIG = """
continue-on-failure = true
request-timeout = 10.0

[generation]
database = "none"
{generation}
"""


def run(server: RunningServer, folder: Path, token: str | None = None) -> None:
    """Let schemathesis loose on it, and say what it has found."""
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG.format(generation=""))
    headers = [] if token is None else ["--header", f"Authorization: Bearer {token}"]
    result = subprocess.run(
        [
            *(str(Path(sys.executable).parent / "st"), "--config-file", str(config), "--no-color"),
            *("run", f"{server.url}/openapi.json", "--seed", str(SEED), "--max-examples", str(EXAMPLES)),
            *headers,
        ],
        cwd=folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.schema_hooks", "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert server.alive
    assert server.output.count("\n") == 4, server.output  # its greeting
