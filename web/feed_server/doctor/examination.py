"""All checks at once. They take as long as the longest of them, which watches a quiet stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple

from feed_server.doctor import flow, pages, reach, requests, resume, retention, websocket
from feed_server.doctor.finding import Finding
from feed_server.doctor.target import Target, type_of_its_own


class Report(NamedTuple):
    """What was found. `reached` says whether a feed answered."""

    reached: bool
    findings: list[Finding]


async def examine(
    target: Target, done: Callable[[], None] = lambda: None, *, groups: Collection[str] | None = None
) -> Report:
    """Run all checks, or only these `GROUPS`. `done` is called when a group ends."""
    way = await reach.look_way(target)
    if (finding := reach.judge_unreachable(way)) is not None:
        return Report(False, [finding])
    answer = await reach.look_feed(target)
    if (finding := reach.judge_stranger(answer)) is not None:
        return Report(False, [reach.judge_tls(way), finding])

    async def told(group: Callable[[Target], Awaitable[list[Finding]]]) -> list[Finding]:
        findings = await group(target)
        done()
        return findings

    chosen = [look for name, look in GROUPS.items() if groups is None or name in groups]
    found = await asyncio.gather(*map(told, chosen))
    return Report(
        True,
        [
            reach.judge_right(answer, token=target.token is not None),
            reach.judge_tls(way),
            reach.judge_version(way),
            *(finding for findings in found for finding in findings),
        ],
    )


async def _health(target: Target) -> list[Finding]:
    return [reach.judge_health(*await reach.look_health(target))]


async def _clock(target: Target) -> list[Finding]:
    return [reach.judge_clock(await reach.look_clock(target, type_of_its_own("clock")))]


async def _flow(target: Target) -> list[Finding]:
    found = await flow.look_flow(target, type_of_its_own("flow"))
    return [flow.judge_buffering(found), flow.judge_compression(found), flow.judge_caching(found)]


async def _quiet(target: Target) -> list[Finding]:
    return [flow.judge_quiet(await flow.look_quiet(target, type_of_its_own("quiet")))]


async def _resume(target: Target) -> list[Finding]:
    return resume.judge_resume(await resume.look_resume(target, type_of_its_own("resume")))


async def _socket(target: Target) -> list[Finding]:
    return [websocket.judge_socket(await websocket.look_socket(target, type_of_its_own("socket")))]


async def _quiet_socket(target: Target) -> list[Finding]:
    return [websocket.judge_quiet_socket(await websocket.look_quiet_socket(target, type_of_its_own("quiet")))]


async def _pages(target: Target) -> list[Finding]:
    origins, cors, session = await asyncio.gather(
        pages.look_origins(target), pages.look_cors(target), pages.look_session(target)
    )
    return [pages.judge_origins(origins), pages.judge_cors(cors), pages.judge_session(session)]


async def _requests(target: Target) -> list[Finding]:
    body, refusal, paths = await asyncio.gather(
        requests.look_body(target),
        requests.look_refusal(target),
        requests.look_paths(target, type_of_its_own("paths")),
    )
    return [requests.judge_body(body), requests.judge_refusal(refusal), requests.judge_paths(paths)]


async def _retention(target: Target) -> list[Finding]:
    found = retention.judge_retention(await retention.look_retention(target))
    return [] if found is None else [found]


async def _addresses(target: Target) -> list[Finding]:
    honest, forged = type_of_its_own("honest"), type_of_its_own("forged")
    return [requests.judge_addresses(await requests.look_addresses(target, honest, forged))]


GROUPS = {
    "health": _health,
    "clock": _clock,
    "flow": _flow,
    "quiet": _quiet,
    "resume": _resume,
    "socket": _socket,
    "quiet socket": _quiet_socket,
    "pages": _pages,
    "requests": _requests,
    "addresses": _addresses,
    "retention": _retention,
}
"""The groups of checks that run at the same time, in the order of the report."""
