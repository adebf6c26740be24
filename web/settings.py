"""The server's settings: a name each, on the command line as `--name`, in the environment as `FEED_NAME`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from feed import FeedOptions, Limits, Retention

_SIZE = re.compile(r"(\d+)\s*(|[kmg]i?b?|b)", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(|ms|s|m|h|d)", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_size(value: Any) -> Any:
    """Bytes: a number, or one with K, M or G (of 1024): `16M`."""
    if isinstance(value, str):
        if (parts := _SIZE.fullmatch(value.strip())) is None:
            raise ValueError("a size is a number of bytes, or one with K, M or G: 65536, 64K, 16M")
        return int(parts[1]) << {"k": 10, "m": 20, "g": 30}.get(parts[2][:1].lower(), 0)
    return value


def parse_duration(value: Any) -> Any:
    """Seconds: a number, or one with ms, s, m, h or d: `7d`."""
    if isinstance(value, str):
        if (parts := _DURATION.fullmatch(value.strip())) is None:
            raise ValueError("a duration is a number of seconds, or one with ms, s, m, h or d: 15, 500ms, 7d")
        return float(parts[1]) * _SECONDS[parts[2].lower()]
    return value


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=1)]
Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Settings(BaseSettings):
    """Everything that can be set. The descriptions are what `feed serve --help` and the README say."""

    model_config = SettingsConfigDict(env_prefix="FEED_", extra="ignore")

    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    log: str = Field("sqlite:feed.db", description="Where events are kept: memory: or sqlite:PATH.")

    max_data: Size = Field(256 << 10, description="The largest data of one event.")
    max_body: Size = Field(16 << 20, description="The largest request body.")

    retain_events: Count = Field(100_000, description="How many events are kept.")
    retain_age: Duration = Field(7 * 86400, description="How long events are kept.")
    retain_bytes: Size | None = Field(
        None, description="How many bytes of events are kept; unless set 1G, in memory 256M."
    )

    queue_events: Count = Field(256, description="Events that may wait for one subscriber; beyond it reads the log.")
    queue_bytes: Size = Field(1 << 20, description="Bytes that may wait for one subscriber; beyond it reads the log.")
    window_events: Count = Field(10_000, description="Recent events held in memory for those who come back.")
    window_bytes: Size = Field(32 << 20, description="Bytes of recent events held in memory.")

    heartbeat: Duration = Field(15, description="A quiet stream gives a sign of life after this time.")
    retry: Duration = Field(3, description="When clients are told to reconnect, jittered by half.")
    drain: Duration = Field(10, description="How long a stopping server waits for its streams to end.")

    @property
    def options(self) -> FeedOptions:
        """What of this is the feed's."""
        return FeedOptions(
            max_data=self.max_data,
            window_events=self.window_events,
            window_bytes=self.window_bytes,
            retention=Retention(events=self.retain_events, age=self.retain_age, bytes=self.retain_bytes),
            limits=Limits(
                queue_events=self.queue_events,
                queue_bytes=self.queue_bytes,
                heartbeat=self.heartbeat,
                retry=self.retry,
            ),
        )
