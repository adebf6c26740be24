"""The types of the pages' JavaScript, checked by TypeScript.

The files are plain JavaScript, served as they are written; their types stand in JSDoc, and in `types.d.ts` beside them,
which no browser loads. `make types` runs this package.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support import npm

FOLDER = Path(__file__).parent
_TSC = FOLDER / "node_modules/typescript/bin/tsc"


def check(project: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    """What tsc says of a project, the folder with its tsconfig.json. It says nothing of what is right."""
    npm.install(FOLDER)
    return subprocess.run([npm.NODE, _TSC, "--project", project], capture_output=True, text=True, timeout=100)
