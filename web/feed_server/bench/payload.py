"""What the bench publishes: JSON data of a given size with a token in it, which says who sent it, as which of his
events, and when it was meant to be sent."""

from __future__ import annotations

TOPIC = "bench"

_TOKEN = b"%03d-%08d-%015d"
TOKEN_BYTES = 28
_FRAME = b'{"n":"%b","x":"%b"}'

MIN_SIZE = 64
MAX_PUBLISHERS = 999


def make_token(publisher: int, serial: int, microseconds: int) -> bytes:
    """The token of a publisher's event. The time is the monotonic clock's, which all processes share."""
    return _TOKEN % (publisher, serial, microseconds)


def publisher_of(token: bytes) -> int:
    """Who sent it."""
    return int(token[:3])


def topic_number(token: bytes, publishers: int, topics: int) -> int:
    """Which of so many topics an event goes to: all publishers together go through them in turn."""
    return (int(token[4:12]) * publishers + publisher_of(token)) % topics


def sent_at(key: bytes) -> int:
    """When it was meant to be sent, in microseconds. Any bytes that end with a token will do."""
    return int(key[-15:])


def make_data(token: bytes, size: int) -> bytes:
    """JSON data of `size` bytes."""
    return _FRAME % (token, b"x" * (size - TOKEN_BYTES - len(_FRAME) + 4))
