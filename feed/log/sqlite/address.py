"""Which file: `sqlite:PATH`. Not a URL with a host, as others write it: what they mean by it is said instead."""

from __future__ import annotations

from feed.errors import LogRefused


def parse_path(url: str) -> str:
    """The path in `sqlite:PATH`, relative or absolute. Raises `LogRefused` for what could be meant as another one."""
    path = url.partition(":")[2]
    if why := _mistake(path):
        meant = suggestion(path)
        raise LogRefused(f"{url!r}: {why}; did you mean {' or '.join(meant)}?")
    return path


def suggestion(written: str) -> list[str]:
    """What was meant by what was `written` behind `sqlite:`."""
    path = "".join(character for character in written if character.isprintable()).strip()
    path = path.removeprefix("file:").partition("?")[0]
    slashes = len(path) - len(path.lstrip("/"))
    name = path[slashes:]
    if name in ("", ":memory:"):
        return ["memory:"]
    if slashes == 3:  # as SQLAlchemy counts the path is relative, as other URLs do it is not
        return [f"sqlite:{name} (in the working directory)", f"sqlite:/{name}"]
    return [f"sqlite:/{name}" if slashes in (1, 4) else f"sqlite:{name}"]


def _mistake(path: str) -> str | None:
    if path.strip("/") in ("", ":memory:"):
        return "names no file"
    if path.startswith("//") and not path.startswith("////"):  # four of them are an absolute path whoever counts
        return "a path follows sqlite: at once, without a host"
    if path.startswith("file:") or "?" in path:
        return "what follows sqlite: is a path, and has no options"
    if path != path.strip() or not path.isprintable():
        return "the path begins or ends with a space, or has a character that cannot be seen"
    return None
