"""The server against its own description: schemathesis makes requests of `/openapi.json`, valid and invalid ones, and
holds the answers against it. FEED_SOAK makes more of them, from another seed each time.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from feed.fastapi.auth.grants import Grants
from feed_server.auth.tokens import issue
from tests.conftest import Serve
from tests.support.paths import ROOT
from tests.support.running import RunningServer

PROGRAM = str(Path(sys.executable).parent / "schemathesis")
SECRET = "a secret that is long enough for HS256"
SOAK = bool(os.environ.get("FEED_SOAK"))
SEED = random.randrange(1 << 32) if SOAK else 5
MANY, FEW = (1000, 200) if SOAK else (3, 1)  # examples for each operation and phase

PHASES = ["Examples", "Coverage", "Fuzzing", "Stateful"]

LATER = time.time() + 3600
ADMIN = Grants(["**"], ["**"], admin=True, subject="admin", expires=LATER)
SOMEBODY = Grants(["orders/**"], ["orders/*"], subject="somebody", expires=LATER)


# All phases: examples, coverage, fuzzing, stateful. Every check is on but for those that are named here.
CONFIG = """
continue-on-failure = true
request-timeout = 30

[generation]
database = "none"
"""


def attack(server: RunningServer, folder: Path, examples: int, grants: Grants | None = None) -> None:
    """Let schemathesis loose on it, with a token for these grants. What it finds is the failure's text."""
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    header = [] if grants is None else ["--header", f"Authorization: Bearer {issue(grants, SECRET, 'HS256')}"]
    command = ["--config-file", str(config), "run", f"{server.url}/openapi.json", "--no-color", *header]
    result = subprocess.run(
        [PROGRAM, *command, "--seed", str(SEED), "--max-examples", str(examples)],
        cwd=folder,  # where it leaves its own files
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.support.schema_hooks", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    done = re.findall("^ (.)  (Examples|Coverage|Fuzzing|Stateful)", result.stdout, re.MULTILINE)
    assert [name for sign, name in done if sign == "✅"] == PHASES
    assert "13 selected / 13 total" in result.stdout
    assert server.alive
    assert server.remarks == ""


@pytest.mark.soak
@pytest.mark.timeout(3600 if SOAK else 120)
def test_with_a_key_it_is_as_it_says_to_an_admin(serve: Serve, tmp_path: Path) -> None:
    attack(serve("--log", "memory:", jwt_secret=SECRET), tmp_path, MANY, ADMIN)


def test_whoever_may_not_is_told_what_it_says(serve: Serve) -> None:
    server = serve("--log", "memory:", jwt_secret=SECRET)
    described = server.http.get(f"{server.url}/openapi.json").json()["paths"]
    for grants, refusal in ((None, 401), (SOMEBODY, 403)):
        headers = {} if grants is None else {"Authorization": f"Bearer {issue(grants, SECRET, 'HS256')}"}
        refused = 0
        for path, methods in described.items():
            for method, operation in methods.items():
                url = f"{server.url}{path.replace('{', '').replace('}', '')}"
                answer = server.http.request(method, url, headers=headers, content="[]")
                assert str(answer.status_code) in operation["responses"], (method, path, answer.status_code)
                if answer.status_code == refusal:
                    assert answer.headers["content-type"] in operation["responses"][str(refusal)]["content"]
                    refused += 1
        assert refused >= 4, grants


def test_whoever_slips_is_told_what_it_says(serve: Serve) -> None:
    server = serve("--log", "memory:")
    for path, methods in server.http.get(f"{server.url}/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            for query in ("sinse=1", "topik=a", "%ff=1"):
                url = f"{server.url}{path.replace('{', '').replace('}', '')}?{query}"
                with server.http.stream(method, url, content="[]") as answer:
                    assert str(answer.status_code) in operation["responses"], (method, path, query, answer.status_code)


def test_pages_lines_and_answers_of_state_are_what_it_says(server: RunningServer) -> None:
    described = server.http.get(f"{server.url}/openapi.json").json()["paths"]
    subscribe, publish = (described["/events/{topic}"][method]["responses"] for method in ("get", "post"))

    def judged(responses: Any, status: str, media_type: str, schema: str, value: Any) -> None:
        validator = jsonschema_rs.Draft202012Validator(responses[status]["content"][media_type][schema])
        assert [error.message for error in validator.iter_errors(value)] == []
        assert not validator.is_valid({})

    url = f"{server.url}/events/described"
    for topic in ("a", "b"):
        server.http.post(f"{url}/{topic}?ttl=1h", content="x").raise_for_status()
    page = server.http.get(f"{url}/*?latest=1&limit=1", headers={"Accept": "application/json"}).json()
    assert "resume" in page["events"][0]
    judged(subscribe, "200", "application/json", "schema", page)
    page = server.http.get(f"{url}/*?latest=1&after=a-1", headers={"Accept": "application/json"}).json()
    assert {"live", "gap"} <= set(page)
    judged(subscribe, "200", "application/json", "schema", page)
    with server.http.stream("GET", f"{url}/*?latest=1", headers={"Accept": "application/x-ndjson"}) as answer:
        lines = answer.iter_lines()
        read = [json.loads(next(lines)) for _ in range(4)]
        server.http.delete(f"{url}/a").raise_for_status()
        read.append(json.loads(next(lines)))
    assert [line["type"] for line in read[-2:]] == ["feed.live", "feed.deleted"]
    for line in read:
        judged(subscribe, "200", "application/x-ndjson", "itemSchema", line)
    judged(publish, "200", "application/json", "schema", server.http.post(f"{url}/b?ttl=1h").json())
    for headers in ({"If-Match": "a-1"}, {"If-None-Match": "*"}):
        refused = server.http.post(f"{url}/b", content="x", headers=headers)
        assert {"topic", "current"} <= set(refused.json()) & set(
            publish["412"]["content"]["application/problem+json"]["schema"]["properties"]
        )
        judged(publish, "412", "application/problem+json", "schema", refused.json())


def test_a_page_and_a_line_say_as_it_does_whether_older_events_are_gone(serve: Serve) -> None:
    server = serve("--log", "memory:", "--retain", "noise/**=5")
    described = server.http.get(f"{server.url}/openapi.json").json()["paths"]["/events/{topic}"]["get"]["responses"]
    kinds = described["200"]["content"]
    page = jsonschema_rs.Draft202012Validator(kinds["application/json"]["schema"])
    line = jsonschema_rs.Draft202012Validator(kinds["application/x-ndjson"]["itemSchema"])
    batch = [{"topic": "noise/1", "data": 1}] * 20 + [{"topic": "quiet", "data": 1}]
    server.http.post(f"{server.url}/events", json=batch).raise_for_status()
    server.http.get(f"{server.url}/events/**?latest=1", headers={"Accept": "application/json"})  # all was passed on
    for topic, is_whole in (("noise/1", False), ("quiet", True)):
        url = f"{server.url}/events/{topic}"
        got = server.http.get(url, headers={"Accept": "application/json"}).json()
        with server.http.stream("GET", f"{url}?after=earliest", headers={"Accept": "application/x-ndjson"}) as answer:
            opened = json.loads(next(answer.iter_lines()))
        for validator, value, data in ((page, got, got), (line, opened, opened["data"])):
            assert data.get("complete", True) is is_whole
            assert [error.message for error in validator.iter_errors(value)] == []
        assert not page.is_valid({**got, "complete": True}), "it is never true"
        assert not line.is_valid({**opened, "data": {**opened["data"], "complete": True}}), "nor in a line"


# Without a key everybody is an admin, and others get less far than an admin, to answers that were looked at above.


@pytest.mark.only_soak
@pytest.mark.timeout(3600)
def test_without_a_key_it_is_as_it_says(serve: Serve, tmp_path: Path) -> None:
    attack(serve("--log", "memory:"), tmp_path, MANY)


@pytest.mark.only_soak
@pytest.mark.timeout(3600)
def test_with_a_key_it_is_as_it_says_to_nobody(serve: Serve, tmp_path: Path) -> None:
    attack(serve("--log", "memory:", jwt_secret=SECRET), tmp_path, FEW)


@pytest.mark.only_soak
@pytest.mark.timeout(3600)
def test_with_a_key_it_is_as_it_says_to_somebody(serve: Serve, tmp_path: Path) -> None:
    attack(serve("--log", "memory:", jwt_secret=SECRET), tmp_path, FEW, SOMEBODY)
