"""The judge is judged: it has to catch a server that drops, swaps, doubles, or keeps quiet about a gap."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.support.judge import Announced, Entry, Got, Verdict, judge
from tests.support.traffic import Chronicle, Follower, data_of

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


# From what a reader is sent over two epochs, of which the second begins where the first had gone on, to the verdict.

KEPT, LOST = [f"a-{seq}" for seq in range(1, 6)], [f"a-{seq}" for seq in range(6, 9)]
NEW = [f"b-{seq}" for seq in range(6, 12)]
GAP = '{"requested": "a-7", "resumed_from": "b-5", "reason": "unknown"}'
SENT = [*[("message", id) for id in (*KEPT, *LOST[:2])], ("feed.gap", "b-5"), *[("message", id) for id in NEW]]


def verdict_on(sent: list[tuple[str, str]]) -> Verdict:
    follower = Follower(SimpleNamespace(url=""))
    for type, id in sent:
        follower.take(type, id, GAP if type == "feed.gap" else id)
    chronicle = Chronicle()
    chronicle.note(["a"])
    chronicle.note(["a", "b"])
    ids = sorted({*KEPT, *LOST, *NEW}, key=chronicle.key)
    assert ids == [*KEPT, *LOST, *NEW]
    return judge(list(enumerate(ids, 1)), chronicle.account(follower, ids))


def test_a_reader_that_was_told_of_a_loss_has_a_good_account() -> None:
    assert verdict_on(SENT).good


def test_a_server_that_keeps_quiet_about_a_loss_is_caught() -> None:
    assert verdict_on([each for each in SENT if each[0] != "feed.gap"]).lost == ["a-8"]


def test_a_server_that_drops_doubles_or_swaps_beside_a_loss_is_caught() -> None:
    assert verdict_on(SENT[:3] + SENT[4:]).lost == ["a-4"]
    assert verdict_on(SENT[:8] + SENT[9:]).lost == ["b-6"]
    assert verdict_on(SENT[:9] + SENT[8:]).doubled == ["b-6"]
    assert verdict_on([*SENT[:8], SENT[9], SENT[8], *SENT[10:]]).reordered == ["b-6"]


def test_an_event_under_an_id_that_is_known_as_another_is_caught() -> None:
    assert data_of({"a-1": "x"}, {"a-1": "x", "a-2": "y"}) == {"a-1": "x", "a-2": "y"}
    with pytest.raises(AssertionError, match="a-1 is 'x' and 'y'"):
        data_of({"a-1": "x"}, {"a-1": "y"})
