"""The demo's readings: objects of numbers, and rates from two looks at the same counters."""

from __future__ import annotations

from feed_server.cli import demo
from feed_server.cli.demo import Counters


def test_every_reading_is_an_object_of_numbers() -> None:
    readings = demo.readings(demo.counters(), demo.counters())
    assert set(readings) == {"system/cpu", "system/memory", "system/network", "system/disk"}
    for reading in readings.values():
        assert reading
        assert {type(value) for value in reading.values()} <= {int, float}


def test_percentages_are_between_0_and_100() -> None:
    for reading in demo.readings(demo.counters(), demo.counters()).values():
        assert all(0 <= value <= 100 for name, value in reading.items() if name.endswith("percent"))


def test_the_processors_are_shown_together_and_each() -> None:
    reading = demo.cpu()
    cores = [value for name, value in reading.items() if name.startswith("core_")]
    assert cores
    assert min(cores) - 0.1 <= reading["percent"] <= max(cores) + 0.1
    assert {"load_1", "load_5", "load_15"} <= set(reading)


def test_a_rate_is_the_difference_over_the_time_between() -> None:
    before = Counters(at=10.0, sent=100, received=1_000, read=0, written=50)
    now = Counters(at=12.0, sent=300, received=1_001, read=10, written=50)
    network, disk = demo.network(before, now), demo.disk(before, now)
    assert (network["sent_per_second"], network["received_per_second"]) == (100.0, 0.5)
    assert (network["sent"], network["received"]) == (300, 1_001)
    assert (disk["read_per_second"], disk["written_per_second"]) == (5.0, 0.0)


def test_a_counter_that_began_anew_is_no_traffic() -> None:
    before = Counters(at=10.0, sent=100, received=100, read=100, written=100)
    now = Counters(at=11.0, sent=1, received=1, read=1, written=1)
    assert demo.network(before, now)["sent_per_second"] == 0
    assert demo.disk(before, now)["read_per_second"] == 0


def test_two_looks_at_one_moment_divide_by_no_zero() -> None:
    now = Counters(at=10.0, sent=1, received=1, read=1, written=1)
    assert demo.network(now, now)["sent_per_second"] == 0
