"""Check the pages' JavaScript: `python -m tests.dashboard.types`."""

from __future__ import annotations

import sys

from tests.dashboard.types import check

done = check()
sys.stdout.write(done.stdout)
sys.stderr.write(done.stderr)
sys.exit(done.returncode)
