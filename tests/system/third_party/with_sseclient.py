"""sseclient-py, over httpx: with_sseclient.py URL [by-hand]"""

from __future__ import annotations

import httpx
from by_hand import URL, Place, record
from sseclient import SSEClient

place = Place()
with httpx.Client(timeout=httpx.Timeout(10, read=45)) as client:
    while True:
        try:
            with client.stream("GET", URL, headers=place.headers) as response:
                for event in SSEClient(response.iter_bytes()).events():
                    place.note(event.id, event.retry)
                    record(event.id, event.event, event.data)
        except httpx.TransportError as error:
            print(f"{type(error).__name__}", flush=True)
        place.stay_away()
