"""`feed token`: make a token, or explain one."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from feed import Invalid, Unauthenticated
from feed.event import check_pattern
from feed.fastapi.auth.grants import Grants
from feed.units import parse_duration
from feed_server.cli.terminal import WrongUse, escaped, say
from feed_server.setting_errors import problems
from feed_server.settings import Settings, variable

if TYPE_CHECKING:
    from feed_server.auth.keys import PrivateKey
    from feed_server.auth.tokens import Tokens, UnverifiedClaims

_NO_KEY = (
    "there is no key to sign with: set FEED_JWT_SECRET to the server's secret, or give --private-key FILE; "
    "make a new secret with: openssl rand -hex 32"
)
_HALVES = {"publisher_jwt_secret": "publishing", "subscriber_jwt_secret": "subscribing"}
_LONGEST = 100 * 365 * 86400  # seconds
_MOST_INPUT = 1 << 20  # bytes: a token of that length is refused as too long
_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60))


def token(
    publish: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="May publish to matching topics. May be repeated, or hold several: 'a/*, b'."
        ),
    ] = None,
    subscribe: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="May subscribe to this pattern, and to any within it. May be repeated too."
        ),
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="May list and end subscriptions, and read /metrics.")] = False,
    subject: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The user or service (`sub`): idempotency keys and rates count for each name."
        ),
    ] = None,
    expires: Annotated[str, typer.Option(metavar="TIME", help="How long the token is valid: 90s, 15m, 1h, 7d.")] = "1h",
    private_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Sign with this private key (PEM: RSA, EC P-256, Ed25519) instead of a secret."
        ),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN|-", help="Explain this token, or the one on standard input. Exit code 0 if it is valid."
        ),
    ] = None,
) -> None:
    """Make a token, or explain one.

    A token says what its bearer may do. It is signed with FEED_JWT_SECRET and names FEED_JWT_AUDIENCE and
    FEED_JWT_ISSUER where they are set: a server with the same environment accepts it. Nothing but the token is printed.
    A token cannot be revoked before it expires: make it short-lived.

    Example: TOKEN=$(feed token --publish 'orders/**' --expires 1h)
    """
    try:
        settings = Settings()
    except ValidationError as error:
        raise WrongUse("; ".join(problems(error))) from None
    if check is None:
        grants = Grants(
            publish=_patterns("--publish", publish),
            subscribe=_patterns("--subscribe", subscribe),
            admin=admin,
            subject=_subject(subject),
            expires=time.time() + _seconds(expires),
        )
        print(_make(settings, grants, private_key))
    elif publish or subscribe or admin or subject is not None or private_key is not None:
        raise WrongUse("--check explains an existing token: give it without options for a new one")
    elif not asyncio.run(_explain(settings, _given(check))):
        raise typer.Exit(1)


def _given(token: str) -> str:
    if token == "-":  # noqa: S105  it stands for standard input
        if sys.stdin is None:
            raise WrongUse("standard input is closed")
        token = sys.stdin.buffer.read(_MOST_INPUT).decode("ascii", "replace")
    return token.strip()


# Making one.


def _patterns(option: str, values: Iterable[str] | None) -> tuple[str, ...]:
    from feed_server.auth.tokens import MAX_PATTERNS

    patterns = [pattern for value in values or () for pattern in value.replace(",", " ").split()]
    try:
        checked = tuple(dict.fromkeys(map(check_pattern, patterns)))
    except Invalid as error:
        raise WrongUse(f"{option}: {error}") from None
    if len(checked) > MAX_PATTERNS:
        raise WrongUse(f"{option}: a token may have at most {MAX_PATTERNS} patterns")
    return checked


def _seconds(text: str) -> float:
    try:
        seconds: float = parse_duration(text)
    except ValueError as error:
        raise WrongUse(f"--expires: {error}") from None
    if not 1 <= seconds <= _LONGEST:
        raise WrongUse("--expires: must be at least 1 second and at most 100 years")
    return seconds


def _subject(text: str | None) -> str | None:
    from feed_server.auth.tokens import MAX_SUBJECT

    if text is not None and not 1 <= len(text) <= MAX_SUBJECT:
        raise WrongUse(f"--subject: must be 1 to {MAX_SUBJECT} characters long")
    return text


def _make(settings: Settings, grants: Grants, private_key: Path | None) -> str:
    from feed_server.auth.tokens import MAX_TOKEN, issue
    from feed_server.verifier import verifier_of

    if not (grants.publish or grants.subscribe or grants.admin):
        raise WrongUse(
            "the token would allow nothing: give --publish, --subscribe or --admin, or --check TOKEN to explain one"
        )
    key, algorithm = _secret(settings, grants) if private_key is None else _private_key(private_key)
    made = issue(grants, key, algorithm, audience=settings.jwt_audience, issuer=settings.jwt_issuer)
    if len(made) > MAX_TOKEN:
        raise WrongUse(f"the token would be longer than {MAX_TOKEN:,} characters, the limit: give fewer patterns")
    if (tokens := verifier_of(settings)) is not None and settings.jwks_url is None:
        asyncio.run(_compare(tokens, made, grants))
    return made


def _secret(settings: Settings, grants: Grants) -> tuple[str, str]:
    """Return the secret that can sign these grants: the one for everything, else one for only publishing or only
    subscribing."""
    secret = settings.jwt_secret
    if secret is None and not grants.admin:
        if not grants.subscribe:
            secret = settings.publisher_jwt_secret
        elif not grants.publish:
            secret = settings.subscriber_jwt_secret
    if secret is None:
        raise WrongUse(_why_no_secret(settings, grants))
    return secret.get_secret_value(), "HS256"


def _why_no_secret(settings: Settings, grants: Grants) -> str:
    halves = [f"{variable(name)} can only grant {what}" for name, what in _HALVES.items() if name in settings.keys]
    if halves:
        two = "make two tokens, or " if len(halves) == 2 and not grants.admin else ""
        return f"{' and '.join(halves)}: {two}set FEED_JWT_SECRET"
    if settings.keys:
        verify = "verifies tokens and cannot sign them" if len(settings.keys) == 1 else "verify tokens and cannot sign"
        return f"{', '.join(map(variable, settings.keys))} {verify}: give --private-key FILE"
    return _NO_KEY


def _private_key(file: Path) -> tuple[PrivateKey, str]:
    from feed_server.auth.keys import load_private_key, read_pem, signing_algorithm

    try:
        key = load_private_key(read_pem(file))
    except ValueError as error:
        raise WrongUse(f"--private-key {file}: {error}") from None
    return key, signing_algorithm(key)


async def _compare(tokens: Tokens, made: str, wanted: Grants) -> None:
    """Warn if a server with these settings would not accept the new token. It may be for another server."""
    try:
        got = await tokens.grants(made)
    except Unauthenticated as error:
        say(f"feed token: warning: with the keys in this environment {error}")
        return
    if (got.publish, got.subscribe, got.admin) != (wanted.publish, wanted.subscribe, wanted.admin):
        say("feed token: warning: with the keys in this environment the token does not allow all of that")


# Explaining one.


async def _explain(settings: Settings, text: str) -> bool:
    """Print what a token says. Return whether it is valid."""
    from feed_server.auth.tokens import read_unverified
    from feed_server.verifier import verifier_of

    tokens = verifier_of(settings)
    try:
        claims = read_unverified(text)
    except Unauthenticated as error:
        print(error)
        return False
    if tokens is None:
        print("nothing was verified: there is no key in this environment (FEED_JWT_SECRET and others)")
        print("anyone can have written these claims:")
        _show(claims, _claimed(claims))
        return False
    try:
        grants = await tokens.grants(text)
        half = await _half(settings, text)
    except Unauthenticated as error:
        print(error)
        print("its claims, not verified:")
        _show(claims, _claimed(claims))
        return False
    finally:
        await tokens.aclose()
    print("the token is valid")
    _show(claims, grants)
    if half:
        print(f"its key grants {half} only")
    for line in claims.unclear:
        print(escaped(line))
    return True


async def _half(settings: Settings, text: str) -> str | None:
    """Return what the key of a valid token is limited to, None for a key that may grant everything."""
    from feed_server.auth.keys import KeyUse
    from feed_server.auth.tokens import Tokens
    from feed_server.verifier import keys_of

    for use, what in ((KeyUse.PUBLISH, "publishing"), (KeyUse.SUBSCRIBE, "subscribing")):
        keys = [key for key in keys_of(settings) if key.use is use]
        with contextlib.suppress(Unauthenticated):
            await Tokens(keys, audience=settings.jwt_audience, issuer=settings.jwt_issuer).grants(text)
            return what
    return None


def _claimed(claims: UnverifiedClaims) -> Grants | None:
    try:
        return claims.grants
    except Unauthenticated:
        return None


def _show(claims: UnverifiedClaims, grants: Grants | None) -> None:
    for name, text in _facts(claims, grants):
        print(escaped(f"  {name:<10} {text}"))


def _facts(claims: UnverifiedClaims, grants: Grants | None) -> Iterator[tuple[str, str]]:
    if grants is not None:
        yield "subject", grants.subject or "none (no `sub`)"
        yield "publish", _listed(grants.publish)
        yield "subscribe", _listed(grants.subscribe)
        yield "admin", "yes" if grants.admin else "no"
        yield "until", _moment(grants.expires)
    yield "signed", claims.algorithm + (f", with the key {claims.kid}" if claims.kid else "")
    yield "claims", claims.text


def _listed(patterns: Iterable[str]) -> str:
    return ", ".join(patterns) or "nothing"


def _moment(seconds: float) -> str:
    away = seconds - time.time()
    when = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{when} ({f'in {_length(away)}' if away > 0 else f'{_length(-away)} ago'})"


def _length(seconds: float) -> str:
    """Return a duration in the largest unit of which there are at least two."""
    seconds = round(seconds)
    for unit, length in _UNITS:
        if seconds >= 2 * length:
            return f"{round(seconds / length)} {unit}s"
    return f"{seconds} second{'' if seconds == 1 else 's'}"
