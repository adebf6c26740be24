"""What the environment says of the way to a server, read by us, and never by a library behind our back."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from pathlib import Path

import httpx
import pytest

from feed import Invalid
from feed.client import Event, Notice, Reconnecting
from feed.client.environment import proxy_for, tls_context
from feed_server.auth.jwks import RemoteKeys
from feed_server.cli.main import run
from tests.support.certificate import certificate
from tests.support.clients import AnyClient
from tests.support.running import RunningServer
from tests.support.scripted import accepting, copy, playing, silence

pytestmark = pytest.mark.anyio

PROXY = "http://proxy.example:3128"
UNREADABLE = "[,[::1,fe80::/10/3,http://[x,10.0.0.0/99,:::,/,//,\\,%zz,*.,.,@,a:b:c,\udcff"


@pytest.fixture(autouse=True)
def _nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("SSL"):
            monkeypatch.delenv(name)


def chosen(url: str) -> str | None:
    return proxy_for(httpx.URL(url))


def test_a_proxy_is_that_of_the_scheme_or_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen("http://feed.example") is None
    monkeypatch.setenv("ALL_PROXY", PROXY)
    assert {chosen(f"{scheme}://feed.example") for scheme in ("http", "https", "ws", "wss")} == {PROXY}
    monkeypatch.setenv("HTTPS_PROXY", "user:pass%3Aword@secure.example/ignored?x")
    assert chosen("http://feed.example") == PROXY
    assert chosen("https://feed.example") == chosen("wss://feed.example") == "http://user:pass%3Aword@secure.example"
    monkeypatch.setenv("ws_proxy", "https://name@sockets.example:8443")
    assert chosen("ws://feed.example") == "https://name:@sockets.example:8443"
    monkeypatch.setenv("https_proxy", "")  # what is empty is none, and the small letters win
    assert chosen("https://feed.example") == PROXY


@pytest.mark.parametrize(
    ("entry", "exempt", "not_exempt"),
    [
        ("*", ["http://feed.example"], []),
        ("feed.example", ["http://feed.example", "wss://a.feed.example:99", "http://FEED.example."], ["http://myfeed.example"]),
        (".feed.example", ["http://feed.example", "http://a.feed.example"], ["http://example"]),
        ("*.feed.example", ["http://a.feed.example"], ["http://feed.exampl"]),
        ("feed.example:8000", ["http://feed.example:8000"], ["http://feed.example", "http://feed.example:8001"]),
        ("feed.example:443", ["https://feed.example", "wss://feed.example"], ["http://feed.example"]),
        ("https://feed.example", ["https://feed.example"], ["http://feed.example"]),
        ("127.0.0.1", ["http://127.0.0.1:8000"], ["http://127.0.0.2"]),
        ("10.0.0.0/8", ["http://10.1.2.3", "ws://10.1.2.3"], ["http://11.1.2.3", "http://feed.example"]),
        ("10.1.2.3/8", ["http://10.9.9.9"], []),
        ("::1", ["http://[::1]:8000"], ["http://[::2]"]),
        ("[::1]:8000", ["http://[::1]:8000"], ["http://[::1]"]),
        ("::1/128", ["http://[::1]:8000", "ws://[0:0::1]"], ["http://[::2]", "http://127.0.0.1"]),
        ("fd00::/8", ["http://[fd12::1]"], ["http://[fe80::1]"]),
        ("[fd00::/8]", ["http://[fd12::1]"], []),
        ("m\u00fcnchen.example", ["http://m\u00fcnchen.example"], []),
        ("localhost", ["http://localhost:8000"], ["http://127.0.0.1"]),
    ],
)  # fmt: skip
def test_who_is_exempt_needs_no_proxy(
    entry: str, exempt: list[str], not_exempt: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    monkeypatch.setenv("ALL_PROXY", PROXY)
    for entries in (entry, f"{UNREADABLE}, {entry} ,other.example", f"other.example {entry}"):
        monkeypatch.setenv("NO_PROXY", entries)
        assert [url for url in exempt if chosen(url) is not None] == []
        assert [url for url in not_exempt if chosen(url) is None] == []


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("gopher://secret@proxy.example", "gopher:// is not a kind of proxy"),
        ("socks4://secret@127.0.0.1:1080", "socks4:// is not a kind of proxy"),
        ("http://secret:pass%ff@proxy.example", "is not the URL of a proxy"),
        ("http://secret@", "is not the URL of a proxy"),
        ("http://[secret", "is not the URL of a proxy"),
        ("http://secret:99999999", "is not the URL of a proxy"),
        ("secret:x", "is not the URL of a proxy"),
        ("\x00secret", "is not the URL of a proxy"),
        (":secret", "is not the URL of a proxy"),
    ],
)
def test_what_is_no_proxy_is_named_by_its_variable_and_only_where_it_is_needed(
    value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feed.client.environment.getproxies", lambda: {"all": value, "http": PROXY, "no": "me"})
    monkeypatch.setenv("All_Proxy", "x")
    assert chosen("http://feed.example") == PROXY
    assert chosen("https://me") is None
    with pytest.raises(Invalid, match=f"^All_Proxy: {re.escape(reason)}") as raised:
        chosen("https://feed.example")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("scheme", ["socks", "socks5", "socks5h"])
def test_a_socks_proxy_needs_what_speaks_it(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", f"{scheme}://127.0.0.1:1080/")
    monkeypatch.setattr("feed.client.environment.find_spec", lambda name: None)
    for url, package in (("http://feed.example", "socksio"), ("ws://feed.example", "python-socks")):
        with pytest.raises(Invalid, match=f"all_proxy: names a SOCKS proxy, which needs {package}"):
            chosen(url)
    monkeypatch.setattr("feed.client.environment.find_spec", lambda name: object())
    assert chosen("ws://feed.example") == f"{'socks5h' if scheme == 'socks' else scheme}://127.0.0.1:1080"


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_clients_pass_over_what_is_no_good_where_they_need_no_proxy_and_name_it_where_they_do(
    client_to: AnyClient, server: RunningServer, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1:1")
    async with client_to(server.url) as client:
        for ask in (client.publish("env", "x"), anext(client.subscribe("env", transport=transport))):
            with pytest.raises(Invalid, match="ALL_PROXY: gopher:// is not a kind of proxy"):
                await ask
    monkeypatch.setenv("NO_PROXY", f"::1/128,{UNREADABLE},127.0.0.0/8")
    async with client_to(server.url) as client, client.subscribe("env", transport=transport) as items:
        assert isinstance(await anext(items), Notice)
        id = await client.publish("env", "x")
        assert await anext(item.id async for item in items if isinstance(item, Event)) == id


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_the_way_leads_through_the_proxy(
    client_to: AnyClient, server: RunningServer, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.decode().split("\r\n")[0])
        if b"\r\nproxy-authorization: basic bwu6" not in head.lower():  # me:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        feed_reader, feed_writer = await asyncio.open_connection("127.0.0.1", server.port)
        if head.startswith(b"CONNECT"):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            feed_writer.write(head)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(copy(reader, feed_writer))
                await copy(feed_reader, writer)
        finally:
            feed_writer.close()

    async with accepting(proxy) as url, client_to(server.url) as client:
        monkeypatch.setenv("HTTP_PROXY", url)
        async with client.subscribe("env", transport=transport) as items:
            refused = await anext(items)
        assert isinstance(refused, Reconnecting)
        assert "407" in refused.reason
        monkeypatch.setenv("HTTP_PROXY", url.replace("//", "//me@"))
        async with client.subscribe("env", transport=transport) as items:
            assert isinstance(await anext(items), Notice)
    first = f"CONNECT 127.0.0.1:{server.port} HTTP/1.1" if transport == "websocket" else f"GET {server.url}/events?"
    assert [line[: len(first)] for line in asked] == [first] * 2


def test_commands_name_a_proxy_that_is_none_in_a_line(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1:1")
    url = ["--url", server.url]
    for command in (["publish", "env", "x", *url], ["demo", "--every", "0.05", *url], ["doctor", server.url]):
        assert run(command) == 1
        assert capsys.readouterr().err.splitlines() == [
            "feed: ALL_PROXY: gopher:// is not a kind of proxy: use http, https, socks5 or socks5h"
        ]
    monkeypatch.setenv("no_proxy", "::1/128,127.0.0.1")
    assert run(["publish", "env", "x", *url]) == 0


async def test_keys_from_elsewhere_are_fetched_where_no_proxy_is_needed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with playing(silence) as script:
        for variable, value in (("ALL_PROXY", "gopher://127.0.0.1:1"), ("NO_PROXY", "::1/128")):
            monkeypatch.setenv(variable, value)
        keys = RemoteKeys(f"{script.url}/keys")
        await keys.look_again(None)
        assert "ALL_PROXY: gopher:// is not a kind of proxy" in caplog.text
        assert "Traceback" not in caplog.text
        monkeypatch.setenv("NO_PROXY", "::1/128,127.0.0.1")
        keys = RemoteKeys(f"{script.url}/keys")
        await keys.look_again(None)
        await keys.aclose()
    assert [head.split()[1] for head in script.heads] == ["/keys"]


# Certificates.


def test_certificates_that_cannot_be_read_are_named_by_their_variable(
    client_to: AnyClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").touch()
    for variable, value, reason in (
        ("SSL_CERT_FILE", tmp_path / "none", "cannot be read: No such file or directory"),
        ("SSL_CERT_FILE", tmp_path / "empty", "does not hold certificates in PEM"),
        ("SSL_CERT_DIR", tmp_path / "none", "this folder does not exist"),
        ("SSLKEYLOGFILE", tmp_path / "none" / "keys", "cannot be written: No such file or directory"),
    ):
        with monkeypatch.context() as patched:
            patched.setenv(variable, str(value))
            client_to("http://127.0.0.1:1")  # needs none
            with pytest.raises(Invalid, match=f"^{variable}: {reason}"):
                client_to("https://127.0.0.1:1")
            with pytest.raises(Invalid, match=variable):
                tls_context(system=True)


def test_certificates_of_the_environment_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate(tmp_path).chain))
    for system in (True, False):
        assert len(tls_context(system=system).get_ca_certs()) == 1
    assert len(tls_context(trust_env=False).get_ca_certs()) > 1
    assert tls_context().verify_mode is ssl.CERT_REQUIRED


async def test_a_netrc_is_not_read(client_to: AnyClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    async with playing(silence) as script, client_to(script.url) as client:
        await anext(client.subscribe("a"))
    assert script.header("authorization") == [""]
