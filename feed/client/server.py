"""Where the server is, and what says that a client may talk to it: the checks of both."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from ssl import SSLContext
from typing import Any

import httpx

from feed.errors import Invalid

Token = str | Callable[[], str] | None
"""What says what a client may do: a JWT, or what gives one and is asked anew for each request and each connect."""

AsyncToken = str | Callable[[], str | Awaitable[str]] | None
"""The same for an `AsyncClient`; what is called may be a coroutine function. One that is not must not block."""

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, 2.1


class Server:
    """One server, by its URL. Raises `Invalid` for a URL or token that is none, and for both a password and a token."""

    def __init__(self, url: str, token: object, *, trust_env: bool, ssl: SSLContext | None) -> None:
        self.name = checked_url(url)
        self.url = httpx.URL(url)
        self.trust_env = trust_env
        if isinstance(token, str):
            checked_token(token)
        if token is not None and self.url.userinfo:
            raise Invalid("url", "holds a password, and there is a token too: only one of them can be sent")
        # One for both transports, and only where it is needed: to load all certificates takes its time.
        self.ssl = (ssl or httpx.create_ssl_context(trust_env=trust_env)) if self.url.scheme == "https" else None

    @property
    def http_options(self) -> dict[str, Any]:
        """For a client of httpx. Redirects are not followed: a token is for this server alone. Nothing may come
        compressed: a little of it could fill the memory."""
        return {
            "base_url": self.url,
            "verify": self.ssl or False,
            "trust_env": self.trust_env,
            "headers": {"Accept-Encoding": "identity"},
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=20),
        }

    def socket_url(self, parameters: httpx.QueryParams) -> str:
        """Where the WebSocket is."""
        scheme = "wss" if self.ssl else "ws"
        path = self.url.path.rstrip("/") + "/ws"
        return str(self.url.copy_with(scheme=scheme, path=path, fragment=None).copy_with(params=parameters))


def bearer(token: str | None) -> dict[str, str]:
    """The header that carries a token. Raises `Invalid`."""
    return {} if checked_token(token) is None else {"Authorization": f"Bearer {token}"}


def checked_url(url: str) -> str:
    """Where `url` leads, without a password it may hold. Raises `Invalid`."""
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
    """The token itself. Raises `Invalid`, without repeating it, for one that no header can carry."""
    if token is not None and (not isinstance(token, str) or _TOKEN.fullmatch(token) is None):
        raise Invalid("token", "is not a token: give it alone, without Bearer or line breaks")
    return token
