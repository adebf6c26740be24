"""What the FastAPI tutorial shows for WebSockets, with the broadcast that everybody makes of it: the target of
`feed bench --against naive`. A process of its own: `python -m feed_server.bench.naive`."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect

app = FastAPI()


class ConnectionManager:
    """Who is connected."""

    def __init__(self) -> None:
        self.active_connections: list[WebSocket] = []

    async def connect(self, websocket: WebSocket) -> None:
        """Take one on."""
        await websocket.accept()
        self.active_connections.append(websocket)

    def disconnect(self, websocket: WebSocket) -> None:
        """Let one go."""
        self.active_connections.remove(websocket)

    async def broadcast(self, message: str) -> None:
        """Send to all."""
        await asyncio.gather(*(ws.send_text(message) for ws in self.active_connections))


manager = ConnectionManager()


@app.websocket("/ws")
async def websocket_endpoint(websocket: WebSocket) -> None:
    """A reader."""
    await manager.connect(websocket)
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        manager.disconnect(websocket)


@app.post("/publish")
async def publish(request: Request) -> dict[str, bool]:
    """A publisher."""
    await manager.broadcast((await request.body()).decode())
    return {"sent": True}


@app.get("/readers")
async def readers() -> dict[str, int]:
    """How many are connected."""
    return {"subscribers": len(manager.active_connections)}


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether the process lives."""
    return {"status": "alive"}


def main() -> None:
    """Serve on a free port, and say which."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            ws_per_message_deflate=False,  # which would only slow it down
            access_log=False,
            log_level="warning",
        )
        print(f"listening on {listening.getsockname()[1]}", flush=True)
        uvicorn.Server(config).run([listening])


if __name__ == "__main__":
    main()
