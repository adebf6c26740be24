"""The connections of our own server: uvicorn's protocols, and what they leave undone or unoffered.

Both let a stream write framed bytes straight to the socket's transport, tell it when the buffer is full and when it
has drained, and stand in the ASGI scope's `extensions` for that (see `feed.fastapi.outlet`).
"""

from feed_server.server.protocol.common import ConnectionLimit, ServerLimits
from feed_server.server.protocol.http import HttpProtocol
from feed_server.server.protocol.websocket import WebSocketProtocol

__all__ = ["ConnectionLimit", "HttpProtocol", "ServerLimits", "WebSocketProtocol"]
