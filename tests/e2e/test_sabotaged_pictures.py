"""The gates of image quality see what they should, and nothing where there is nothing to see."""

import pytest

from tests.support.sabotage.pictures import SABOTAGES, Sabotage, bench

UNMODIFIED_RUNS = 10


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda s: s.name)
def test_a_fault_is_seen_by_the_gates_that_should_see_it(sabotage):
    with bench(sabotage) as right:
        before = right.seen()
        with sabotage.fault(right.built.pipeline):
            seen = right.seen()
    assert not any(before.values()), "an unmodified pipeline raises an alarm"
    assert set(sabotage.seen_by) <= {gate for gate, wrong in seen.items() if wrong}


def test_unmodified_runs_raise_no_alarm():
    nothing = Sabotage(
        name="none",
        fault=lambda pipeline: None,
        seen_by=(),
        optimizations=("fused_projections", "sdpa", "channels_last"),
    )
    with bench(nothing) as right:
        assert [any(right.seen().values()) for _ in range(UNMODIFIED_RUNS)] == [False] * 10
