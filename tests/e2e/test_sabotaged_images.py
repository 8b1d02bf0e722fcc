"""Image-quality gates detect injected faults and raise no alarm without one."""

import pytest

from tests.support.sabotage.images import SABOTAGES, Sabotage, bench

UNMODIFIED_RUNS = 10


@pytest.mark.slow
@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda s: s.name)
def test_the_expected_gates_detect_a_fault(sabotage):
    with bench(sabotage) as right:
        before = right.seen()
        with sabotage.fault(right.built.pipeline):
            seen = right.seen()
    assert not any(before.values()), "a gate fails on the unmodified pipeline"
    assert set(sabotage.seen_by) <= {gate for gate, wrong in seen.items() if wrong}


@pytest.mark.slow
def test_unmodified_runs_raise_no_alarm():
    nothing = Sabotage(
        name="none",
        fault=lambda pipeline: None,
        seen_by=(),
        optimizations=("fused_projections", "sdpa", "channels_last"),
    )
    with bench(nothing) as right:
        assert [any(right.seen().values()) for _ in range(UNMODIFIED_RUNS)] == [False] * 10
