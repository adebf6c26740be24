"""Proxies and trusted certificates, as the environment's variables say.

The variables are read here and not by httpx and websockets, which read them differently and can fail with a traceback
for an entry that does not matter. One rule holds for every transport: a host that is exempt needs no proxy, whatever
the other variables hold. Of these only the variable that counts is read, and an error names it.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, getproxies_environment, proxy_bypass

import httpx

from feed.errors import Invalid

_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}

# As httpx and websockets have them: a WebSocket would rather have a proxy that makes tunnels.
_CANDIDATES = {
    "http": ("http", "all"),
    "https": ("https", "all"),
    "ws": ("ws", "socks", "https", "http", "all"),
    "wss": ("wss", "socks", "https", "all"),
}
_SOCKS = {"socks": "socks5h", "socks5": "socks5", "socks5h": "socks5h"}  # `socks` is what desktops write
_ENTRY = re.compile(r"(?:(?P<scheme>[a-z]+)://)?(?:\[(?P<six>[^]]*)]|(?P<name>[^:]*))(?::(?P<port>[0-9]+))?")


def proxy_for(url: httpx.URL) -> str | None:
    """Return the URL of the proxy for `url`, which may be a WebSocket's; None to ask the server itself. Raises
    `Invalid`, with the name of the variable, for a proxy that cannot be used."""
    proxies = getproxies()  # where nothing is in the environment, macOS and Windows have settings of their own
    chosen = next((name for name in _CANDIDATES[url.scheme] if proxies.get(name)), None)
    if chosen is None or _is_exempt(url, proxies.get("no", "")):
        return None
    return _checked(chosen, proxies[chosen], url.scheme)


def tls_context(*, trust_env: bool = True, system: bool = False) -> ssl.SSLContext:
    """Make a TLS context. It trusts the certificates of `SSL_CERT_FILE` or `SSL_CERT_DIR`, else those of certifi, or of
    the `system`. Raises `Invalid`, with the name of the variable, for what cannot be read."""
    folders = os.environ.get("SSL_CERT_DIR", "") if trust_env and not os.environ.get("SSL_CERT_FILE") else ""
    if folders and not any(Path(folder).is_dir() for folder in folders.split(os.pathsep) if folder):
        raise Invalid("SSL_CERT_DIR", "this folder does not exist")  # OpenSSL would say nothing, and trust nobody
    try:
        named = trust_env and (os.environ.get("SSL_CERT_FILE") or folders)
        return ssl.create_default_context() if system and not named else httpx.create_ssl_context(trust_env=trust_env)
    except (OSError, ValueError):
        for variable, reason in _unreadable(trust_env=trust_env):
            raise Invalid(variable, reason) from None
        raise


# Proxies.


def _is_exempt(url: httpx.URL, entries: str) -> bool:
    host = url.host.lower().rstrip(".")
    port = url.port or _PORTS[url.scheme]
    names = {host, url.raw_host.decode("ascii", "replace").lower().rstrip(".")}
    if getproxies_environment():
        return any(_exempts(entry, url.scheme, names, port) for entry in re.split(r"[\s,]+", entries.lower()))
    return bool(proxy_bypass(host))  # as macOS and Windows have it


def _exempts(entry: str, scheme: str, names: set[str], port: int) -> bool:
    """Return whether an entry exempts the host with these names. An entry that cannot be read exempts nothing."""
    if entry == "*":
        return True
    if any(_is_within(name, entry) for name in names):
        return True
    found = _ENTRY.fullmatch(entry)
    if found is None or found["scheme"] not in (None, "all", scheme) or found["port"] not in (None, str(port)):
        return False
    if found["six"] is not None:
        return any(_is_within(name, found["six"]) for name in names)
    suffix = found["name"].removeprefix("*").strip(".")
    return suffix != "" and any(
        name == suffix or name.endswith(f".{suffix}") or _is_within(name, suffix) for name in names
    )


def _is_within(host: str, network: str) -> bool:
    """Return whether both are addresses, and the network contains the host."""
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False


def _checked(kind: str, value: str, scheme: str) -> str:
    # The value itself is not repeated, as it may hold a password.
    variable = _variable(kind)
    proxy = _parsed(value, variable)
    if proxy.scheme in _SOCKS:
        needed = "python_socks" if scheme in {"ws", "wss"} else "socksio"
        if find_spec(needed) is None:
            raise Invalid(variable, f"names a SOCKS proxy, which needs {needed.replace('_', '-')}: pip install it")
    elif proxy.scheme not in {"http", "https"}:
        raise Invalid(variable, f"{proxy.scheme}:// is not a kind of proxy: use http, https, socks5 or socks5h")
    # Without a path, and with a password wherever there is a name, as websockets expects.
    user = proxy.userinfo.decode("ascii")
    login = f"{user}{'' if ':' in user else ':'}@" if user else ""
    place = proxy.netloc.decode("ascii")
    return f"{_SOCKS.get(proxy.scheme, proxy.scheme)}://{login}{place}"


def _parsed(value: str, variable: str) -> httpx.URL:
    text = value if "://" in value else f"http://{value}"
    try:
        proxy = httpx.URL(text)
        urlsplit(text).port  # noqa: B018  it knows what httpx takes and no socket does
        unquote(proxy.userinfo.decode("ascii"), errors="strict")
    except (httpx.InvalidURL, ValueError):
        proxy = httpx.URL("")
    if not proxy.host:
        raise Invalid(variable, "is not the URL of a proxy, such as http://proxy.example.org:3128")
    return proxy


def _variable(kind: str) -> str:
    """Return the name of the variable that names the proxy, as it is written."""
    wanted = f"{kind}_proxy"
    names = [name for name, value in os.environ.items() if name.lower() == wanted and value]
    return min(names, key=lambda name: name != wanted, default=f"the system's {kind} proxy")


# Certificates.


def _unreadable(*, trust_env: bool) -> Iterator[tuple[str, str]]:
    """Yield the variables that keep a context from being made, with the reason."""
    if trust_env and (file := os.environ.get("SSL_CERT_FILE")):
        try:
            _bare_context().load_verify_locations(cafile=file)
        except ssl.SSLError:
            yield "SSL_CERT_FILE", "does not hold certificates in PEM"
        except (OSError, ValueError) as error:
            yield "SSL_CERT_FILE", f"cannot be read: {_reason(error)}"
    if file := os.environ.get("SSLKEYLOGFILE"):  # where Python writes the keys of connections, for Wireshark
        try:
            _bare_context().keylog_filename = file
        except (OSError, ValueError) as error:
            yield "SSLKEYLOGFILE", f"cannot be written: {_reason(error)}"


def _bare_context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "it is not a path"
