"""Whether there is a feed at all: the connection, its certificate, the version of HTTP, the health, and the clock."""

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

_DIRECTLY = "run the doctor where no proxy is needed, or list the host in NO_PROXY"
_SOON = 14  # days; certificates of Let's Encrypt are renewed a month before their end
_CLOCK = 2.0  # seconds; the header Date has whole seconds only
_GIVE_TOKEN = "give a token (--token, or FEED_TOKEN) that may publish and subscribe to the topic"  # noqa: S105


class Way(NamedTuple):
    """How a connection is made. `alpn` is the protocol that TLS agrees on with a client that offers what browsers
    offer; `days` is how long the certificate is still valid."""

    secure: bool
    local: bool
    alpn: str = ""
    days: float = 0.0
    error: str = ""
    untrusted: bool = False
    plain: bool = False
    """Whether the answer to TLS was not TLS."""
    proxied: bool = False
    """Whether a proxy of the environment is used, so that the connection was not checked."""


async def look_way(target: Target) -> Way:
    """Connect as a browser would."""
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
        return way._replace(error=f"the host name has no address ({error.strerror})")
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
    """Return what keeps everyone out, None if nothing does."""
    if way.untrusted:
        words = f"browsers and clients refuse the certificate: {way.error}"
        return fail(
            "tls", words, "renew it, and let the proxy send the whole chain; name a CA of your own in SSL_CERT_FILE"
        )
    if way.plain:
        return fail("reach", "the server there does not speak TLS", "is it http://, or another port?")
    if way.error:
        return fail("reach", f"no connection: {way.error}", "is the name right, the server up, and the port open?")
    return None


def judge_tls(way: Way) -> Finding:
    """Judge the certificate, or that there is none."""
    if not way.secure:
        if way.local:
            return ok("tls", "no TLS, which is fine on this machine")
        return warn("tls", "no TLS: tokens and events can be read on the way", "put a proxy with TLS in front")
    if way.proxied:
        return unknown("tls", "not checked, because a proxy of the environment is used", _DIRECTLY)
    if way.days < _SOON:
        return warn(
            "tls",
            f"the certificate ends in {way.days:.0f} days",
            "renew it, and find out why that was not done automatically",
        )
    return ok("tls", f"the certificate is trusted, and valid for {way.days:.0f} days")


def judge_version(way: Way) -> Finding:
    """Judge the version of HTTP: over HTTP/1.1 browsers have six connections for each host, and a stream takes one."""
    if way.proxied:
        return unknown("http", "not checked, because a proxy of the environment is used", _DIRECTLY)
    if way.alpn == "h2":
        return ok("http", "browsers get HTTP/2: many streams over one connection")
    six = "browsers get HTTP/1.1: six connections for each host, shared by all tabs; feed.js uses one for all tabs"
    if not way.secure:
        return ok("http", six)
    return warn("http", six, "let the proxy offer HTTP/2 (nginx: `listen 443 ssl http2`, HAProxy: `alpn h2,http/1.1`)")


async def look_feed(target: Target) -> Answer:
    """Ask for a page of history, which only a feed answers."""
    return await target.ask("GET", target.path(limit="1"), {"Accept": JSON})


def judge_stranger(answer: Answer) -> Finding | None:
    """Return why the answer is not that of a feed that can be checked, None if it is."""
    if answer.status == 200 and isinstance(answer.json, dict) and "events" in answer.json:
        return None
    if answer.status in {401, 403} and answer.is_problem and "FEED_HOSTS" not in answer.detail:
        return None
    if answer.status == 403 and answer.is_problem:
        return fail("reach", answer.detail, "let the proxy pass Host on unchanged, and list it in FEED_HOSTS")
    if answer.status in REDIRECTS:
        words = f"it redirects everyone elsewhere: {shortened(answer.one('location'))}"
        return fail("reach", words, "give that address (only as far as the feed's own part); publishers need it, too")
    if not answer.status:
        cure = "does the feed, or a proxy in front, hang? see its log"
        return fail("reach", f"it accepts connections, but does not answer: {answer.error}", cure)
    if answer.status in {502, 503, 504} and not answer.is_problem:
        return fail(
            "reach", f"the proxy has no feed behind it: {answer}", "is the feed up, at the address that the proxy uses?"
        )
    if answer.status in {429, 503}:
        return fail("reach", f"it is there, but takes no requests: {answer}", "see its log")
    return fail("reach", f"there is no feed at this URL: {answer}", "give the URL below which /events is")


def judge_right(answer: Answer, *, token: bool) -> Finding:
    """Judge whether the topic may be read."""
    if answer.status == 200:
        return ok("reach", "a feed answers, and the topic may be read")
    if token and answer.status == 401 and "invalid_token" not in answer.one("www-authenticate"):
        words = f"the feed did not get the token that was sent: {answer}"
        return fail("reach", words, "let the proxy pass the header Authorization on")
    if token and answer.status == 401:
        return fail("reach", f"the feed does not accept the token: {answer}", "feed token --check explains it")
    return unknown("reach", f"a feed answers, but the topic may not be read: {answer}", _GIVE_TOKEN)


async def look_health(target: Target) -> tuple[Answer, Answer]:
    """Ask for what a load balancer asks for."""
    healthz, readyz = await asyncio.gather(
        target.ask("GET", "/healthz", named=False), target.ask("GET", "/readyz", named=False)
    )
    return healthz, readyz


def judge_health(healthz: Answer, readyz: Answer) -> Finding:
    """Judge whether the process lives and its log answers."""
    if healthz.status == readyz.status == 200 and isinstance(healthz.json, dict) and isinstance(readyz.json, dict):
        return ok("health", "/healthz and /readyz say that the feed lives and takes events")
    if readyz.status == 503 and readyz.is_problem:
        return fail("health", f"/readyz: {readyz.detail}", "see the server's log")
    words = f"/healthz: {healthz}; /readyz: {readyz}"
    return unknown(
        "health", words, "this is right if they are not public, or the feed is a part of another application"
    )


class Clocks(NamedTuple):
    """The time on both sides, in seconds since 1970: here `before` a publish and `after` its answer; there in the
    answer's header Date, and the time of the `event`."""

    before: float
    after: float
    date: float | None = None
    event: float | None = None


async def look_clock(target: Target, type: str) -> Clocks:
    """Publish an event, and read the time that it has on the other side."""
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
    """Judge the clock: delays are shown and tokens expire by it."""
    theirs = clocks.date if clocks.event is None else clocks.event
    if theirs is None:
        return unknown("clock", "no answer says what time it is there")
    resolution = 1.0 if clocks.event is None else 0.0
    whose = "the answers' Date, perhaps the proxy's," if clocks.event is None else "the feed's clock"
    off = 0.0
    if theirs + resolution < clocks.before:
        off = theirs + resolution - clocks.before
    elif theirs > clocks.after:
        off = theirs - clocks.after
    if abs(off) <= _CLOCK:
        return ok("clock", f"{whose} agrees with the clock here")
    words = f"{whose} is {abs(off):,.0f} s {'behind' if off < 0 else 'ahead of'} the clock here"
    return warn("clock", words, "synchronize both clocks by NTP: tokens expire, and delays are shown, by the clock")
