"""Both of the Python clients with one face, so that the same tests hold them to the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

from feed.client import AsyncClient, Client, Event, Item, Page, TopicInfo

AnyClient = Callable[..., Any]
"""`AsyncClient`, or `InThread`, which looks like it."""


class InThread:
    """A `Client`, each call of which is made in a thread."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._client = Client(*args, **options)
        self.url = self._client.url

    async def publish(self, *args: Any, **options: Any) -> str:
        return await asyncio.to_thread(self._client.publish, *args, **options)

    async def publish_batch(self, *args: Any, **options: Any) -> list[str]:
        return await asyncio.to_thread(self._client.publish_batch, *args, **options)

    async def delete(self, *args: Any, **options: Any) -> str:
        return await asyncio.to_thread(self._client.delete, *args, **options)

    async def renew(self, *args: Any, **options: Any) -> None:
        await asyncio.to_thread(self._client.renew, *args, **options)

    async def latest(self, *args: Any, **options: Any) -> Event | None:
        return await asyncio.to_thread(self._client.latest, *args, **options)

    async def topics(self, *args: Any, **options: Any) -> AsyncIterator[TopicInfo]:
        topics = self._client.topics(*args, **options)
        while (topic := await asyncio.to_thread(next, topics, None)) is not None:
            yield topic

    async def page(self, *args: Any, **options: Any) -> Page:
        return await asyncio.to_thread(self._client.page, *args, **options)

    async def now(self, *patterns: Any) -> str:
        return await asyncio.to_thread(self._client.now, *patterns)

    async def history(self, *args: Any, **options: Any) -> AsyncIterator[Page]:
        pages = self._client.history(*args, **options)
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
            yield page

    def subscribe(self, *args: Any, **options: Any) -> InThreadSubscription:
        return InThreadSubscription(self._client, args, options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.close()


class InThreadSubscription(AsyncIterator[Item]):
    """A `Subscription`, read in a thread."""

    def __init__(self, client: Client, args: Any, options: Any) -> None:
        self._items = client.subscribe(*args, **options)

    @property
    def position(self) -> str:
        return self._items.position

    async def __anext__(self) -> Item:
        item = await asyncio.to_thread(next, self._items, None)
        if item is None:
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        await asyncio.to_thread(self._items.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


BOTH: dict[str, AnyClient] = {"asyncio": AsyncClient, "threads": InThread}
