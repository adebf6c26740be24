"""`feed serve --check`: what a server with these settings would be."""

from __future__ import annotations

from feed.log import is_shared, without_password
from feed.log.classes import never_reached, retain_text
from feed.units import duration_text, size_text
from feed_server.server.listening import check_private
from feed_server.server.server import access
from feed_server.settings import Settings


def check(settings: Settings) -> str:
    """Return what `feed serve` would serve, a few lines. Nothing is opened: no port, no log, no URL of keys.

    Raises `ServeError` for settings that `feed serve` refuses although each is good by itself.
    """
    if not (settings.has_key or settings.insecure):
        check_private(settings.host)
    retained = [
        f"{settings.retain_events:,} events",
        duration_text(settings.retain_age),
        *([] if settings.retain_bytes is None else [size_text(settings.retain_bytes)]),
    ]
    classes = [f"  class       {retain_text({pattern: keep})}" for pattern, keep in settings.retain.items()]
    for pattern, earlier in never_reached(settings.retain):
        classes.append(f"  warning     no topic belongs to {pattern}: {earlier}, in front of it, has them all")
    where = f"[{settings.host}]" if ":" in settings.host else settings.host
    processes = "1 process" if settings.workers == 1 else f"{settings.workers} processes"
    shared = ", shared by all nodes" if is_shared(settings.log) else ""
    lines = [
        "the settings are valid; feed serve would use",
        f"  address     {where}:{settings.port or '(a free port)'}, {processes}",
        f"  log         {without_password(settings.log)}{shared}",
        f"  retention   at most {', '.join(retained)}",
        *classes,
        f"  access      {access(settings)}",
    ]
    if settings.jwks_url is not None:
        lines.append("  keys        fetched from FEED_JWKS_URL (not tried here)")
    return "\n".join(lines)
