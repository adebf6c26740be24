"""Answers in JSON that end with a line's end, so that a terminal's prompt does not stick to them."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

from feed.media_types import JSON


class JsonResponse(Response):
    """A JSON document."""

    media_type = JSON

    def render(self, content: Any) -> bytes:
        """See Starlette's."""
        return orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)
