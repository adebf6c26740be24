"""The connections of our own server: uvicorn's protocols, with what they lack.

Both let a stream write framed bytes straight to the socket's transport, and tell the stream when the buffer is full and
when it has drained. A stream finds its connection in the ASGI scope's `extensions` (see `feed.fastapi.outlet`).
"""

from feed_server.server.protocol.common import ConnectionLimit, ServerLimits
from feed_server.server.protocol.heads import PublishHeads
from feed_server.server.protocol.http import HttpProtocol
from feed_server.server.protocol.websocket import WebSocketProtocol

__all__ = ["ConnectionLimit", "HttpProtocol", "PublishHeads", "ServerLimits", "WebSocketProtocol"]
