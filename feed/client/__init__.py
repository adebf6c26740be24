"""A feed's clients for Python: the calls of `feed.Feed`, over HTTP.

    async with AsyncClient("http://127.0.0.1:8000") as client:
        await client.publish("orders/42", {"state": "paid"})
        async with client.subscribe("orders/*") as items:
            async for item in items:
                if isinstance(item, Event):
                    print(item.id, item.data)

    with Client("http://127.0.0.1:8000") as client, client.subscribe("orders/*") as items:
        for item in items:
            ...

The clients share `Event`, `Draft`, `Gap`, `Page` and `TopicInfo` with the library, and nothing with the server. What
is sent, what an answer means and how long to wait is decided in modules without sockets (`calls`, `reading`, `answers`,
`frames`, `waits`). `environment` finds proxies and certificates, `processes` keeps apart what a fork may not share.
`asynchronous` and `synchronous` only carry it out.
"""

from feed.client.asynchronous import AsyncClient, AsyncSubscription
from feed.client.errors import GaveUp, Refused
from feed.client.items import Item, Notice, Reconnecting
from feed.client.reading import Transport
from feed.client.server import AsyncToken, Token, checked_token, checked_url
from feed.client.synchronous import Client, Subscription
from feed.client.waits import PATIENCE
from feed.control import Gap
from feed.event import Draft, Event
from feed.event import value_draft as draft
from feed.pages import EARLIEST, Page, TopicInfo

__all__ = [
    "EARLIEST",
    "PATIENCE",
    "AsyncClient",
    "AsyncSubscription",
    "AsyncToken",
    "Client",
    "Draft",
    "Event",
    "Gap",
    "GaveUp",
    "Item",
    "Notice",
    "Page",
    "Reconnecting",
    "Refused",
    "Subscription",
    "Token",
    "TopicInfo",
    "Transport",
    "checked_token",
    "checked_url",
    "draft",
]
