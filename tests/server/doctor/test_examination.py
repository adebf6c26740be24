"""`feed doctor` in front of a feed that is broken in each way: behind nginx with settings that people have. It finds
what is wrong, and how to cure it; and where all is well it has nothing to say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from feed_server.doctor.examination import Report, examine
from feed_server.doctor.finding import Finding, Severity
from feed_server.doctor.target import Target, topic_of_its_own
from feed_server.doctor.websocket import judge_quiet_socket, look_quiet_socket
from tests.support.certificate import certificate
from tests.support.proxies import free_ports, running_nginx
from tests.support.running import RunningServer, running
from tests.support.scripted import accepting, copy
from tests.support.tokens import SECRET, token

ORIGIN = "https://app.example.org"
EVERYTHING = token(["**"], ["**"], admin=True)
IDLE = 2.5
HEARTBEAT = 1.0

_GOOD = """
    proxy_http_version 1.1;
    client_max_body_size 16m;
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
"""
_PASS = "location / { proxy_pass http://feed; }"

BROKEN = {
    "whole": f"{_GOOD} {_PASS}",
    "default": _PASS,
    "buffering": f"proxy_set_header Host $http_host; proxy_ignore_headers X-Accel-Buffering; {_PASS}",
    "held gzip": f"{_GOOD} proxy_ignore_headers X-Accel-Buffering; gzip_types *; gzip_min_length 0; {_PASS}",
    "gzip": f"{_GOOD} gzip_types *; gzip_min_length 0; gzip_proxied any; {_PASS}",
    "impatient": f"{_GOOD} proxy_read_timeout 400ms; {_PASS}",
    "no Last-Event-ID": f"{_GOOD} proxy_set_header Last-Event-ID ''; {_PASS}",
    "no query": f"{_GOOD} proxy_set_header Last-Event-ID ''; location / {{ proxy_pass http://feed$uri; }}",
    "double CORS": f"{_GOOD} add_header Access-Control-Allow-Origin $http_origin always; {_PASS}",
    "no OPTIONS": f"{_GOOD} location / {{ limit_except GET POST DELETE {{ deny all; }} proxy_pass http://feed; }}",
    "own errors": f"{_GOOD} proxy_intercept_errors on; error_page 401 403 404 422 /sorry; {_PASS}",
    "rewritten paths": f"{_GOOD} location / {{ proxy_pass http://feed/; }}",
    "no Authorization": f"{_GOOD} proxy_set_header Authorization ''; {_PASS}",
    "no Set-Cookie": f"{_GOOD} proxy_hide_header Set-Cookie; {_PASS}",
    "no Cookie": f"{_GOOD} proxy_set_header Cookie ''; {_PASS}",
    "no Origin": f"{_GOOD} proxy_set_header Origin ''; {_PASS}",
    "no Cache-Control": f"{_GOOD} proxy_hide_header Cache-Control; {_PASS}",
    "trusting": f"{_GOOD.replace('$remote_addr', '$proxy_add_x_forwarded_for')} {_PASS}",
    "elsewhere": "return 301 https://feed.example.org$request_uri;",
    "nobody behind": "location / { proxy_pass http://127.0.0.1:1; }",
    "another site": "location / { return 200 'hello'; }",
}
TLS = {
    "TLS": f"{_GOOD} {_PASS}",
    "TLS unsaid": f"{_GOOD.replace('$scheme', 'http')} {_PASS}",
}
FINDINGS = [
    ("buffering", "buffering", "fail", "held back", "proxy_buffering off"),
    ("gzip", "compression", "warn", "compressed on the way (gzip)", "gzip_types"),
    ("held gzip", "compression", "fail", "the compressor holds events back", "gzip_types"),
    ("impatient", "idle", "fail", "before the feed's first heartbeat", "proxy_read_timeout"),
    ("impatient", "websocket idle", "fail", "is closed after", "proxy_read_timeout"),
    ("no Last-Event-ID", "resume", "fail", "header Last-Event-ID does not arrive", "Last-Event-ID"),
    ("no Last-Event-ID", "replay", "unknown", "never became live", ""),
    ("default", "websocket", "fail", "upgrade got lost", "proxy_http_version 1.1"),
    ("default", "origin", "fail", "for a foreign one", "proxy_set_header Host"),
    ("default", "bodies", "fail", "413 text/html", "client_max_body_size"),
    ("double CORS", "cors", "fail", "2 times", "proxy's own CORS headers"),
    ("no OPTIONS", "cors", "fail", "preflight is answered 403", "OPTIONS"),
    ("own errors", "refusals", "fail", "comes as", "proxy_intercept_errors"),
    ("rewritten paths", "paths", "warn", "two slashes", "proxy_pass http://feed;"),
    ("no Authorization", "reach", "fail", "did not get the token", "Authorization"),
    ("no Set-Cookie", "cookie", "unknown", "no cookie came", "Set-Cookie"),
    ("no Cookie", "cookie", "fail", "does not open a stream", "Cookie"),
    ("no Origin", "origin", "warn", "is not refused for its origin", "Origin"),
    ("no Cache-Control", "caching", "warn", "instead of no-store", "Cache-Control"),
    ("trusting", "addresses", "warn", "any address", "$remote_addr"),
    ("TLS", "http", "warn", "six connections", "http2"),
    ("TLS unsaid", "cookie", "warn", "not Secure", "X-Forwarded-Proto"),
    ("ends soon", "tls", "warn", "ends in 5 days", "renew"),
    ("without a token", "reach", "unknown", "may not be read", "FEED_TOKEN"),
    ("without a token", "websocket", "unknown", "not allowed", ""),
    ("without a token", "buffering", "unknown", "no stream may be read: 401", "token"),
    ("to publish only", "buffering", "unknown", "no stream may be read: 403", "token"),
    ("to read only", "buffering", "unknown", "events could not be timed", "may publish"),
    ("to read only", "idle", "ok", "with a heartbeat", ""),
    ("to read only", "resume", "ok", "feed.gap", ""),
    ("to read only", "replay", "unknown", "nothing could be published", "may publish"),
    ("to read only", "bodies", "unknown", "were not tried", "may publish"),
    ("to read only", "addresses", "unknown", "not known", "admin"),
    ("refused", "reach", "fail", "does not accept the token", "feed token --check"),
]

GROUP = {
    "buffering": "flow",
    "compression": "flow",
    "caching": "flow",
    "idle": "quiet",
    "replay": "resume",
    "websocket": "socket",
    "websocket idle": "quiet socket",
    "origin": "pages",
    "cors": "pages",
    "cookie": "pages",
    "bodies": "requests",
    "refusals": "requests",
    "paths": "requests",
}
"""Of checks that do not bear the name of theirs."""

WHOLLY = {"whole", "no Last-Event-ID", "no Cookie"}
"""Where everything is looked at."""

SILENT = {"buffering", "held gzip", "no Last-Event-ID"}
"""Where what is waited for never comes."""

UNTRUSTED = {"expired": -1.0, "ends soon": 5.0}


@pytest.fixture(scope="module")
def feed() -> Iterator[RunningServer]:
    """One that believes its proxies."""
    settings = {"jwt_secret": SECRET, "origins": ORIGIN, "proxies": "127.0.0.0/8", "heartbeat": HEARTBEAT}
    with running("--log", "memory:", **settings) as server:
        yield server


def target(url: str, *, token: str | None = EVERYTHING, patience: float = 20.0) -> Target:
    return Target(url, token, topic_of_its_own(), ORIGIN, IDLE, patience=patience)


async def examined(targets: Mapping[str, Target]) -> dict[str, Report]:
    """For each what is to be found there, and for some everything."""

    async def one(name: str, target: Target) -> Report:
        wanted = {GROUP.get(check, check) for way, check, *_ in FINDINGS if way == name}
        async with target:
            return await examine(target, groups=None if name in WHOLLY else wanted)

    return dict(zip(targets, await asyncio.gather(*map(one, targets, targets.values())), strict=True))


@pytest.fixture(scope="module")
def reports(feed: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Report]]:
    """What is found in front of each, all looked at side by side."""
    folder = tmp_path_factory.mktemp("nginx")
    ports = iter(free_ports(len(BROKEN) + len(TLS) + len(UNTRUSTED)))
    urls = {}
    servers = []
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, settings in BROKEN.items():
            urls[name] = f"http://127.0.0.1:{(port := next(ports))}"
            servers.append(f"server {{ listen 127.0.0.1:{port}; {settings} }}")
        trusted = b""
        for name in (*TLS, *UNTRUSTED):
            (place := folder / name.replace(" ", "-")).mkdir()
            made = certificate(place, days=UNTRUSTED.get(name, 30))
            trusted += made.chain.read_bytes()
            urls[name] = f"https://localhost:{(port := next(ports))}"
            keys = f"ssl_certificate {made.chain}; ssl_certificate_key {made.key};"
            servers.append(f"server {{ listen 127.0.0.1:{port} ssl; {keys} {TLS.get(name, TLS['TLS'])} }}")
        (trust := folder / "trusted.pem").write_bytes(trusted)
        patch.setenv("SSL_CERT_FILE", str(trust))
        http = f"""
upstream feed {{ server 127.0.0.1:{feed.port}; }}
map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
{"".join(servers)}
"""
        stack.enter_context(running_nginx(folder, http, f"{urls['default']}/readyz"))
        targets = {name: target(url, patience=4.0 if name in SILENT else 20.0) for name, url in urls.items()}
        targets["without a token"] = target(feed.url, token=None)
        targets["to read only"] = target(feed.url, token=token([], ["**"]))
        targets["to publish only"] = target(feed.url, token=token(["**"], []))
        targets["refused"] = target(feed.url, token=token(["**"], ["**"], seconds=-60))
        with ThreadPoolExecutor(1) as thread:  # this one may have a loop already, a browser's
            found = thread.submit(asyncio.run, examined(targets)).result(100)
        yield found


def found(report: Report, check: str) -> Finding:
    [finding] = [each for each in report.findings if each.check == check]
    return finding


def test_a_whole_feed_has_nothing_to_complain_about(reports: dict[str, Report]) -> None:
    assert {each.check: each.severity for each in reports["whole"].findings if each.severity != Severity.OK} == {}
    assert len(reports["whole"].findings) >= 18


@pytest.mark.parametrize(("way", "check", "severity", "words", "cure"), FINDINGS)
def test_what_is_broken_is_found_with_its_cure(
    reports: dict[str, Report], way: str, check: str, severity: str, words: str, cure: str
) -> None:
    finding = found(reports[way], check)
    assert finding.severity.value == severity, finding
    assert words in finding.words
    assert cure in finding.cure


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("elsewhere", "redirects everyone elsewhere: https://feed.example.org/"),
        ("nobody behind", "no feed behind it: 502"),
        ("another site", "no feed at this URL: 200"),
        ("expired", "certificate has expired"),
    ],
)
def test_where_there_is_no_feed_it_says_so_and_looks_no_further(
    reports: dict[str, Report], way: str, words: str
) -> None:
    assert not reports[way].reached
    assert words in reports[way].findings[-1].words
    assert len(reports[way].findings) <= 2


@pytest.mark.parametrize(("way", "check"), [("no Last-Event-ID", "resume"), ("no Cookie", "cookie")])
def test_what_one_setting_breaks_is_not_told_of_the_rest(reports: dict[str, Report], way: str, check: str) -> None:
    broken = [each for each in reports[way].findings if each.severity in {Severity.WARN, Severity.FAIL}]
    assert [each.check for each in broken] == [check]


@pytest.mark.anyio
async def test_a_proxy_that_limits_a_websockets_time_is_not_said_to_mind_its_quiet(feed: RunningServer) -> None:
    async def limited(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        feed_reader, feed_writer = await asyncio.open_connection("127.0.0.1", feed.port)
        both = [asyncio.create_task(copy(*way)) for way in ((reader, feed_writer), (feed_reader, writer))]
        try:
            await asyncio.wait(both, timeout=2)
        finally:
            for each in both:
                each.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            feed_writer.close()

    async with accepting(limited) as url, target(url) as limiting:
        finding = judge_quiet_socket(await look_quiet_socket(limiting, "quiet"))
    assert finding.severity == Severity.WARN
    assert "quiet or not: something limits its time" in finding.words
