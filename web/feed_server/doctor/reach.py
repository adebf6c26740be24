"""Whether there is a feed at all: the way there, its certificate, the version of HTTP, its health, and its clock."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from feed.client.environment import tls_context
from feed.media_types import JSON
from feed_server.doctor.finding import Finding, fail, ok, unknown, warn
from feed_server.doctor.target import REDIRECTS, Answer, Target, shortened

_DIRECTLY = "look from where no proxy is needed, or list the host in NO_PROXY"
_SOON = 14  # days; Let's Encrypt's are renewed a month before
_CLOCK = 2.0  # seconds; the header Date knows whole ones only
_GIVE_TOKEN = "give a token (--token, or FEED_TOKEN) that may publish to the topic and read it"  # noqa: S105


class Way(NamedTuple):
    """How a connection to it comes about. `alpn` is the protocol that TLS settled on for a client that offers what
    browsers offer; `days` is how long the certificate is valid still."""

    secure: bool
    local: bool
    alpn: str = ""
    days: float = 0.0
    error: str = ""
    untrusted: bool = False
    plain: bool = False
    """Whether what answered TLS was none."""
    proxied: bool = False
    """Whether it leads through a proxy of the environment, and so was not looked at."""


async def look_way(target: Target) -> Way:
    """Connect, as a browser would."""
    secure = target.parsed.scheme == "https"
    context = None
    if secure:
        context = tls_context(system=True)
        context.set_alpn_protocols(["h2", "http/1.1"])
    way = Way(secure, target.is_local, proxied=target.proxy is not None)
    if way.proxied:
        return way
    port = target.parsed.port or (443 if secure else 80)
    try:
        async with asyncio.timeout(target.patience):
            _, writer = await asyncio.open_connection(target.parsed.host, port, ssl=context)
    except ssl.SSLCertVerificationError as error:
        return way._replace(error=error.verify_message, untrusted=True)
    except ssl.SSLError as error:
        return way._replace(error=shortened(str(error)), plain=error.reason == "WRONG_VERSION_NUMBER")
    except socket.gaierror as error:
        return way._replace(error=f"its name has no address ({error.strerror})")
    except (OSError, TimeoutError) as error:
        return way._replace(error=shortened(str(error)) or "nothing came in time")
    try:
        tls = writer.get_extra_info("ssl_object")
        if tls is not None:
            until = ssl.cert_time_to_seconds(str(tls.getpeercert()["notAfter"]))
            way = way._replace(alpn=tls.selected_alpn_protocol() or "http/1.1", days=(until - time.time()) / 86400)
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await writer.wait_closed()
    return way


def judge_unreachable(way: Way) -> Finding | None:
    """What keeps everybody out, if anything does."""
    if way.untrusted:
        words = f"browsers and clients refuse its certificate: {way.error}"
        return fail("tls", words, "renew it, and let the proxy send the whole chain; SSL_CERT_FILE names a CA of yours")
    if way.plain:
        return fail("reach", "what answers there speaks no TLS", "is it http://, or another port?")
    if way.error:
        return fail("reach", f"no connection: {way.error}", "is the name right, the server up, and the port open?")
    return None


def judge_tls(way: Way) -> Finding:
    """The certificate, or that there is none."""
    if not way.secure:
        if way.local:
            return ok("tls", "none, which is fine on this machine")
        return warn("tls", "none: tokens and events can be read on the way", "put a proxy with TLS in front")
    if way.proxied:
        return unknown("tls", "not looked at, as the way leads through a proxy of the environment", _DIRECTLY)
    if way.days < _SOON:
        return warn("tls", f"the certificate ends in {way.days:.0f} days", "renew it, and see why nothing did so")
    return ok("tls", f"the certificate is trusted, and valid for {way.days:.0f} days")


def judge_version(way: Way) -> Finding:
    """HTTP/1.1 or HTTP/2: over the former browsers have six connections for each host, and a stream takes one."""
    if way.proxied:
        return unknown("http", "not looked at, as the way leads through a proxy of the environment", _DIRECTLY)
    if way.alpn == "h2":
        return ok("http", "browsers get HTTP/2: as many streams as they like over one connection")
    six = "browsers get HTTP/1.1, and with it six connections for each host, of all tabs together; feed.js shares one"
    if not way.secure:
        return ok("http", six)
    return warn("http", six, "let the proxy offer HTTP/2 (nginx: `listen 443 ssl http2`, HAProxy: `alpn h2,http/1.1`)")


async def look_feed(target: Target) -> Answer:
    """A page of history: what only a feed answers."""
    return await target.ask("GET", target.path(limit="1"), {"Accept": JSON})


def judge_stranger(answer: Answer) -> Finding | None:
    """Why what is there is no feed that could be looked at, if so."""
    if answer.status == 200 and isinstance(answer.json, dict) and "events" in answer.json:
        return None
    if answer.status in {401, 403} and answer.is_problem and "FEED_HOSTS" not in answer.detail:
        return None
    if answer.status == 403 and answer.is_problem:
        return fail("reach", answer.detail, "let the proxy pass Host on as it came, and list it in FEED_HOSTS")
    if answer.status in REDIRECTS:
        words = f"it sends everybody elsewhere: {shortened(answer.one('location'))}"
        return fail("reach", words, "give that address (without what follows the feed's own); publishers need it, too")
    if not answer.status:
        cure = "is it stuck, or what stands in front of it? look at its log"
        return fail("reach", f"it takes connections, but does not answer: {answer.error}", cure)
    if answer.status in {502, 503, 504} and not answer.is_problem:
        return fail("reach", f"the proxy has no feed behind it: {answer}", "is the feed up, and where the proxy looks?")
    if answer.status in {429, 503}:
        return fail("reach", f"it is there, but takes no requests: {answer}", "look at its log")
    return fail("reach", f"there is no feed at this URL: {answer}", "the URL is the one below which /events is")


def judge_right(answer: Answer, *, token: bool) -> Finding:
    """Whether we may read the topic."""
    if answer.status == 200:
        return ok("reach", "there is a feed, and the topic may be read")
    if token and answer.status == 401 and "invalid_token" not in answer.one("www-authenticate"):
        words = f"the feed did not get the token that was sent: {answer}"
        return fail("reach", words, "let the proxy pass the header Authorization on")
    if token and answer.status == 401:
        return fail("reach", f"the feed does not take the token: {answer}", "feed token --check explains it")
    return unknown("reach", f"there is a feed, but the topic may not be read: {answer}", _GIVE_TOKEN)


async def look_health(target: Target) -> tuple[Answer, Answer]:
    """What a load balancer asks for."""
    healthz, readyz = await asyncio.gather(
        target.ask("GET", "/healthz", named=False), target.ask("GET", "/readyz", named=False)
    )
    return healthz, readyz


def judge_health(healthz: Answer, readyz: Answer) -> Finding:
    """Whether the process lives and its log answers."""
    if healthz.status == readyz.status == 200 and isinstance(healthz.json, dict) and isinstance(readyz.json, dict):
        return ok("health", "/healthz and /readyz say that it lives and takes events")
    if readyz.status == 503 and readyz.is_problem:
        return fail("health", f"/readyz: {readyz.detail}", "look at the server's log")
    words = f"/healthz: {healthz}; /readyz: {readyz}"
    return unknown("health", words, "right if they are kept inside, or the feed is a part of another application")


class Clocks(NamedTuple):
    """What it was on either side, in seconds since 1970: here `before` a request and `after` its answer, and in the
    answer's header Date; and the same around an event and its time."""

    before: float
    after: float
    date: float | None = None
    event: float | None = None


async def look_clock(target: Target, type: str) -> Clocks:
    """Publish, and see when that was on the other side."""
    before = time.time()
    published = await target.publish(type)
    after = time.time()
    found = Clocks(before, after, _date(published.one("date")))
    if not published.published:
        return found
    page = await target.ask("GET", target.path(type=type, last="1"), {"Accept": JSON})
    with contextlib.suppress(TypeError, KeyError, IndexError, ValueError, OverflowError):
        return found._replace(event=datetime.fromisoformat(page.json["events"][0]["time"]).timestamp())
    return found


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def judge_clock(clocks: Clocks) -> Finding:
    """Delays are shown by it, and tokens end by it."""
    theirs = clocks.date if clocks.event is None else clocks.event
    if theirs is None:
        return unknown("clock", "nothing says what time it is there")
    resolution = 1.0 if clocks.event is None else 0.0
    whose = "the answers' Date, perhaps the proxy's," if clocks.event is None else "the feed's clock"
    off = 0.0
    if theirs + resolution < clocks.before:
        off = theirs + resolution - clocks.before
    elif theirs > clocks.after:
        off = theirs - clocks.after
    if abs(off) <= _CLOCK:
        return ok("clock", f"{whose} agrees with the one here")
    words = f"{whose} is {abs(off):,.0f} s {'behind' if off < 0 else 'ahead of'} the one here"
    return warn("clock", words, "let both machines keep time by NTP: tokens end, and delays are shown, by the clock")
