"""The judge is judged: it has to catch a server that drops, swaps, doubles, or keeps quiet about a gap."""

from __future__ import annotations

from tests.judge import Announced, Entry, Got, judge

ACKNOWLEDGED = [(place, f"e-{place}") for place in range(1, 10_001)]
WHOLE: list[Entry] = [Got(id) for _, id in ACKNOWLEDGED]


def test_a_whole_account_is_good() -> None:
    assert judge(ACKNOWLEDGED, WHOLE).good


def test_one_dropped_in_ten_thousand_is_caught() -> None:
    assert judge(ACKNOWLEDGED, WHOLE[:6_000] + WHOLE[6_001:]).lost == ["e-6001"]
    assert judge(ACKNOWLEDGED, WHOLE[:-1]).lost == ["e-10000"]
    assert judge(ACKNOWLEDGED, WHOLE[1:]).lost == ["e-1"]


def test_two_swapped_are_caught() -> None:
    swapped = [*WHOLE[:500], WHOLE[501], WHOLE[500], *WHOLE[502:]]
    verdict = judge(ACKNOWLEDGED, swapped)
    assert verdict.reordered == ["e-501"]
    assert not verdict.good


def test_one_doubled_is_caught() -> None:
    assert judge(ACKNOWLEDGED, [*WHOLE[:500], WHOLE[499], *WHOLE[500:]]).doubled == ["e-500"]
    assert judge(ACKNOWLEDGED, [*WHOLE, WHOLE[0]]).doubled == ["e-1"]


def test_a_gap_that_is_left_out_is_caught_and_one_that_is_announced_is_not_a_loss() -> None:
    missing = WHOLE[:100] + WHOLE[200:]
    assert len(judge(ACKNOWLEDGED, missing).lost) == 100
    assert judge(ACKNOWLEDGED, [*WHOLE[:100], Announced(100, 200), *WHOLE[200:]]).good
    assert judge(ACKNOWLEDGED, [*WHOLE[:100], Announced(100, 199), *WHOLE[200:]]).lost == ["e-200"]
    assert judge(ACKNOWLEDGED, [*WHOLE[:100], Announced(101, 200), *WHOLE[200:]]).lost == ["e-101"]


def test_an_event_nobody_published_is_caught_unless_its_publisher_had_no_answer() -> None:
    assert judge(ACKNOWLEDGED, [*WHOLE, Got("x-1")]).unexpected == ["x-1"]
    assert judge(ACKNOWLEDGED, [*WHOLE, Got("x-1")], indeterminate={"x-1"}).good
