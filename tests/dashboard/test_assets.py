"""The files beside the pages: how they are served, and how much of them a browser has to load."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from urllib.parse import urljoin

import pytest

from tests.conftest import Serve
from tests.support.paths import DASHBOARD
from tests.support.running import RunningServer

MOST_OF_OTHERS = 30_000  # bytes, compressed: of libraries
MOST = 121_000  # of all, with the comments and types in our own modules, which are sent as they are written

_LOADED = re.compile(r"""<(?:script|link)\b[^>]*\b(?:src|href)="([^"]+)\"""")
_IMPORTED = re.compile(
    r"""^\s*(?:import|export)\b[^;"']*\bfrom\s*["']([^"']+)["']"""
    r"""|^\s*import\s*["']([^"']+)["']"""
    r"""|\bimport\(\s*["']([^"']+)["']"""
    r"""|\bnew URL\(\s*["']([^"']+\.js)["']"""
    r"""|@import\s+(?:url\()?["']([^"']+)["']""",
    re.MULTILINE,
)

TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".ts": "text/plain; charset=utf-8",
}


def files() -> list[str]:
    """All that is served, by their place under `/assets`."""
    found = sorted(str(path.relative_to(DASHBOARD)) for path in DASHBOARD.rglob("*") if path.is_file())
    return [name for name in found if Path(name).suffix in TYPES]


def loaded_by(page: str) -> dict[str, int]:
    """What a page makes a browser load, itself too, and how many bytes that is when it is compressed. It follows what
    files name as they are written: links, scripts, imports, and the addresses of workers."""
    sizes: dict[str, int] = {}
    waiting = [page]
    while waiting:
        name = waiting.pop()
        if name in sizes:
            continue
        content = (DASHBOARD / name).read_bytes()
        sizes[name] = len(gzip.compress(content, 9))
        text = content.decode()
        if name == page:
            waiting += [found.removeprefix("assets/") for found in _LOADED.findall(text)]
        elif Path(name).suffix in {".js", ".css"}:
            waiting += [urljoin(name, next(filter(None, found))) for found in _IMPORTED.findall(text)]
    return sizes


def test_all_that_a_page_loads_is_counted() -> None:
    counted = set(loaded_by("index.html"))
    own = {name for name in files() if "vendor" not in name and not name.endswith(".d.ts")} | {"index.html"}
    assert own - counted == {"docs.css", "docs.js"}, "a module that nobody loads, or one that was overlooked"
    assert {"vendor/lit-html/lit-html.js", "vendor/uplot/uPlot.iife.min.js", "vendor/uplot/uPlot.min.css"} < counted


def test_the_page_is_small() -> None:
    sizes = loaded_by("index.html")
    table = "\n".join(f"{size:7,} {name}" for name, size in sorted(sizes.items(), key=lambda item: -item[1]))
    assert sum(size for name, size in sizes.items() if "vendor" in name) < MOST_OF_OTHERS, table
    assert sum(sizes.values()) < MOST, table


@pytest.mark.parametrize("name", files())
def test_each_file_is_served_as_what_it_is_and_asked_for_again(server: RunningServer, name: str) -> None:
    url = f"{server.url}/assets/{name}"
    answer = server.http.get(url)
    assert answer.content == (DASHBOARD / name).read_bytes()
    assert answer.headers["content-type"] == TYPES[Path(name).suffix]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    head = server.http.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(answer.content))
    again = server.http.get(url, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_file_that_has_changed_is_sent_again(server: RunningServer) -> None:
    answer = server.http.get(f"{server.url}/assets/app.js", headers={"If-None-Match": '"another"'})
    assert (answer.status_code, answer.content) == (200, (DASHBOARD / "app.js").read_bytes())


def test_scripts_have_a_policy_of_their_own_which_a_shared_worker_obeys(server: RunningServer) -> None:
    policy = server.http.get(f"{server.url}/assets/feed/worker.js").headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self';" in policy
    assert "connect-src 'self';" in policy


def test_the_media_types_do_not_depend_on_the_machine(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python reads the machine's own list of types at its start, and some have one by which scripts are plain text.
    (tmp_path / "sitecustomize.py").write_text(
        "import mimetypes\n"
        "mimetypes.init()\n"
        "for kind in ('.js', '.css', '.svg', '.html'): mimetypes.add_type('text/plain', kind)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = serve("--log", "memory:")
    for path, kind in {
        "/assets/app.js": TYPES[".js"],
        "/assets/feed/worker.js": TYPES[".js"],
        "/assets/style.css": TYPES[".css"],
        "/assets/icon.svg": TYPES[".svg"],
        "/": "text/html; charset=utf-8",
        "/docs": "text/html; charset=utf-8",
    }.items():
        assert server.http.get(f"{server.url}{path}").headers["content-type"] == kind, path


@pytest.mark.parametrize("folder", ["app", "feed", "vendor/lit-html"])
@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/../../app.py",
        "/..%2f..%2fapp.py",
        "/%2e%2e/%2e%2e/app.py",
        "/..%5c..%5capp.py",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/x%00y",
        "/../../../pyproject.toml",
    ],
)
def test_nothing_is_served_that_is_not_beside_the_pages(server: RunningServer, folder: str, path: str) -> None:
    answer = server.http.get(f"{server.url}/assets/{folder}{path}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
