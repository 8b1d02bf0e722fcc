"""Image-quality gates detect injected faults and raise no alarm without one."""

from contextlib import ExitStack

import pytest

from tests.support.sabotage.images import SABOTAGES, Sabotage, bench

UNMODIFIED_RUNS = 3  # the step error, which is cheaper, has ten
SMALL = 192  # the mini family's images of half its usual side are flat


@pytest.fixture(scope="module")
def unmodified():
    """Yield a function that returns the bench of a sabotage, and its gates before any fault.

    Sabotages of one model and the same optimizations share a bench: each undoes its fault.
    """
    shared = {}
    with ExitStack() as stack:

        def bench_of(sabotage):
            key = (sabotage.model, sabotage.optimizations)
            if key not in shared:
                built = stack.enter_context(bench(sabotage, side=SMALL))
                shared[key] = (built, built.seen())
            return shared[key]

        yield bench_of


@pytest.mark.slow
@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda s: s.name)
def test_the_expected_gates_detect_a_fault(sabotage, unmodified):
    right, before = unmodified(sabotage)
    with sabotage.fault(right.built.pipeline):
        found = right.seen()
    assert not any(before.values()), "a gate fails on the unmodified pipeline"
    assert set(sabotage.seen_by) <= {gate for gate, problems in found.items() if problems}


@pytest.mark.slow
def test_a_fault_is_undone_before_the_next(unmodified):
    right, _ = unmodified(SABOTAGES[0])
    assert not any(right.seen().values())


@pytest.mark.slow
def test_unmodified_runs_raise_no_alarm():
    nothing = Sabotage(
        name="none",
        fault=lambda pipeline: None,
        seen_by=(),
        optimizations=("fused_projections", "sdpa", "channels_last"),
    )
    with bench(nothing, side=SMALL) as right:
        assert not any(problem for _ in range(UNMODIFIED_RUNS) for problem in right.seen().values())
