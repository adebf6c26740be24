"""What the libraries below leave to whoever uses them: to come back after the last id, when the server says so."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass

URL = sys.argv[1]
RESUMES = sys.argv[2:] == ["by-hand"]


def record(id: str | None, type: str | None, data: str) -> None:
    """One line for an event; what the stream says of itself is left out."""
    if not (type or "").startswith("feed."):
        print(json.dumps({"id": id, "type": type or "message", "data": data}), flush=True)


@dataclass
class Place:
    """Where a reader is, and how many seconds it stays away."""

    id: str = ""
    retry: float = 3.0

    def note(self, id: str | None, retry: str | int | None) -> None:
        """Of each frame, those of the stream itself too."""
        self.id = id or self.id
        self.retry = self.retry if retry is None else int(retry) / 1000

    @property
    def headers(self) -> dict[str, str]:
        """Of the next request."""
        return {"Last-Event-ID": self.id} if self.id else {}

    def stay_away(self) -> None:
        """Until it is time; or end, as the library alone would."""
        if not RESUMES:
            sys.exit()
        time.sleep(self.retry)
