"""A live-update feed: publish events to topics, and every subscriber gets them at once, in one order, and is told where
events are missing.

    async with Feed("sqlite:shop.db") as feed:
        await feed.publish("orders/1", {"total": 3}, type="created")
        async with feed.subscribe("orders/*", after=EARLIEST) as events:
            async for event in events:
                ...

`feed.client` has the same calls over HTTP. `feed.fastapi` serves a feed inside a FastAPI application, and `feed_server`
is a server of its own. The names in `__all__` are the library's API; what else lies in the modules of `feed` may change
with any version. Nothing here imports a web framework.
"""

from feed.control import Gap
from feed.errors import (
    Draining,
    FeedError,
    FeedUnavailable,
    Forbidden,
    Indeterminate,
    InsufficientStorage,
    Invalid,
    LogRefused,
    Malformed,
    NoEvents,
    Overloaded,
    PreconditionFailed,
    RequestError,
    TooLarge,
    Unauthenticated,
)
from feed.event import Draft, Event
from feed.event import value_draft as draft
from feed.feed import Feed
from feed.log.classes import Keep, Retention
from feed.options import FeedOptions, Limits
from feed.pages import EARLIEST, Page, TopicInfo
from feed.pattern import select
from feed.statistics import Statistics
from feed.subscription import Subscription

__all__ = [
    "EARLIEST",
    "Draft",
    "Draining",
    "Event",
    "Feed",
    "FeedError",
    "FeedOptions",
    "FeedUnavailable",
    "Forbidden",
    "Gap",
    "Indeterminate",
    "InsufficientStorage",
    "Invalid",
    "Keep",
    "Limits",
    "LogRefused",
    "Malformed",
    "NoEvents",
    "Overloaded",
    "Page",
    "PreconditionFailed",
    "RequestError",
    "Retention",
    "Statistics",
    "Subscription",
    "TooLarge",
    "TopicInfo",
    "Unauthenticated",
    "draft",
    "select",
]
