"""A live-update feed: publish events to topics, and every subscriber gets them at once, in one order, none silently
lost. `feed.fastapi` serves it over HTTP in anybody's application, `feed_server` by itself. What is imported
here knows no web framework.
"""

from feed.control import Gap
from feed.errors import (
    Draining,
    FeedError,
    FeedUnavailable,
    Forbidden,
    Indeterminate,
    Invalid,
    LogRefused,
    Malformed,
    Overloaded,
    RequestError,
    TooLarge,
    Unauthenticated,
)
from feed.event import Draft, Event
from feed.event import value_draft as draft
from feed.feed import Feed
from feed.history import EARLIEST, HistoryPage
from feed.log import Retention
from feed.options import FeedOptions, Limits
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
    "HistoryPage",
    "Indeterminate",
    "Invalid",
    "Limits",
    "LogRefused",
    "Malformed",
    "Overloaded",
    "RequestError",
    "Retention",
    "Statistics",
    "Subscription",
    "TooLarge",
    "Unauthenticated",
    "draft",
    "select",
]
