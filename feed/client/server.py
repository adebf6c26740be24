"""The server's URL and the client's token, and the checks of both."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Awaitable, Callable
from ssl import SSLContext
from typing import Any

import httpx

from feed.client.environment import proxy_for, tls_context
from feed.client.processes import PerProcess
from feed.errors import Invalid

Token = str | Callable[[], str] | None
"""A JWT, which says what a client may do, or a function that returns one for each request and each connect."""

AsyncToken = str | Callable[[], str | Awaitable[str]] | None
"""The token of an `AsyncClient`. The function may be a coroutine function; a plain function must not block."""

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, 2.1


class Server:
    """One server, by its URL. Raises `Invalid` for a bad URL or token, and for both a password and a token."""

    def __init__(self, url: str, token: object, *, trust_env: bool, ssl: SSLContext | None) -> None:
        self.name = checked_url(url)
        self.url = httpx.URL(url)
        self._trust_env = trust_env
        if isinstance(token, str):
            checked_token(token)
        if token is not None and self.url.userinfo:
            raise Invalid("url", "has a password in it, and there is a token, too: give only one of them")
        self._given_tls = ssl
        self._tls = PerProcess[SSLContext]()
        _ = self.ssl  # errors in certificates are raised at once

    @property
    def ssl(self) -> SSLContext | None:
        """The TLS context for both transports, made only where it is needed, as loading certificates takes time. Raises
        `Invalid`."""
        if self.url.scheme != "https":
            return None
        return self._given_tls or self._tls.get(lambda: tls_context(trust_env=self._trust_env))

    def proxy_for(self, url: httpx.URL) -> str | None:
        """Return the URL of the proxy for `url`, None without one. Raises `Invalid`."""
        return proxy_for(url) if self._trust_env else None

    @property
    def http_options(self) -> dict[str, Any]:
        """The options of a client of httpx. Raises `Invalid` for a proxy that cannot be used.

        Redirects are not followed, as a token is only for this server. Answers must not be compressed, as a small one
        could fill the memory.
        """
        return {
            "base_url": self.url,
            "verify": self.ssl or False,
            "trust_env": False,  # `environment` reads the environment
            "proxy": self.proxy_for(self.url),
            "headers": {"Accept-Encoding": "identity"},
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=20),
        }

    def socket_url(self, parameters: httpx.QueryParams) -> httpx.URL:
        """Return the URL of the WebSocket."""
        scheme = "wss" if self.url.scheme == "https" else "ws"
        path = self.url.path.rstrip("/") + "/ws"
        url = self.url.copy_with(scheme=scheme, path=path, userinfo=b"", fragment=None)
        return url.copy_with(params=parameters)

    @property
    def password(self) -> dict[str, str]:
        """The header with the URL's name and password, if it has them. For HTTP, httpx makes this header itself."""
        if not self.url.userinfo:
            return {}
        both = f"{self.url.username}:{self.url.password}".encode()
        return {"Authorization": f"Basic {b64encode(both).decode()}"}


def bearer(token: str | None) -> dict[str, str]:
    """Return the header with a token. Raises `Invalid`."""
    return {} if checked_token(token) is None else {"Authorization": f"Bearer {token}"}


def checked_url(url: str) -> str:
    """Return the URL without its password, for messages. Raises `Invalid`."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError):
        parsed = httpx.URL("")
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        if "://" not in url and _leads_somewhere(f"http://{url}"):
            raise Invalid("url", f"{url!r} is not a URL: http:// is missing")
        raise Invalid("url", f"{url!r} is not a URL such as http://127.0.0.1:8000")
    return f"{parsed.scheme}://{parsed.netloc.decode()}{parsed.path}".rstrip("/")


def _leads_somewhere(url: str) -> bool:
    try:
        return bool(httpx.URL(url).host)
    except (httpx.InvalidURL, UnicodeError):
        return False


def checked_token(token: str | None) -> str | None:
    """Return the token itself. Raises `Invalid`, which does not repeat it, for a token that no header can hold."""
    if token is not None and (not isinstance(token, str) or _TOKEN.fullmatch(token) is None):
        raise Invalid("token", "is not a token: give it alone, without Bearer or line breaks")
    return token
