"""What is shipped: sdist and wheel, in environments that have nothing else, away from the sources; and the files for
containers and systemd, as far as they can be tried without either."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from configparser import ConfigParser
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from uv import find_uv_bin

from feed.units import parse_size
from feed_server.settings import Settings, variable
from tests.support.paths import ROOT
from tests.support.redis_server import running_redis
from tests.support.running import RunningServer
from tests.support.streams import eventually, subscribed

VERSIONS = ("3.11", "3.12", "3.13")
SECONDS = 120.0

pytestmark = pytest.mark.timeout(300)


def _pythons() -> dict[str, str]:
    """The interpreters of this machine by version: the one that runs the tests, and what stands in the usual places."""
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in VERSIONS:
        on_path = shutil.which(f"python{version}")
        candidates = [*([on_path] if on_path else []), *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))]
        for candidate in candidates:
            if version not in found and _says(candidate, version):
                found[version] = candidate
    return found


def _says(program: str, version: str) -> bool:
    """Whether it runs, and is of this version: on the path there may be shims that are neither."""
    command = [program, "-c", "import sys, ssl; print('%d.%d' % sys.version_info[:2])"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.returncode == 0 and result.stdout.strip() == version


PYTHONS = _pythons()


def uv(*arguments: object, folder: Path) -> str:
    """Run uv in a folder. It must not see the environment that the tests run in."""
    result = subprocess.run(
        [find_uv_bin(), *map(str, arguments)],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and with the wheel that was made of it."""
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--quiet", "--out-dir", folder, ROOT, folder=folder)
    return folder


@pytest.fixture(scope="module")
def install(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes an environment with this Python and this package, and gives the folder of its commands."""

    def make(python: str, package: str, extra: str = "[server]") -> Path:
        [file] = dist.glob(package)
        folder = tmp_path_factory.mktemp("environment")
        uv("venv", "--quiet", "--python", PYTHONS[python], folder / "venv", folder=folder)
        locked = ("--constraint", ROOT / "requirements/server.txt")
        uv(
            "pip",
            "install",
            "--quiet",
            "--python",
            folder / "venv/bin/python",
            *locked,
            f"{file}{extra}",
            folder=folder,
        )
        return folder / "venv/bin"

    return make


@pytest.fixture
def serve_with(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """Starts the server of an environment, in a folder that has nothing of the sources."""
    with ExitStack() as stack:

        def start(commands: Path, *args: str, **settings: object) -> RunningServer:
            server = RunningServer(*args, program=commands / "feed", folder=tmp_path, **settings)
            stack.callback(server.close)
            return server.start()

        yield start


def test_the_wheel_holds_the_packages_and_all_their_files_and_nothing_else(dist: Path) -> None:
    [wheel] = dist.glob("*.whl")
    sources = {path for package in ("feed", "web") for path in (ROOT / package).rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == {
        str(path.relative_to(ROOT)).removeprefix("web/") for path in sources if path.parent.name != "__pycache__"
    }
    assert {"feed/py.typed", "feed_server/py.typed", "feed_dashboard/index.html"} <= names


def test_the_sdist_holds_what_is_needed_to_build_and_test_it(dist: Path) -> None:
    [sdist] = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "Makefile", "README.md", "LICENSE", "tests/conftest.py", "Dockerfile"} <= names
    assert not [name for name in names if name.endswith(".pyc") or "feed.db" in name or name.startswith(".venv")]


@pytest.mark.parametrize(
    "python",
    # Those between the oldest and the newest are left to the soak.
    [
        pytest.param(version, marks=[pytest.mark.only_soak] if VERSIONS[0] < version < VERSIONS[-1] else [])
        for version in PYTHONS
    ],
)
def test_the_wheel_runs_away_from_the_sources(
    python: str, install: Callable[..., Path], serve_with: Callable[..., RunningServer]
) -> None:
    commands = install(python, "*.whl")
    server = serve_with(commands, "--log", "sqlite:feed.db")
    with subscribed(f"{server.url}/events/orders/*") as stream:
        run = [str(commands / "feed"), "publish", "orders/1", "Hello", "--url", server.url]
        id = subprocess.run(run, capture_output=True, text=True, check=True, timeout=SECONDS).stdout.strip()
        frame = stream.frame()
        assert (frame.id, frame.data) == (id, "Hello")
    for path in ("/", "/docs", "/assets/feed.js", "/metrics", "/openapi.json", "/readyz"):
        answer = server.http.get(f"{server.url}{path}")
        assert answer.status_code == 200, path
        assert answer.content
    assert server.stop() == 0
    assert "Traceback" not in server.output
    assert "Warning" not in server.output


def test_the_sdist_installs_too(install: Callable[..., Path]) -> None:
    commands = install("3.11" if "3.11" in PYTHONS else next(iter(PYTHONS)), "*.tar.gz")
    result = subprocess.run([commands / "feed", "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"feed \d+\.\d+\.\d+\n", result.stdout)


def test_the_base_is_a_feed_in_two_dependencies_and_its_command_says_what_is_missing(
    install: Callable[..., Path], tmp_path: Path
) -> None:
    commands = install(next(iter(PYTHONS)), "*.whl", extra="")
    listed = uv("pip", "list", "--quiet", "--format", "json", "--python", commands / "python", folder=tmp_path)
    assert {package["name"] for package in json.loads(listed)} == {"feed", "msgspec", "orjson"}
    program = (
        "import asyncio, feed\n"
        "async def main():\n"
        "    async with feed.Feed('sqlite:feed.db') as log:\n"
        "        print(await log.publish('orders/1', {'total': 3}))\n"
        "asyncio.run(main())\n"
    )
    command = [str(commands / "python"), "-c", program]
    published = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=SECONDS)
    assert published.stdout.endswith("-1\n")
    refused = subprocess.run([commands / "feed", "serve"], capture_output=True, text=True, check=False, timeout=SECONDS)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "pip install 'feed[server]'" in refused.stderr


# What an extra brings is what its part of the library needs, and nothing of the others'.
ALONE = {
    "client": ("import feed.client", {"httpx", "websockets"}, {"fastapi", "pydantic", "redis", "uvicorn", "typer"}),
    "redis": ("import feed.log.redis.log", {"redis", "hiredis"}, {"fastapi", "httpx", "uvicorn", "typer"}),
    "metrics": ("import feed.fastapi.metrics", {"prometheus_client"}, {"fastapi", "httpx", "uvicorn", "typer"}),
    "fastapi": (
        "from feed.fastapi import Grants, Topic, admin_router, feed_router\n"
        "import feed\n"
        "feed_router(feed.Feed('memory:'), dashboard=True); admin_router(feed.Feed('memory:'), metrics=False)",
        {"fastapi", "sse_starlette"},
        {"uvicorn", "typer", "redis", "jwt", "prometheus_client", "psutil"},
    ),
}


@pytest.mark.parametrize("extra", ALONE)
def test_an_extra_brings_what_its_part_needs(install: Callable[..., Path], extra: str, tmp_path: Path) -> None:
    commands = install(next(iter(PYTHONS)), "*.whl", extra=f"[{extra}]")
    use, there, absent = ALONE[extra]
    look = (
        f"import importlib.util as i, json; print(json.dumps([n for n in {sorted(there | absent)} if i.find_spec(n)]))"
    )
    command = [str(commands / "python"), "-c", f"{use}\n{look}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == there


APPLICATION = """
from fastapi import FastAPI

import web
from feed import Feed
from feed.fastapi import admin_router, feed_router

assert web.OURS
feed = Feed("memory:")
app = FastAPI()
app.include_router(feed_router(feed, dashboard=True), prefix="/live")
app.include_router(admin_router(feed), prefix="/live")
"""


def test_an_application_with_a_package_web_of_its_own_and_the_lowest_fastapi(dist: Path, tmp_path: Path) -> None:
    [wheel] = dist.glob("*.whl")
    python = tmp_path / "venv/bin/python"
    uv("venv", "--quiet", "--python", PYTHONS[next(iter(PYTHONS))], tmp_path / "venv", folder=tmp_path)
    lowest = ("pip", "install", "--quiet", "--python", python, "--resolution", "lowest-direct")
    uv(*lowest, f"{wheel}[fastapi,metrics]", "uvicorn>=0.34", folder=tmp_path)
    (tmp_path / "web").mkdir()
    (tmp_path / "web/__init__.py").write_text("OURS = True\n")
    (tmp_path / "shop.py").write_text(APPLICATION)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [str(python), "-m", "uvicorn", "shop:app", "--fd", str(listener.fileno())]
        environment = {**os.environ, "PYTHONPATH": "."}
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, pass_fds=[listener.fileno()])
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/live"
        try:
            # It imports everything for the first time, which takes its while.
            assert httpx.get(f"{url}/readyz", timeout=SECONDS).status_code == 200
            with subscribed(f"{url}/events/orders/*") as stream:
                assert httpx.post(f"{url}/events/orders/1", content=b"Hello").status_code == 201
                assert stream.frame().data == "Hello"
            for path in ("/", "/assets/feed.js", "/metrics", "/subscriptions", "/readyz"):
                assert httpx.get(f"{url}{path}").status_code == 200, path
        finally:
            process.terminate()
            process.wait(SECONDS)


# What is locked.


def _requirements(*extras: str) -> Iterator[Requirement]:
    """What pyproject.toml asks for, with extras and with what the extras of the feed itself stand for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = [*project["project"]["dependencies"], *project["dependency-groups"]["build"]]
    for extra in extras:
        group = project["dependency-groups"] if extra == "test" else project["project"]["optional-dependencies"]
        listed += group[extra]
    for requirement in map(Requirement, listed):
        if requirement.name == "feed":
            yield from _requirements(*requirement.extras)
        else:
            yield requirement


@pytest.mark.parametrize(("lock", "extras"), [("server", ["server"]), ("test", ["testing", "test"])])
def test_all_that_is_asked_for_is_locked_in_its_range_and_with_hashes(lock: str, extras: Sequence[str]) -> None:
    text = (ROOT / f"requirements/{lock}.txt").read_text()
    pins = re.findall(r"^(\S+?)==(\S+)((?: ;[^\n]*)? \\\n(?:    .*\n?)*)", text, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^\S", text, re.MULTILINE)) - len(re.findall(r"^#", text, re.MULTILINE))
    assert all("--hash=sha256:" in rest for _, _, rest in pins)
    locked = {name: version for name, version, _ in pins}
    for requirement in _requirements(*extras):
        assert requirement.specifier.contains(locked[requirement.name]), requirement


# Containers and systemd.


def _dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text().replace("\\\n", "")


def test_the_health_check_of_the_container_tells_a_living_server_from_none(server: RunningServer) -> None:
    found = re.search(r"^HEALTHCHECK .*CMD (\[.*\])$", _dockerfile(), re.MULTILINE)
    assert found
    _, *arguments = json.loads(found[1])
    command = [sys.executable, *arguments]
    alive = {**os.environ, "FEED_PORT": str(server.port)}
    assert subprocess.run(command, env=alive, check=False).returncode == 0
    dead = {**os.environ, "FEED_PORT": "1"}
    assert subprocess.run(command, env=dead, stderr=subprocess.DEVNULL, check=False).returncode != 0


def test_the_container_is_given_all_that_the_build_needs() -> None:
    copied = {
        name.partition("/")[0]
        for line in re.findall(r"^COPY (?!--from)(.*)$", _dockerfile(), re.MULTILINE)
        for name in line.split()[:-1]
    }
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)


def test_every_setting_that_these_files_name_is_one() -> None:
    settings = {variable(name) for name in Settings.model_fields}
    for name in ("Dockerfile", "compose.yaml", "deploy/feed.service"):
        named = set(re.findall(r"FEED_[A-Z_]+", (ROOT / name).read_text()))
        assert named, name
        assert named <= settings, name


def test_a_container_without_a_key_refuses_to_start_and_says_why(tmp_path: Path) -> None:
    settings = dict(re.findall(r"(FEED_[A-Z]+)=(\S+)", _dockerfile()))
    settings["FEED_LOG"] = "memory:"
    command = [str(Path(sys.executable).parent / "feed"), "serve"]
    result = subprocess.run(
        command, env={**os.environ, **settings}, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=20
    )
    assert result.returncode == 1
    assert "FEED_JWT_SECRET" in result.stderr


def test_redis_takes_the_options_of_the_compose_file_and_the_feed_its_settings(
    tmp_path: Path, serve_with: Callable[..., RunningServer]
) -> None:
    compose = (ROOT / "compose.yaml").read_text()
    found = re.search(r"command: redis-server (.*)$", compose, re.MULTILINE)
    log = re.search(r"FEED_LOG: (\S+)$", compose, re.MULTILINE)
    assert found
    assert log
    options = dict(re.findall(r"--(\S+) (\S+)", found[1]))
    with running_redis(tmp_path / "redis", **options) as redis:
        url = log[1].replace("redis:6379", f"127.0.0.1:{redis.port}")
        server = serve_with(Path(sys.executable).parent, "--log", url, workers=2, jwt_secret="x" * 32)
        eventually(lambda: server.http.get(f"{server.url}/readyz").status_code == 200)
        assert server.http.get(f"{server.url}/events/a").status_code == 401
        assert server.stop() == 0


def test_redis_is_not_full_before_retention_lets_go_of_events() -> None:
    compose = (ROOT / "compose.yaml").read_text()
    room = re.search(r"--maxmemory (\d+)gb ", compose)
    kept = re.search(r"FEED_RETAIN_BYTES: (\S+)", compose)
    assert room
    assert kept
    assert parse_size(kept[1]) <= (int(room[1]) << 30) / 2


def test_the_unit_starts_the_command_with_time_to_drain() -> None:
    unit = ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "deploy/feed.service")
    service = unit["Service"]
    assert service["ExecStart"] == "/opt/feed/bin/feed serve"
    assert float(service["TimeoutStopSec"]) > Settings.model_fields["drain"].default + 3
    assert service["KillMode"] == "mixed", "workers are told by their parent"
    assert service["WorkingDirectory"] == f"/var/lib/{service['StateDirectory']}"
