"""The server itself: uvicorn with protocols of our own, its workers and their supervisor."""
