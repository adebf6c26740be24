"""What a reader saves is what the tests run."""

from __future__ import annotations

import pytest

from tests.docs.saved import saved

FILES = {
    "docs/tutorial.md": {"index.html", "shop.py", "shop.html"},
    "docs/recipes/state-and-live.md": {"shop.py", "shop.html"},
    "docs/recipes/database.md": {"shop.py"},
    "docs/recipes/login-and-logout.md": {"shop.py", "shop.html"},
    "docs/recipes/presence.md": {"room.py", "room.html", "streams.py", "alive.py"},
    "docs/guides/state.md": {"board.py", "values.py", "steps.py"},
    "docs/recipes/react.md": {"use-feed.js", "app.jsx", "index.html", "shop.py"},
    "docs/recipes/htmx.md": {"shop.py", "page.html"},
    "docs/recipes/django-flask-celery.md": {"shop.py", "tasks.py"},
    "docs/recipes/typed-topics.md": {"shop.py"},
    "docs/recipes/threads-and-forks.md": {"shop.py"},
    "docs/recipes/testing.md": {"conftest.py", "shop.py", "test_shop.py", "test_reports.py"},
}


@pytest.mark.parametrize("page", FILES)
def test_every_file_that_a_page_names_is_found(page: str) -> None:
    assert set(saved(page)) == FILES[page]
