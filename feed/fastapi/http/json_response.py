"""JSON answers that end with a line break, so that a terminal's prompt begins on a new line."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

from feed.media_types import JSON


class JsonResponse(Response):
    """A JSON document."""

    media_type = JSON

    def render(self, content: Any) -> bytes:
        """Encode the content (Starlette's method)."""
        return orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)
