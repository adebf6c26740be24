"""The other end: a feed's client for Python, for asyncio and for plain code.

    async with AsyncClient("http://127.0.0.1:8000") as client:
        await client.publish("orders/42", {"state": "paid"})
        async with client.subscribe("orders/*") as items:
            async for item in items:
                ...

    with Client("http://127.0.0.1:8000") as client, client.subscribe("orders/*") as items:
        for item in items:
            ...

It knows the contract, and nothing of the server's code. What is sent, what an answer means and how long to wait is
decided in modules that know no socket (`calls`, `reading`, `answers`, `frames`, `waits`); `environment` says which way,
`processes` what a fork may not share; `asynchronous` and `synchronous` only carry it out.
"""

from feed.client.asynchronous import AsyncClient, AsyncSubscription
from feed.client.errors import GaveUp, Refused
from feed.client.items import Gap, Item, Message, Notice, Outgoing, Page, Reconnecting
from feed.client.reading import Transport
from feed.client.server import AsyncToken, Token, checked_token, checked_url
from feed.client.synchronous import Client, Subscription
from feed.client.waits import PATIENCE

__all__ = [
    "PATIENCE",
    "AsyncClient",
    "AsyncSubscription",
    "AsyncToken",
    "Client",
    "Gap",
    "GaveUp",
    "Item",
    "Message",
    "Notice",
    "Outgoing",
    "Page",
    "Reconnecting",
    "Refused",
    "Subscription",
    "Token",
    "Transport",
    "checked_token",
    "checked_url",
]
