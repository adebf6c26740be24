"""The requests of `feed subscriptions` and `feed kick`, for tokens with `admin`."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import httpx
import orjson

from feed import FeedError
from feed.client import Refused, checked_url
from feed.client.calls import words
from feed.client.environment import proxy_for, tls_context

_PATIENCE = 30.0  # seconds for an answer: the server waits for all nodes


class AdminClient:
    """A feed's routes for those who run it, for the length of an `async with` block. A request is sent once."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = checked_url(url)
        parsed = httpx.URL(url)
        self._http = httpx.AsyncClient(
            base_url=parsed,
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            verify=tls_context() if parsed.scheme == "https" else False,
            trust_env=False,  # proxies and certificates are read from the environment by `feed.client`
            proxy=proxy_for(parsed),
            timeout=_PATIENCE,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def get(self, path: str, **parameters: str | int) -> dict[str, Any]:
        """Return the document at `path`. Raises `Refused`, and `FeedError` where the feed does not answer."""
        return await self._ask("GET", path, parameters)

    async def delete(self, path: str, **parameters: str | int) -> dict[str, Any]:
        """Delete what is at `path`, and return what the feed says; nothing for a 204. Raises as `get`."""
        return await self._ask("DELETE", path, parameters)

    async def _ask(self, method: str, path: str, parameters: dict[str, str | int]) -> dict[str, Any]:
        try:
            response = await self._http.request(method, path, params=parameters)
        except httpx.RequestError as error:
            raise FeedError(f"{self.url}: {words(error, 'no answer')}") from None
        if response.status_code == httpx.codes.NO_CONTENT:
            return {}
        document = _document(response)
        if response.status_code == httpx.codes.OK and document is not None:
            return document
        if document is not None and document.get("status") == response.status_code:
            raise Refused(response.status_code, str(document.get("detail") or response.reason_phrase))
        answer = f"{response.status_code} {response.reason_phrase}".strip()
        raise FeedError(f"{self.url}: {answer}: this is not a feed's answer: a proxy's, or the URL is wrong")


def _document(response: httpx.Response) -> dict[str, Any] | None:
    try:
        document = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None
