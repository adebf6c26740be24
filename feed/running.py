"""What runs while a feed is open, from its log to its streams."""

from __future__ import annotations

import asyncio
import os
import socket

import msgspec

from feed.broadcaster import Broadcaster
from feed.history import History, newest_window
from feed.log import Log, check_log_url, is_shared, open_log
from feed.log.window import Window
from feed.options import FeedOptions
from feed.relay import Relay
from feed.siblings import check_alone
from feed.state import State
from feed.statistics import Counters
from feed.subscription import Shared
from feed.survey import Survey


class Running:
    """An open feed: its log, its broadcaster, and the tasks between them."""

    def __init__(self, log: Log, window: Window, options: FeedOptions, counters: Counters) -> None:
        self.log = log
        self.state = State(log, window)
        self.broadcaster = broadcaster = Broadcaster(window, self.state, options.limits, counters)
        self.survey = Survey(options.node, log, broadcaster)
        replays = asyncio.Semaphore(options.max_replays)
        self.shared = Shared(log, window, self.state, broadcaster.pump, replays, options.limits)
        self.history = History(log, broadcaster, self.state, replays)
        self.relay = Relay(log, broadcaster, self.state, options.limits)
        log.answer_others(self.survey.answer)
        self._tasks = [
            asyncio.create_task(self.relay.follow(), name="feed-relay"),
            asyncio.create_task(self.relay.beat(), name="feed-beat"),
        ]

    @classmethod
    async def start(cls, url: str, options: FeedOptions, counters: Counters, left: Log | None) -> Running:
        """Open the log, or go on with the log that was `left` open."""
        options = msgspec.structs.replace(options, node=options.node or f"{socket.gethostname()}:{os.getpid()}")
        if not is_shared(check_log_url(url)):
            await check_alone(url.partition(":")[0])
        retention = options.retention
        if options.retain:
            retention = msgspec.structs.replace(retention, classes=tuple(options.retain.items()))
        log = left or await open_log(url, retention, options.node)
        try:
            return cls(log, await newest_window(log, options), options, counters)
        except BaseException:
            await log.close()
            raise

    @property
    def lag(self) -> int:
        """How many events are known to be in the log and were not passed on to the subscriptions here yet."""
        return max(0, self.log.position - self.broadcaster.window.position)

    async def stop(self) -> None:
        """Cancel the tasks, then close the log."""
        self.broadcaster.paces.stop()
        for task in self._tasks:
            task.cancel()
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:  # also if the loop is ending and cancels everything
            await self.log.close()
