"""httpx-sse: with_httpx_sse.py URL [by-hand]"""

from __future__ import annotations

import httpx
from by_hand import URL, Place, record
from httpx_sse import connect_sse

place = Place()
with httpx.Client(timeout=httpx.Timeout(10, read=45)) as client:
    while True:
        try:
            with connect_sse(client, "GET", URL, headers=place.headers) as source:
                for event in source.iter_sse():
                    place.note(event.id, event.retry)
                    record(event.id, event.event, event.data)
        except httpx.TransportError as error:
            print(f"{type(error).__name__}", flush=True)
        place.stay_away()
