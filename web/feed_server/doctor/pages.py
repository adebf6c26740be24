"""Whether pages in browsers may do what they have to: those of the feed's own origin, those of another, and with a
cookie."""

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
_EMPTY = b"[]"  # a batch that is refused, whoever sends it


class Origins(NamedTuple):
    """The answers to publishing nothing as a page of the feed's own origin, and as one of a stranger's."""

    own: Answer
    stranger: Answer
    asked: str = ""
    """The own one."""


async def look_origins(target: Target) -> Origins:
    """Ask as a page would."""
    json = {"Content-Type": JSON}
    own, stranger = await asyncio.gather(
        *(
            target.ask("POST", "/events", {**json, "Origin": origin}, content=_EMPTY)
            for origin in (target.own_origin, _STRANGER)
        )
    )
    return Origins(own, stranger, target.own_origin)


def judge_origins(origins: Origins) -> Finding:
    """Whether the feed knows its own pages from others, which it does by Host and Origin."""
    if _is_foreign(origins.own):
        words = "a page of this very address is taken for a stranger's: Host is not what browsers sent"
        listed = f"FEED_ORIGINS={origins.asked}"
        cure = f"let the proxy pass it on (nginx: `proxy_set_header Host $http_host`), or list the address: {listed}"
        return fail("origin", words, cure)
    if _is_foreign(origins.stranger):
        return ok("origin", "the feed's own pages may use it, and a stranger's may not publish")
    if origins.stranger.is_problem:
        words = f"a stranger's page is not told that it is one: {origins.stranger}"
        return warn("origin", words, "let the proxy pass Origin on: it is what keeps other sites from publishing")
    return unknown("origin", f"the answer is not the feed's: {origins.stranger}")


def _is_foreign(answer: Answer) -> bool:
    return answer.status == 403 and "FEED_ORIGINS" in answer.detail


class Cors(NamedTuple):
    """What a browser was told for a page of `origin`: before it asks, and with what it asked for."""

    origin: str
    preflight: Answer
    answer: Answer


async def look_cors(target: Target) -> Cors | None:
    """Ask as a browser does for a page of another origin; None if there is none to ask for."""
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
    """Whether the browser would let that page read, publish and resume, with cookies and a token."""
    if cors is None:
        return unknown(
            "cors",
            "not looked at",
            "--origin https://app.example.org, where pages of another origin are to use the feed",
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
        return "either the proxy or the feed: take the proxy's own CORS headers away"
    return "let the proxy pass OPTIONS, Origin and the Access-Control headers on as they are, and add none"


def _wrong_origin(cors: Cors, answer: Answer, which: str) -> Sequence[str]:
    allowed = answer.all("access-control-allow-origin")
    if len(allowed) > 1:
        return [f"{which} allow an origin {len(allowed)} times, and browsers then none"]
    if not allowed:
        return [f"{which} ({answer}) do not allow the origin"]
    if allowed == ["*"]:
        return [f"{which} allow *, which does not count with cookies"]
    if allowed != [cors.origin]:
        return [f"{which} allow another origin: {allowed[0]}"]
    if answer.all("access-control-allow-credentials") != ["true"]:
        return [f"{which} do not allow credentials, and so no cookies"]
    return []


def _listed(answer: Answer, name: str) -> set[str]:
    return {each.strip().lower() for value in answer.all(name) for each in value.split(",")}


class Session(NamedTuple):
    """What came of putting the token into a cookie: the `answer`, over TLS or not (`secure`), and what opening a
    stream with nothing but that cookie was answered."""

    secure: bool
    answer: Answer
    opened: Answer | None = None


async def look_session(target: Target) -> Session | None:
    """Begin one, and read with it; None where there is no token to begin with."""
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
    """Whether an EventSource, which cannot send headers, can bear a token."""
    if session is None:
        return unknown("cookie", "not looked at, as there is no token to put into one", "--token, or FEED_TOKEN")
    answer, cookie = session.answer, _cookie(session.answer)
    if answer.status == 404:
        return unknown("cookie", "there is no /session here: right if the feed is a part of another application")
    if answer.status != 204:
        return fail("cookie", f"/session does not take the token: {answer}", "feed token --check explains the token")
    if cookie is None:
        words = "the token was taken, but no cookie came"
        return unknown("cookie", words, "right if the feed has no key; else let the proxy pass Set-Cookie on")
    return _judge_cookie(session, cookie)


def _judge_cookie(session: Session, cookie: Morsel[str]) -> Finding:
    if session.secure and not cookie["secure"]:
        words = "the cookie is not Secure: the feed does not know that browsers come over TLS"
        cure = "let the proxy set X-Forwarded-Proto, and list the proxy in FEED_PROXIES"
        return warn("cookie", words, cure)
    if not session.secure and cookie["secure"]:
        words = "the cookie is Secure, so a browser never sends it to this URL"
        return fail("cookie", words, "use https://, or let the proxy set X-Forwarded-Proto to what browsers use")
    if cookie["path"] != "/" or not cookie["httponly"] or cookie["samesite"].lower() != "strict":
        words = "the cookie was changed on the way: the feed sets it with Path=/, HttpOnly and SameSite=Strict"
        return warn("cookie", words, "let the proxy leave Set-Cookie as it is")
    if session.opened is None or session.opened.status != 200:
        words = f"the cookie is set, but does not open a stream: {session.opened}"
        return fail("cookie", words, "let the proxy pass Cookie on")
    return ok("cookie", "the token goes into a cookie, and a stream opens with it")
