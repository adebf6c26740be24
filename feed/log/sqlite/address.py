"""The file that `sqlite:PATH` names. A URL with a host, as other programs write it, is refused with a suggestion."""

from __future__ import annotations

from feed.errors import LogRefused


def parse_path(url: str) -> str:
    """Return the path in `sqlite:PATH`, relative or absolute. Raises `LogRefused` where another path may be meant."""
    path = url.partition(":")[2]
    if why := _mistake(path):
        meant = suggestion(path)
        raise LogRefused(f"{url!r}: {why}; did you mean {' or '.join(meant)}?")
    return path


def suggestion(written: str) -> list[str]:
    """Return what may be meant by the text `written` after `sqlite:`."""
    path = "".join(character for character in written if character.isprintable()).strip()
    path = path.removeprefix("file:").partition("?")[0]
    slashes = len(path) - len(path.lstrip("/"))
    name = path[slashes:]
    if name in ("", ":memory:"):
        return ["memory:"]
    if slashes == 3:  # a relative path to SQLAlchemy, an absolute one to other programs
        return [f"sqlite:{name} (in the working directory)", f"sqlite:/{name}"]
    return [f"sqlite:/{name}" if slashes in (1, 4) else f"sqlite:{name}"]


def _mistake(path: str) -> str | None:
    if path.strip("/") in ("", ":memory:"):
        return "does not name a file"
    if path.startswith("//") and not path.startswith("////"):  # four slashes are an absolute path by every rule
        return "the path follows sqlite: directly, without a host"
    if path.startswith("file:") or "?" in path:
        return "a path follows sqlite:, without options"
    if path != path.strip() or not path.isprintable():
        return "the path begins or ends with a space, or has a character that is not visible"
    return None
