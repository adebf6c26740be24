"""Where things lie."""

from __future__ import annotations

from pathlib import Path

import feed_dashboard

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
ARTIFACTS = ROOT / "test-artifacts"
DASHBOARD = Path(feed_dashboard.__file__).parent
