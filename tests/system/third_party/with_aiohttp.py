"""aiohttp-sse-client2: with_aiohttp.py URL [by-hand]"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import aiohttp
from aiohttp_sse_client2.client import EventSource
from by_hand import RESUMES, URL, Place, record


async def plain() -> None:
    """As its README shows it."""
    async with EventSource(URL) as source:
        try:
            async for event in source:
                record(event.last_event_id, event.type, event.data)
        except (ConnectionError, aiohttp.ClientError, ValueError) as error:
            print(f"{type(error).__name__}", flush=True)


async def by_hand() -> None:
    """With a way back from a broken connection, and no end after five minutes."""
    place = Place()
    options = {
        "timeout": aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=45),
        "reconnection_time": timedelta(seconds=0.1),
        "max_connect_retry": 0,
    }
    while True:
        try:
            async with EventSource(URL, headers=place.headers, **options) as source:
                async for event in source:
                    place.note(event.last_event_id, None)
                    record(event.last_event_id, event.type, event.data)
        except (ConnectionError, aiohttp.ClientError):
            pass
        await asyncio.sleep(0.1)


asyncio.run(by_hand() if RESUMES else plain())
