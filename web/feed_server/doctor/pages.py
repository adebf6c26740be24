"""Whether pages in browsers can use the feed: those of its own origin, those of another origin, and with a cookie."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http.cookies import CookieError, Morsel, SimpleCookie
from typing import NamedTuple

from feed.media_types import JSON
from feed_server.doctor.finding import Finding, fail, ok, unknown, warn
from feed_server.doctor.target import Answer, Target

_NEEDED = ("last-event-id", "authorization", "content-type", "idempotency-key")
_STRANGER = "https://feed-doctor.invalid"
_COOKIE = "feed_token"
_EMPTY = b"[]"  # a batch that is always refused


class Origins(NamedTuple):
    """The answers to publishing an empty batch as a page of the feed's own origin, and of a foreign one."""

    own: Answer
    stranger: Answer
    asked: str = ""
    """The feed's own origin."""


async def look_origins(target: Target) -> Origins:
    """Send the requests that pages would send."""
    json = {"Content-Type": JSON}
    own, stranger = await asyncio.gather(
        *(
            target.ask("POST", "/events", {**json, "Origin": origin}, content=_EMPTY)
            for origin in (target.own_origin, _STRANGER)
        )
    )
    return Origins(own, stranger, target.own_origin)


def judge_origins(origins: Origins) -> Finding:
    """Judge whether the feed can tell its own pages from others, which it does by Host and Origin."""
    if _is_foreign(origins.own):
        words = "the feed takes its own page for a foreign one: Host does not arrive as browsers send it"
        listed = f"FEED_ORIGINS={origins.asked}"
        cure = f"let the proxy pass Host on (nginx: `proxy_set_header Host $http_host`), or list the address: {listed}"
        return fail("origin", words, cure)
    if _is_foreign(origins.stranger):
        return ok("origin", "the feed's own pages may publish, and foreign pages may not")
    if origins.stranger.is_problem:
        words = f"a foreign page is not refused for its origin: {origins.stranger}"
        return warn(
            "origin", words, "let the proxy pass Origin on: the feed needs it to keep other sites from publishing"
        )
    return unknown("origin", f"the answer is not the feed's: {origins.stranger}")


def _is_foreign(answer: Answer) -> bool:
    return answer.status == 403 and "FEED_ORIGINS" in answer.detail


class Cors(NamedTuple):
    """What a browser is told for a page of `origin`: in the preflight, and in the answer itself."""

    origin: str
    preflight: Answer
    answer: Answer


async def look_cors(target: Target) -> Cors | None:
    """Send the requests that a browser sends for a page of another origin; None without such an origin."""
    if target.origin is None:
        return None
    asked = {
        "Origin": target.origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": ",".join(sorted(_NEEDED)),
    }
    preflight, answer = await asyncio.gather(
        target.ask("OPTIONS", target.path(), asked, named=False),
        target.ask("GET", target.path(limit="1"), {"Accept": JSON, "Origin": target.origin}),
    )
    return Cors(target.origin, preflight, answer)


def judge_cors(cors: Cors | None) -> Finding:
    """Judge whether a browser would let that page read, publish and resume, with cookies and a token."""
    if cors is None:
        return unknown(
            "cors",
            "not checked",
            "--origin https://app.example.org, if pages of another origin use the feed",
        )
    wrong = [*_wrong_origin(cors, cors.answer, "answers")]
    if cors.preflight.status not in range(200, 300):
        wrong.insert(0, f"the preflight is answered {cors.preflight}")
    else:
        wrong += _wrong_origin(cors, cors.preflight, "preflights")
        missing = [name for name in _NEEDED if name not in _listed(cors.preflight, "access-control-allow-headers")]
        if missing:
            wrong.append(f"the preflight does not allow {', '.join(missing)}")
    if not wrong:
        return ok("cors", f"pages of {cors.origin} may read, publish and resume, with cookies")
    return fail("cors", "; ".join(wrong), _cure(cors))


def _cure(cors: Cors) -> str:
    if cors.preflight.status == 403 and cors.preflight.is_problem:
        return f"list it: FEED_ORIGINS={cors.origin}"
    if any(len(answer.all("access-control-allow-origin")) > 1 for answer in (cors.preflight, cors.answer)):
        return "let only one of the proxy and the feed set CORS headers: remove the proxy's own CORS headers"
    return "let the proxy pass OPTIONS, Origin and the Access-Control headers on unchanged, and add none"


def _wrong_origin(cors: Cors, answer: Answer, which: str) -> Sequence[str]:
    allowed = answer.all("access-control-allow-origin")
    if len(allowed) > 1:
        return [f"{which} allow an origin {len(allowed)} times, which browsers refuse"]
    if not allowed:
        return [f"{which} ({answer}) do not allow the origin"]
    if allowed == ["*"]:
        return [f"{which} allow *, which browsers ignore with cookies"]
    if allowed != [cors.origin]:
        return [f"{which} allow another origin: {allowed[0]}"]
    if answer.all("access-control-allow-credentials") != ["true"]:
        return [f"{which} do not allow credentials, and with them cookies"]
    return []


def _listed(answer: Answer, name: str) -> set[str]:
    return {each.strip().lower() for value in answer.all(name) for each in value.split(",")}


class Session(NamedTuple):
    """The `answer` to putting the token into a cookie, over TLS or not (`secure`), and the answer to opening a stream
    with only that cookie."""

    secure: bool
    answer: Answer
    opened: Answer | None = None


async def look_session(target: Target) -> Session | None:
    """Put the token into a cookie, and read with that; None without a token."""
    if target.token is None:
        return None
    secure = target.parsed.scheme == "https"
    answer = await target.ask("POST", "/session")
    cookie = _cookie(answer)
    if cookie is None:
        return Session(secure, answer)
    headers = {"Cookie": f"{_COOKIE}={cookie.value}"}
    async with target.reading(target.path(), headers, named=False) as reading:
        await reading.until(lambda: reading.head, target.moment)
        return Session(secure, answer, reading.head or Answer(0, error="nothing came in time"))


def _cookie(answer: Answer) -> Morsel[str] | None:
    for text in answer.all("set-cookie"):
        try:
            cookies = SimpleCookie(text)
        except CookieError:
            continue
        if _COOKIE in cookies:
            return cookies[_COOKIE]
    return None


def judge_session(session: Session | None) -> Finding:
    """Judge whether an EventSource, which cannot send headers, can send a token."""
    if session is None:
        return unknown(
            "cookie", "not checked, because there is no token to put into a cookie", "--token, or FEED_TOKEN"
        )
    answer, cookie = session.answer, _cookie(session.answer)
    if answer.status == 404:
        return unknown(
            "cookie", "there is no /session here, which is right if the feed is a part of another application"
        )
    if answer.status != 204:
        return fail("cookie", f"/session does not accept the token: {answer}", "feed token --check explains the token")
    if cookie is None:
        words = "the token was accepted, but no cookie came"
        return unknown("cookie", words, "this is right if the feed has no key; else let the proxy pass Set-Cookie on")
    return _judge_cookie(session, cookie)


def _judge_cookie(session: Session, cookie: Morsel[str]) -> Finding:
    if session.secure and not cookie["secure"]:
        words = "the cookie is not Secure: the feed does not know that browsers use TLS"
        cure = "let the proxy set X-Forwarded-Proto, and list the proxy in FEED_PROXIES"
        return warn("cookie", words, cure)
    if not session.secure and cookie["secure"]:
        words = "the cookie is Secure, so a browser never sends it to this URL"
        return fail("cookie", words, "use https://, or let the proxy set X-Forwarded-Proto to what browsers use")
    if cookie["path"] != "/" or not cookie["httponly"] or cookie["samesite"].lower() != "strict":
        words = "the cookie was changed on the way: the feed sets it with Path=/, HttpOnly and SameSite=Strict"
        return warn("cookie", words, "let the proxy leave Set-Cookie unchanged")
    if session.opened is None or session.opened.status != 200:
        words = f"the cookie is set, but does not open a stream: {session.opened}"
        return fail("cookie", words, "let the proxy pass Cookie on")
    return ok("cookie", "the token can be put into a cookie, and a stream opens with it")
