"""P7: readers come, lag, drop and come back while events are published, at every step of the seam."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.seam import Seam


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_p7_nothing_is_lost_doubled_or_reordered_at_the_seam() -> None:
    examples = 3_000 if os.environ.get("FEED_SOAK") else 150
    run_state_machine_as_test(
        Seam,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
