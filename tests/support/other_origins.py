"""Pages of other origins than the feed's, for browsers that are to ask it from there."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

_FRAMED = '<iframe sandbox="allow-scripts allow-forms" srcdoc="<p>framed"></iframe>'


class Pages:
    """A web server with a page for each of several other origins. It has nothing to do with the feed."""

    def __init__(self) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = _FRAMED if self.path == "/framed" else "<p>a page"
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(f"<!doctype html><meta charset=utf-8><title>page</title>{body}".encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.port = self._server.server_port
        self.same_site = f"http://127.0.0.1:{self.port}"
        self.other_site = f"http://localhost:{self.port}"
        self.framed = f"{self.same_site}/framed"

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def pages() -> Iterator[Pages]:
    """What a fixture of such pages does."""
    serving = Pages()
    try:
        yield serving
    finally:
        serving.close()
