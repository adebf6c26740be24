"""Which function plays a round of each scenario."""

from __future__ import annotations

from collections.abc import Callable

from feed_server.bench.measure import Load, Round, fan_out, idle, storm
from feed_server.bench.plan import Scenario
from feed_server.bench.state import state

PLAYS: dict[Scenario, Callable[[Load], Round]] = {
    Scenario.FANOUT: fan_out,
    Scenario.PUBLISH: fan_out,
    Scenario.IDLE: idle,
    Scenario.STORM: storm,
    Scenario.STATE: state,
}
