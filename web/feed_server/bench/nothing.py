"""An ASGI application that does nothing but answer 201: the target of `feed bench publish --against asgi`.

It shows what uvicorn alone costs for a request. A process of its own: `python -m feed_server.bench.nothing`."""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import Receive, Scope, Send

_BODY = b'{"id":"00000000-1","topic":"bench"}\n'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer whatever is asked."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 201, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": _BODY})


def main() -> None:
    """Serve on a free port, and say which."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        config = uvicorn.Config(
            app, loop="uvloop", http="httptools", lifespan="off", access_log=False, log_level="warning"
        )
        print(f"listening on {listening.getsockname()[1]}", flush=True)
        uvicorn.Server(config).run([listening])


if __name__ == "__main__":
    main()
