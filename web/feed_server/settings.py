"""The server's settings: each is `--name` on the command line and `FEED_NAME` in the environment.

This is the only list of them: `feed serve` makes its options from it, and shows its descriptions and defaults.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_network
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from feed import FeedOptions, Invalid, Limits, LogRefused, Retention
from feed.event import check_pattern
from feed.fastapi.auth.origins import parse_host, parse_origin
from feed.log import check_log_url, is_shared
from feed.log.classes import check_retain, max_kept_text, parse_max_kept, parse_retain, retain_text
from feed.pattern import MAX_PATTERNS
from feed.units import duration_text, parse_duration, parse_size, size_text
from feed_server.logging.stderr import Format, Level


def _checked_log(url: str) -> str:
    try:
        return check_log_url(url)
    except LogRefused as error:
        raise ValueError(str(error)) from None


def parse_list(value: Any) -> Any:
    """Split a text with several values at commas and spaces."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _each(check: Callable[[str], str]) -> Callable[[Sequence[str]], tuple[str, ...]]:
    return lambda values: tuple(check(value) for value in values)


def _checked_pattern(pattern: str) -> str:
    try:
        return check_pattern(pattern)
    except Invalid as error:
        raise ValueError(f"{pattern!r}: {error.detail}") from None


def _checked_host(host: str) -> str:
    if parse_host(host) is None or "*" in host:
        raise ValueError(f"{host!r} is not the host of a URL, such as feed.example.org, 192.168.1.5 or [::1]:8000")
    return host


def _checked_origin(origin: str) -> str:
    if (parsed := parse_origin(origin.removesuffix("/"))) is None:
        raise ValueError(f"{origin!r} is not an origin, such as https://app.example.org or http://localhost:3000")
    return str(parsed)


def _checked_network(network: str) -> str:
    try:
        ip_network(network)
    except ValueError:
        raise ValueError(f"{network!r} is not an address or a network, such as 10.0.0.1 or 10.0.0.0/8") from None
    return network


# feed_server.auth.keys is imported only where there is a key: PyJWT and cryptography take a tenth of a second.


def _checked_secret(secret: SecretStr) -> SecretStr:
    from feed_server.auth.keys import check_secret

    return check_secret(secret)


def _checked_public_key(value: str) -> str:
    from feed_server.auth.keys import check_public_key

    return check_public_key(value)


def _checked_jwks_url(url: str) -> str:
    from feed_server.auth.jwks import check_jwks_url

    return check_jwks_url(url)


def only_one_process(log: str) -> str:
    """Say why several processes cannot share a log like this, and what to do about it."""
    kind = log.partition(":")[0]
    return f"{kind}: is a log of one process, and several would be as many feeds: use --log redis://HOST:PORT/DB"


# As JSON they are written as a person would. The upper bounds are not advice: they keep SQLite's integers and the event
# loop's clock from overflowing.
Size = Annotated[
    int, BeforeValidator(parse_size), PlainSerializer(size_text, when_used="json"), Field(ge=1, le=1 << 62)
]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(duration_text, when_used="json"),
    Field(gt=0, le=100 * 365 * 86400),
]
Count = Annotated[int, Field(ge=1, le=1 << 62)]
Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_list), PlainSerializer(" ".join, when_used="json")]


Retain = Annotated[
    Mapping[str, Any],  # of `Keep`
    NoDecode,
    PlainValidator(lambda value: parse_retain(value) if isinstance(value, str) else check_retain(value)),
    PlainSerializer(retain_text, when_used="json"),
]
Kept = Annotated[
    tuple[int, int],
    NoDecode,
    PlainValidator(lambda value: parse_max_kept(value) if isinstance(value, str) else value),
    PlainSerializer(max_kept_text, when_used="json"),
]
Text = Annotated[str, Field(min_length=1)]
JwksUrl = Annotated[str, AfterValidator(_checked_jwks_url)]
Secret = Annotated[SecretStr, AfterValidator(_checked_secret)]
PublicKey = Annotated[str, AfterValidator(_checked_public_key)]


_KEYS = (
    "jwt_secret",
    "jwt_public_key",
    "jwks_url",
    "publisher_jwt_secret",
    "publisher_jwt_public_key",
    "subscriber_jwt_secret",
    "subscriber_jwt_public_key",
)


class _Environment(EnvSettingsSource):
    """The environment. An empty value counts as unset, but not that of a key: whoever sets a key wants a server that is
    not open, and must not get an open one because a file was empty."""

    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__call__().items() if value != "" or name in _KEYS}


class Settings(BaseSettings):
    """All settings. `feed serve --help` and docs/reference/settings.md show their descriptions."""

    # Inputs are hidden: else a refused secret would stand in the traceback of an application that makes `Settings`.
    model_config = SettingsConfigDict(env_prefix="FEED_", extra="ignore", hide_input_in_errors=True)

    host: Annotated[str, Field(description="The address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="The port to listen on; 0 takes a free one.")] = 8000
    log: Annotated[
        str,
        AfterValidator(_checked_log),
        Field(description="Where events are kept: memory:, sqlite:PATH or redis://HOST:PORT/DB?stream=NAME."),
    ] = "sqlite:feed.db"
    workers: Annotated[
        int,
        Field(ge=1, le=256, description="How many processes serve the port. More than one need a log on Redis."),
    ] = 1
    node: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=128,
            description="This server's name in /metrics and /subscriptions; unless set, the host's name and the port. "
            "Workers append their numbers.",
        ),
    ] = None

    log_format: Annotated[
        Format, Field(description="The format of log lines: text, json, or auto (text on a terminal, else JSON).")
    ] = "auto"
    log_level: Annotated[
        Level,
        Field(
            description="What is logged: error, warning, info (a line for each request, and for each stream when it "
            "ends) or debug (health checks too)."
        ),
    ] = "info"
    quiet_publishes: Annotated[
        bool,
        Field(description="Log no line for a publish that succeeds. The line takes a twentieth of its time."),
    ] = False

    jwt_secret: Annotated[
        Secret | None,
        Field(description="The secret that tokens are signed with (HS256, HS384, HS512): at least 32 bytes."),
    ] = None
    jwt_public_key: Annotated[
        PublicKey | None,
        Field(
            description="The public key that tokens are verified with: a file with a PEM, or the PEM. RSA (RS256), EC "
            "P-256 (ES256) or Ed25519 (EdDSA)."
        ),
    ] = None
    jwks_url: Annotated[
        JwksUrl | None,
        Field(
            description="The URL of the public keys of the service that makes tokens: a JWK Set (RS256, ES256, EdDSA)."
        ),
    ] = None
    jwt_audience: Annotated[Text | None, Field(description="The audience that tokens must be for (`aud`).")] = None
    jwt_issuer: Annotated[Text | None, Field(description="The issuer that tokens must be from (`iss`).")] = None
    publisher_jwt_secret: Annotated[
        Secret | None, Field(description="A secret whose tokens can only grant to publish.")
    ] = None
    publisher_jwt_public_key: Annotated[
        PublicKey | None, Field(description="A public key whose tokens can only grant to publish.")
    ] = None
    subscriber_jwt_secret: Annotated[
        Secret | None, Field(description="A secret whose tokens can only grant to subscribe.")
    ] = None
    subscriber_jwt_public_key: Annotated[
        PublicKey | None, Field(description="A public key whose tokens can only grant to subscribe.")
    ] = None

    hosts: Annotated[
        Listed,
        AfterValidator(_each(_checked_host)),
        Field(
            description="Host names besides localhost under which a server without a key answers: NAME or NAME:PORT."
        ),
    ] = ()
    origins: Annotated[
        Listed,
        AfterValidator(_each(_checked_origin)),
        Field(description="Pages of other origins that may use the feed, with cookies: https://app.example.org."),
    ] = ()
    public: Annotated[
        Listed,
        AfterValidator(_each(_checked_pattern)),
        Field(description="Patterns that anyone may subscribe to without a token."),
    ] = ()
    metrics_public: Annotated[bool, Field(description="Show /metrics to anyone, although there is a key.")] = False
    insecure: Annotated[
        bool, Field(description="Listen on an address that other machines reach, although there is no key.")
    ] = False
    proxies: Annotated[
        Listed,
        AfterValidator(_each(_checked_network)),
        Field(description="Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted."),
    ] = ()

    max_data: Annotated[Size, Field(description="The largest data of one event.")] = 256 << 10
    max_body: Annotated[Size, Field(description="The largest request body.")] = 16 << 20
    max_bodies: Annotated[
        Size, Field(description="The sum of all request bodies that are read or handled at once. More are refused.")
    ] = 256 << 20
    max_head: Annotated[Size, Field(le=1 << 20, description="The largest head of a request: its line and headers.")] = (
        64 << 10
    )
    head_timeout: Annotated[
        Duration,
        Field(description="How long the head of a request may take to arrive, from when the server waits for it."),
    ] = 10
    body_timeout: Annotated[Duration, Field(description="How long the body of a request may take to arrive.")] = 60
    idle: Annotated[
        Duration,
        Field(
            description="How long a connection is kept open between two requests. It must be longer than in any proxy "
            "in front."
        ),
    ] = 65 * 60

    publish_rate: Annotated[
        float | None,
        Field(
            gt=0,
            le=1e9,
            description="How many events a second one token or client address may publish in one process, up to a "
            "second's worth at once; unless set, any number.",
        ),
    ] = None

    retain_events: Annotated[Count, Field(description="How many events are kept.")] = 100_000
    retain_age: Annotated[Duration, Field(description="How long events are kept.")] = 7 * 86400
    retain_bytes: Annotated[
        Size | None, Field(description="How many bytes of events are kept; unless set, 1G, or 256M in memory.")
    ] = None

    retain: Annotated[
        Retain,
        Field(
            description="What is kept of some topics, where that is not what the three settings before say: "
            "`PATTERN=BOUNDS` with `;` between them, such as `runs/**=1h; devices/*/state=latest; "
            "scores/**=1d,10000,100MB`. A bound is a time, a count, a size that ends in `B`, or `latest`: the newest "
            "event of each topic outlives the others. The first pattern that matches a topic counts."
        ),
    ] = {}
    max_kept: Annotated[
        Kept, Field(description="How many topics, and how many bytes of their events, `latest` keeps at most.")
    ] = (100_000, 256 << 20)

    queue_events: Annotated[
        Count, Field(description="Events that may wait for one subscriber. One that lags further reads from the log.")
    ] = 256
    queue_bytes: Annotated[
        Size, Field(description="Bytes that may wait for one subscriber. One that lags further reads from the log.")
    ] = 1 << 20
    window_events: Annotated[
        Count, Field(description="Recent events that are held in memory for readers that reconnect.")
    ] = 10_000
    window_bytes: Annotated[Size, Field(description="Bytes of recent events that are held in memory.")] = 32 << 20

    max_subscribers: Annotated[
        Count | None,
        Field(
            description="How many streams may be open at once in one process; unless set, as many as the limit of file "
            "descriptors allows."
        ),
    ] = None
    max_subscribers_per_address: Annotated[
        Count | None,
        Field(
            description="How many streams one client address (in IPv6 a network of 64 bits) may have open at once in "
            "one process; unless set, any number."
        ),
    ] = None
    max_patterns: Annotated[
        int, Field(ge=1, le=MAX_PATTERNS, description="How many topics and patterns one subscription may have.")
    ] = MAX_PATTERNS
    max_replays: Annotated[
        Count, Field(description="How many pages of past events are read at once. Other readers wait for their turn.")
    ] = 4
    stall: Annotated[
        Duration, Field(description="A client that reads nothing at all for this time is disconnected.")
    ] = 30
    heartbeat: Annotated[Duration, Field(description="A stream without events sends a heartbeat after this time.")] = 15
    retry: Annotated[Duration, Field(description="How long clients wait before they reconnect, jittered by half.")] = 3
    drain: Annotated[
        Duration,
        Field(
            description="How long a stopping server waits for its streams to end. Their readers reconnect spread over "
            "this time."
        ),
    ] = 10

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use what is given, then the environment; see pydantic-settings."""
        return init_settings, _Environment(settings_cls)

    @field_validator(*_KEYS, mode="before")
    @classmethod
    def _not_blank(cls, value: object) -> object:
        if isinstance(value, str) and not value.strip():
            raise ValueError("is empty: give a key, or do not set it")
        return value

    @field_validator("workers")
    @classmethod
    def _of_one_log(cls, workers: int, info: ValidationInfo) -> int:
        if workers > 1 and not is_shared(info.data.get("log", "redis:")):
            raise ValueError(f"{only_one_process(info.data['log'])}, or --workers 1")
        return workers

    @model_validator(mode="after")
    def _of_different_keys(self) -> Self:
        for kind in ("secret", "public_key"):
            named = [f"{who}jwt_{kind}" for who in ("", "publisher_", "subscriber_")]
            values = {name: value for name in named if (value := getattr(self, name)) is not None}
            if len(set(values.values())) < len(values):
                names = ", ".join(map(variable, values))
                raise ValueError(
                    f"{names}: two have the same value, so that publishers and subscribers cannot be told apart"
                )
        return self

    @property
    def keys(self) -> list[str]:
        """The names of the settings that hold a key or the URL of keys."""
        return [name for name in _KEYS if getattr(self, name) is not None]

    @property
    def has_key(self) -> bool:
        """Whether there is a key. Without one no tokens are needed."""
        return bool(self.keys)

    @property
    def node_name(self) -> str:
        """`node`, or the host's name and the port."""
        return self.node or f"{socket.gethostname()}:{self.port}"

    @property
    def options(self) -> FeedOptions:
        """The options of the `Feed` itself."""
        return FeedOptions(
            node=self.node_name,
            max_data=self.max_data,
            window_events=self.window_events,
            window_bytes=self.window_bytes,
            max_subscribers=self.max_subscribers,
            max_subscribers_per_address=self.max_subscribers_per_address,
            max_patterns=self.max_patterns,
            max_replays=self.max_replays,
            retention=Retention(
                events=self.retain_events,
                age=self.retain_age,
                bytes=self.retain_bytes,
                kept_topics=self.max_kept[0],
                kept_bytes=self.max_kept[1],
            ),
            retain=self.retain,
            limits=Limits(
                queue_events=self.queue_events,
                queue_bytes=self.queue_bytes,
                heartbeat=self.heartbeat,
                retry=self.retry,
                drain=self.drain,
            ),
        )


def is_secret(name: str) -> bool:
    """Whether a setting is a secret. Secrets are read from the environment only: every user of a machine can see its
    command lines."""
    return name.endswith("_secret")


def option(name: str) -> str:
    """Return a setting's name on the command line."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """Return a setting's name in the environment."""
    return f"{Settings.model_config['env_prefix']}{name}".upper()


def option_and_variable(name: str) -> str:
    """Return where a setting is set, as errors name it."""
    return variable(name) if is_secret(name) else f"{option(name)} ({variable(name)})"
