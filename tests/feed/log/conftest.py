"""The logs, each of which every test of the contract is run over."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from feed import Retention
from feed.log import Log, open_log

OpenLog = Callable[..., Awaitable[Log]]


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenLog]:
    """Opens logs of the kind under test, each with a store of its own, and closes them."""
    logs: list[Log] = []

    async def new(**retention: Any) -> Log:
        match request.param:
            case "memory":
                url = "memory:"
            case "sqlite":
                url = f"sqlite:{tmp_path / f'{len(logs)}.db'}"
            case _:
                url = request.getfixturevalue("shared_redis").url(secrets.token_hex(8))
        log = await open_log(url, Retention(**retention))
        logs.append(log)
        return log

    yield new
    for log in logs:
        await log.close()


@pytest.fixture
async def log(opened: OpenLog) -> Log:
    """One log with the usual retention."""
    return await opened()
