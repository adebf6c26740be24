"""The programs for Django, Flask and Celery, each run as the page says, forks included."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest

from tests.docs.saved import save, saved, section
from tests.docs.serving import STOP_SECONDS, serving
from tests.support.running import RunningServer
from tests.support.streams import eventually

PAGE = "docs/recipes/django-flask-celery.md"


def test_flask_publishes_in_forks_of_the_process_that_made_the_client(server: RunningServer, tmp_path: Path) -> None:
    save(tmp_path, saved(PAGE, "Flask"))
    gunicorn = ("gunicorn", "shop:app", "--preload", "--workers", "2", "--threads", "2", "--bind", "127.0.0.1:{port}")
    with serving(tmp_path, *gunicorn, FEED_URL=server.url) as url:
        for number in (901, 902, 903, 901):
            assert httpx.post(f"{url}/orders/{number}").json() == {"order": number}
    found = [event for number in (901, 902, 903) for event in server.history(f"orders/{number}")["events"]]
    assert [(event["type"], event["data"]) for event in found] == [
        ("created", {"order": number}) for number in (901, 902, 903)
    ]


def test_flask_saves_the_order_while_the_feed_is_away(tmp_path: Path) -> None:
    save(tmp_path, {name: text.replace("patience=5", "patience=0.2") for name, text in saved(PAGE, "Flask").items()})
    flask = ("flask", "--app", "shop", "run", "--port", "{port}")
    with serving(tmp_path, *flask, FEED_URL="http://127.0.0.1:9") as url:
        assert httpx.post(f"{url}/orders/1", timeout=30).json() == {"order": 1}
    assert "order 1 is saved, and its event may be missing" in (tmp_path / "output.txt").read_text()


def test_django_publishes_what_is_committed_and_nothing_that_is_rolled_back(
    server: RunningServer, tmp_path: Path
) -> None:
    save(tmp_path, saved(PAGE, "Django"))
    gunicorn = ("gunicorn", "shop:application", "--preload", "--workers", "2", "--bind", "127.0.0.1:{port}")
    with serving(tmp_path, *gunicorn, FEED_URL=server.url) as url:
        items = ["bicycle", "nothing", "bell"]
        answers = [httpx.post(f"{url}/orders/{item}").json()["order"] for item in items]
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database:
        assert database.execute("SELECT item FROM shop_order ORDER BY id").fetchall() == [("bicycle",), ("bell",)]
    events = server.history("orders/*", type="created")["events"]
    published = [event["data"]["item"] for event in events if "item" in event["data"]]
    assert published == ["bicycle", "bell"], answers


def test_celery_publishes_each_step_once_however_often_a_task_runs(server: RunningServer, tmp_path: Path) -> None:
    save(tmp_path, saved(PAGE, "Celery"))
    (tmp_path / "queue").mkdir()
    # In place of Redis: a broker in a folder, for which Celery has options of its own.
    (tmp_path / "folder.py").write_text(
        "from tasks import app\n"
        f"folder = {str(tmp_path / 'queue')!r}\n"
        "app.conf.broker_transport_options = {'data_folder_in': folder, 'data_folder_out': folder,"
        " 'control_folder': folder}\n"
    )
    environment = {**os.environ, "FEED_URL": server.url, "CELERY_BROKER_URL": "filesystem://"}
    send = "from folder import app; from tasks import ship; ship.delay(911); ship.delay(911)"
    subprocess.run([sys.executable, "-c", send], cwd=tmp_path, env=environment, check=True, timeout=60)
    worker = [
        sys.executable,
        "-m",
        "celery",
        "--app",
        "folder:app",
        "worker",
        "--concurrency",
        "2",
        "--loglevel",
        "info",
    ]
    with (tmp_path / "output.txt").open("wb") as output:
        process = subprocess.Popen(worker, cwd=tmp_path, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            done = re.compile(r"tasks\.ship\[.*succeeded")
            eventually(lambda: len(done.findall((tmp_path / "output.txt").read_text())) == 2, 60)
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)
    events = server.history("orders/911")["events"]
    assert [(event["type"], event["data"]) for event in events] == [
        ("progress", {"percent": 0}),
        ("progress", {"percent": 100}),
    ]


@pytest.mark.parametrize("name", ["Django", "Flask", "Celery"])
def test_the_versions_are_those_that_the_page_names(name: str) -> None:
    assert f"{name} {'.'.join(version(name).split('.')[:2])}" in section(PAGE)
