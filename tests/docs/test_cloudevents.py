"""The recipe for CloudEvents, run as it stands there."""

from __future__ import annotations

import subprocess

from tests.docs.saved import blocks
from tests.support.running import RunningServer


def test_the_cloudevents_of_the_page_are_published(server: RunningServer, curl_program: str) -> None:
    [commands] = blocks("docs/recipes/cloudevents.md", "sh")
    commands = commands.replace("http://127.0.0.1:8000", server.url).replace("curl ", f"{curl_program} -sS ")
    for _ in range(2):
        done = subprocess.run(["sh", "-e", "-c", commands], capture_output=True, text=True, timeout=30)
        assert done.stdout.count('"topic":"orders/42"') == 2, done
    events = server.history("orders/42")["events"]
    assert [(event["type"], event["data"]) for event in events] == [
        ("com.example.created", {"total": 3}),
        ("com.example.created", {"total": 4}),
    ]
