"""The noise model, comparisons and verdicts: detection, false alarms, and direction."""

import dataclasses
import math
import random
import statistics
import time
from types import SimpleNamespace

import pytest

from fluxfast.bench.baselines.baseline import INTERIM_ANALYSES
from fluxfast.bench.baselines.lookup import find_baseline
from fluxfast.bench.measurement.counters import counters
from fluxfast.bench.verdicts.comparison import Change, Comparison, compare_sides
from fluxfast.bench.verdicts.counters import COUNTERS
from fluxfast.bench.verdicts.estimate import Estimate, estimate
from fluxfast.bench.verdicts.metrics import PERFORMANCE_METRICS, metric_named
from fluxfast.bench.verdicts.noise import PRIOR_DOF, Noise, noise_of, noises
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.process import Process, relative_deviation
from fluxfast.bench.verdicts.tables import failure_text
from fluxfast.bench.verdicts.verdict import decide
from fluxfast.optimizations.base import ProfiledStep
from fluxfast.profiling.evidence import dynamo_counters
from tests.support.machines import CPU
from tests.support.processes import process, processes
from tests.support.results import case, result

STEP = metric_named("step_ms")
WHOLE = metric_named("e2e_s")


def verdict(measured, accepted, noise=None):
    return decide([compare_sides(measured, accepted, noise or noises([accepted]))])[0]


QUIET = noises([processes(seed=n) for n in range(8)])


@pytest.mark.parametrize(
    ("factor", "outcome"),
    [(1.0, "same"), (1.003, "same"), (1.03, "slower"), (0.97, "faster"), (3.0, "slower")],
)
def test_a_change_is_judged_in_the_right_direction(factor, outcome):
    found = verdict([process(100 * factor, seed=77)], processes(), QUIET)
    assert found.outcome == outcome, found.reason
    assert found.passes is (outcome != "slower")
    if outcome != "same":
        assert "denoising step: step_ms" in found.reason and "95% interval" in found.reason


def test_the_direction_belongs_to_the_metric():
    throughput = dataclasses.replace(STEP, name="images_per_s", lower_is_better=False)
    slower = estimate(throughput, [process(80.0)], processes(), QUIET["step_ms"])
    assert slower.effect > 0 and slower.p_worse < 1e-6
    change = Change(metric=throughput, measured=80.0, baseline=100.0, estimate=slower)
    assert change.relative == pytest.approx(-0.2, abs=0.01) and change.worse > 0.2
    assert decide([Comparison(changes=(change,))])[0].outcome is Outcome.SLOWER


def test_an_undetectable_change_is_undecided_and_reports_the_mdc():
    noisy = processes(between=0.03)
    found = verdict([process(101.0, seed=5)], noisy, noises([processes(between=0.03, seed=9)] * 3))
    assert found.outcome is Outcome.UNDECIDED and not found.passes and not found.is_judged
    assert "not allowed to gate: the minimum detectable change is" in found.reason


def test_more_interim_analyses_raise_the_mdc_of_each():
    unsure = Estimate(effect=0.0, error=0.01, dof=20)
    change = Change(metric=STEP, measured=1.0, baseline=1.0, estimate=unsure)
    for analyses in (1, 12):
        found = decide([Comparison(changes=(change,))], analyses)[0]
        assert (
            f"minimum detectable change is {unsure.minimum_detectable_change(0.001 / analyses):.1%}"
            in found.reason
        )


def test_a_case_that_may_not_gate_still_detects_a_large_change():
    found = verdict([process(200.0)], processes(between=0.03), noises([processes(between=0.03)]))
    assert found.outcome is Outcome.SLOWER


def test_more_images_reduce_the_noise_within_and_more_processes_both_parts():
    noise = Noise(between_processes=0.01, dof=20)
    few, many = (process(images=n, noise=0.05, seed=1) for n in (3, 40))
    errors = [
        estimate(STEP, measured, processes(noise=0.05), noise).error
        for measured in ([few], [many], [many] * 4)
    ]
    assert errors[0] > errors[1] > errors[2] > 0.01 * math.sqrt(1 / 4 + 1 / 3) * 0.99


def test_a_delayed_image_does_not_hide_a_slowdown():
    """The median changes little; with a standard deviation the case would detect nothing."""
    calm = [process(images=12, noise=0.02, seed=n) for n in range(3)]
    held = [dataclasses.replace(calm[0], images=(slow(calm[0].images[0]), *calm[0].images[1:]))]
    noise = Noise(between_processes=0.01, dof=20)
    quiet = estimate(STEP, [calm[0]], calm[1:], noise).error
    assert estimate(STEP, held, calm[1:], noise).error < 1.2 * quiet


def timed(e2e_s):
    """Return a process whose images took these seconds."""
    drawn = process(images=len(e2e_s))
    images = zip(drawn.images, e2e_s, strict=True)
    return dataclasses.replace(
        drawn, images=tuple(dataclasses.replace(image, e2e_s=s) for image, s in images)
    )


def calm(images=8, seed=0, level=1.0):
    draw = random.Random(f"calm {seed}")
    return [level * draw.gauss(1, 0.003) for _ in range(images)]


def of_whole_image(measured, accepted, metric=WHOLE):
    noise = Noise(between_processes=0.003, dof=40)  # of an H200
    return estimate(metric, [timed(measured)], [timed(one) for one in accepted], noise)


def as_if_independent(found):
    return dataclasses.replace(found, halves=())


def width(found):
    low, high = found.interval()
    return high - low


def outcome_of(found):
    change = Change(metric=WHOLE, measured=1.0, baseline=1.0, estimate=found)
    return decide([Comparison(changes=(change,))], INTERIM_ANALYSES)[0].outcome


@pytest.mark.parametrize(
    "slower_by",
    [
        pytest.param(lambda image: 0.05 * (image >= 6), id="a step"),
        pytest.param(lambda image: 0.005 * image, id="a ramp"),
    ],
)
def test_a_drifting_process_is_less_certain_than_its_images_in_random_order(slower_by):
    """The scatter of the images is the same in any order."""
    drifting = [s * (1 + slower_by(n)) for n, s in enumerate(calm(12))]
    accepted = [calm(12, seed) for seed in (1, 2, 3)]
    draw = random.Random(0)
    orders = [draw.sample(drifting, len(drifting)) for _ in range(100)]
    found = of_whole_image(drifting, accepted)
    shuffled = [of_whole_image(order, accepted) for order in orders]
    assert width(found) > 1.3 * statistics.fmean(map(width, shuffled))
    assert found.p_worse > statistics.median(one.p_worse for one in shuffled)
    assert found.minimum_detectable_change(0.001) > as_if_independent(
        found
    ).minimum_detectable_change(0.001)
    assert width(as_if_independent(found)) == pytest.approx(width(as_if_independent(shuffled[0])))


IMAGES_A_SECOND = dataclasses.replace(
    WHOLE, lower_is_better=False, samples=lambda result: [1 / i.e2e_s for i in result.images]
)


@pytest.mark.parametrize("metric", [WHOLE, IMAGES_A_SECOND], ids=["seconds", "images a second"])
@pytest.mark.parametrize(
    ("moved", "factor", "of_all", "outcome"),
    [
        pytest.param(range(7), 0.85, Outcome.FASTER, Outcome.SAME, id="fast at first"),
        pytest.param(range(7, 12), 1.15, Outcome.SAME, Outcome.UNDECIDED, id="slow at last"),
        pytest.param(range(7), 1.15, Outcome.SLOWER, Outcome.UNDECIDED, id="slow at first"),
    ],
)
def test_a_change_in_one_half_only_is_not_concluded(metric, moved, factor, of_all, outcome):
    measured = [s * (factor if n in moved else 1.0) for n, s in enumerate(calm(12))]
    found = of_whole_image(measured, [calm(12, seed) for seed in (1, 2, 3)], metric)
    assert outcome_of(as_if_independent(found)) is of_all
    assert outcome_of(found) is outcome and found.drifts
    low, high = found.interval()
    assert low < 0 < high or outcome is Outcome.SAME


@pytest.mark.parametrize("images", [3, 4, 5])
def test_one_delayed_image_of_few_is_no_drift(images):
    """The baseline of the H200 has cases with so few images."""
    held_up = calm(images)
    held_up[-1] *= 1.4
    found = of_whole_image(calm(images, 9, level=1.15), [held_up])
    assert not found.drifts and outcome_of(found) is Outcome.SLOWER


def test_a_drift_that_all_processes_share_cancels():
    warming = [[s * (1 + 0.005 * n) for n, s in enumerate(calm(8, seed))] for seed in range(4)]
    found = of_whole_image(warming[0], warming[1:])
    assert width(found) == pytest.approx(width(as_if_independent(found)), rel=0.1)


@pytest.mark.parametrize("images", [3, 5, 8, 16])
def test_the_halves_do_not_widen_the_interval_of_stable_processes(images):
    drawn = [
        of_whole_image(calm(images, n), [calm(images, 1000 * k + n) for k in (1, 2, 3)])
        for n in range(300)
    ]
    wider = [width(one) / width(as_if_independent(one)) for one in drawn]
    assert statistics.fmean(wider) < 1.02 and statistics.quantiles(wider, n=20)[-1] < 1.1


def test_two_delayed_images_are_no_drift():
    accepted = [calm(12, seed) for seed in (1, 2, 3)]
    held_up = [3 * s if n in (2, 3) else s for n, s in enumerate(calm(12))]
    quiet = of_whole_image(calm(12), accepted)
    assert width(of_whole_image(held_up, accepted)) < 1.2 * width(quiet)


def test_a_host_that_becomes_slow_during_sampling_is_no_regression():
    """Recorded on an H200: the unoptimized schnell, the same code in three processes."""
    slow_host = [0.8134, 0.8042, 0.8419, 0.8364, 0.8380, 0.8371, 0.8419]
    others = (
        [0.7963, 0.7934, 0.7952, 0.7937, 0.7941, 0.7950, 0.7982],
        [0.8007, 0.7967, 0.7975, 0.7945, 0.7960, 0.8094, 0.8271],
    )
    found = of_whole_image(slow_host, others)
    assert outcome_of(found) is Outcome.SAME
    assert outcome_of(as_if_independent(found)) is Outcome.SLOWER
    in_another_order = [*slow_host[2:5], *slow_host[:2], *slow_host[5:]]
    assert outcome_of(of_whole_image(in_another_order, others)) is Outcome.SLOWER


def test_a_slowdown_in_both_halves_is_detected_in_spite_of_drift():
    held_up = [s * (1.2 if n < 4 else 1.0) for n, s in enumerate(calm(14, level=1.1))]
    found = of_whole_image(held_up, [calm(8, 1), calm(8, 2)])
    assert outcome_of(found) is Outcome.SLOWER
    assert found.interval()[1] > as_if_independent(found).interval()[1] + 0.1


def slow(image):
    return dataclasses.replace(image, step_ms=tuple(3 * ms for ms in image.step_ms))


def test_the_noise_between_processes_is_separated_from_that_within():
    cases = [processes(count=12, between=0.02, noise=0.01, seed=n) for n in range(6)]
    noise = noise_of(STEP, cases)
    assert noise.dof == PRIOR_DOF + 66 and noise.between_processes == pytest.approx(0.02, rel=0.2)
    same = noise_of(STEP, [processes(count=12, between=0.0, noise=0.02, seed=n) for n in range(6)])
    assert same.between_processes < 0.004


def on(card, step_ms=100.0, seed=0, **changes):
    """Return a process of the GPU `card`; an empty name is a GPU without a UUID."""
    environment = {**result().environment, "gpu": {"uuid": card}}
    return process(step_ms, seed=seed, environment=environment, **changes)


def test_cards_differ_more_than_the_processes_of_one_card():
    cases = [[on(c, 100 + (c == "b"), 10 * n + k) for k, c in enumerate("aab")] for n in range(6)]
    noise = noise_of(STEP, cases)
    assert noise.between_processes < 0.003 < noise.between_cards == pytest.approx(0.007, rel=0.3)
    accepted = [on("a", 100, seed) for seed in (81, 82, 83)]
    same, other = (estimate(STEP, [on(c, 100, 84)], accepted, noise) for c in "ac")
    assert same.minimum_detectable_change(0.001) < 0.02 < other.minimum_detectable_change(0.001)
    half = noise.standard_error(
        *([Process(samples=(1.0,), card=c) for c in s] for s in ("ac", "aa"))
    )
    assert half[0] == pytest.approx(
        math.hypot(noise.between_processes, noise.between_cards / math.sqrt(2))
    )


def test_a_card_of_the_baseline_is_compared_with_itself(tmp_path):
    """The other card of the baseline is 2% slower, so its processes would blur the comparison."""
    cases = [
        [
            on(c, 102 if c == "b" else 100, 10 * n + k, case=case(batch_size=n + 1))
            for k, c in enumerate("aab")
        ]
        for n in range(8)
    ]
    empty = dataclasses.replace(find_baseline("h200"), results={}, path=tmp_path / "made.json")
    baseline = empty.accept([one for of_case in cases for one in of_case])

    def outcome(card, step_ms):
        return baseline.judge([on(card, step_ms, 99, case=case(batch_size=1))]).outcome

    assert outcome("b", 102) is Outcome.SAME
    assert outcome("b", 104) is outcome("a", 102) is Outcome.SLOWER
    assert outcome("c", 102) is Outcome.UNDECIDED


@pytest.mark.parametrize(
    ("work", "clock", "outcome"),
    [
        (1.0, 1.0, Outcome.SAME),
        (1.0, 0.99, Outcome.SAME),
        (1.0, 1.01, Outcome.SAME),
        (1.02, 1.0, Outcome.SLOWER),
        (1.02, 1.01, Outcome.SLOWER),  # a fast card does not hide more work
        (1.02, None, Outcome.UNDECIDED),
    ],
)
def test_cycles_decide_on_a_card_that_the_baseline_does_not_know(work, clock, outcome):
    """Cards differ in their clock by 2%, and in the cycles of the same work hardly."""

    def timed(card, pace, seed, work=1.0):
        clock_mhz = 1500 * pace if clock else None
        return on(card, 100 * work / pace, seed, clock_mhz=clock_mhz)

    cards = {"a": 1.0, "b": 0.99, "c": 1.01, "d": 1.005}
    accepted = [
        timed(c, pace, 10 * n + k) for n, (c, pace) in enumerate(cards.items()) for k in range(3)
    ]
    found = verdict([timed("new", clock or 1.0, 99, work)], accepted)
    assert found.outcome is outcome, found.reason
    if outcome is Outcome.SLOWER:
        assert "step_mcycles" in found.reason


def test_a_few_noisy_images_do_not_hide_the_difference_of_cards():
    cases = [
        [on(f"a{n}", seed=10 * n + k) for k in range(3)]
        + [on(f"b{n}", 101, images=3, noise=0.01, seed=2 * n)]
        for n in range(20)
    ]
    plain = [[*case[:3], on(f"b{n}", 101, seed=n)] for n, case in enumerate(cases)]
    cards, expected = (noise_of(STEP, of).between_cards for of in (cases, plain))
    assert expected == pytest.approx(0.01 / math.sqrt(2), rel=0.1)
    assert cards == pytest.approx(expected, rel=0.3)


def test_more_cases_of_the_same_cards_add_no_degrees_of_freedom():
    two = [[on(c, 100 + (c == "b"), 10 * n + k) for k, c in enumerate("aab")] for n in range(6)]
    assert noise_of(STEP, two).cards_dof == PRIOR_DOF + 1
    assert noise_of(STEP, [*two, [on("c"), on("d")]]).cards_dof == PRIOR_DOF + 2
    assert noise_of(STEP, [*two, [on("b"), on("c")]]).cards_dof == PRIOR_DOF + 2
    assert noise_of(STEP, [[on("a")] * 3, [on("b")] * 3]).cards_dof == PRIOR_DOF


def test_a_gpu_without_a_uuid_is_a_card_of_its_own():
    unknown = [on("", seed=seed) for seed in range(3)]
    noise = noise_of(STEP, [unknown])
    assert (noise.dof, noise.cards_dof) == (PRIOR_DOF, PRIOR_DOF + 2)
    errors = [estimate(STEP, side, unknown, noise).error for side in ([on("")], [on("a")])]
    assert errors[0] == pytest.approx(errors[1], rel=0.01)
    assert errors[0] > noise.between_cards * math.sqrt(1 + 1 / 3)
    cpu = {"environment": {"hardware": CPU.to_json()}, "reference_e2e_s": (3.0,) * 8}
    ratio = noise_of(metric_named("eager_ratio"), [[process(seed=n, **cpu) for n in range(3)]])
    assert (ratio.dof, ratio.cards_dof) == (PRIOR_DOF + 2, PRIOR_DOF)


def test_a_process_of_few_images_is_less_certain():
    few, many = (Process(samples=(0.98, 1.0, 1.02) * n, card="a") for n in (1, 100))
    noise = Noise(between_processes=1e-9, dof=20)
    even, uneven = (noise.standard_error(side, [many])[0] for side in ([many, many], [few, many]))
    assert uneven == pytest.approx(even * math.sqrt((1 / 3 / 4 + 5 / 1200) / (3 / 600)), rel=0.05)


def test_a_baseline_of_one_process_has_the_prior_noise():
    alone = noise_of(STEP, [[process()]])
    assert alone.between_processes == pytest.approx(STEP.noise) and alone.dof == PRIOR_DOF


def test_a_change_that_the_canaries_explain_is_no_change():
    """The clocks of two GPUs differ by 2%; steps and canaries follow the clock."""

    def at(clock, seed, step_ms=100.0):
        canaries = {"gemm_ms": (10 / clock,) * 2, "attention_ms": (5 / clock,) * 2}
        return process(step_ms / clock, seed=seed, canaries=canaries)

    cases = [[at(clock, 10 * n + k) for k, clock in enumerate((1, 1.02, 0.99))] for n in range(6)]
    noise = noises(cases)
    assert noise["step_ms"].slope > 0.9 and noise["step_ms"].between_processes < 0.004
    slow_clock = verdict([at(0.98, 91)], cases[0], noise)
    assert slow_clock.outcome is Outcome.SAME, slow_clock.reason
    slow_code = verdict([at(0.98, 92, step_ms=102.5)], cases[0], noise)
    assert slow_code.outcome is Outcome.SLOWER
    assert noises([processes(seed=n) for n in range(6)])["step_ms"].slope == 0.0


def test_the_error_of_the_slope_follows_from_its_residuals():
    def cases(noise):
        draw = random.Random(0)
        return [
            [
                process(100 * clock * draw.gauss(1, noise), canaries={"gemm_ms": (clock,)})
                for clock in (1.0, 1.02, 0.99)
            ]
            for _ in range(40)
        ]

    spread = 40 * statistics.variance(map(math.log, (1.0, 1.02, 0.99))) * 2
    for noise in (0.003, 0.01):
        found = noise_of(STEP, cases(noise))
        assert found.slope_error == pytest.approx(noise / math.sqrt(spread), rel=0.25)
        assert (found.slope_dof, found.dof) == (79, PRIOR_DOF + 80)


def test_p_values_are_adjusted_for_many_cases():
    """One p-value of 0.0008 among sixty is chance; the same in each of sixty is not."""

    def comparison(effect):
        change = Estimate(effect=effect, error=0.005, dof=1000)
        return Comparison(
            changes=(Change(metric=STEP, measured=1 + effect, baseline=1.0, estimate=change),)
        )

    slow, same = comparison(0.005 * 3.16), comparison(0.0)
    assert decide([slow])[0].outcome is Outcome.SLOWER
    assert decide([slow] + [same] * 59)[0].outcome is not Outcome.SLOWER
    assert decide([slow], to_come=59)[0].outcome is not Outcome.SLOWER
    assert {v.outcome for v in decide([slow] * 60)} == {Outcome.SLOWER}


def test_a_metric_is_compared_only_if_both_sides_have_it():
    gone = [process(compiles=False, peak_memory_gib=None)]
    names = [c.metric.name for c in compare_sides(gone, processes(), QUIET).changes]
    assert names == ["e2e_s", "step_ms", "decode_ms"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"counters": {"graph_breaks": 1}}, "0 → 1 graph breaks: more is worse: "),
        ({"peak_memory_gib": 26.0}, "peak_memory_gib 26.00 GiB, was 25.00: +4.0%"),
        ({"package_mib": 4.0}, "package_mib 4.0 MiB, was 3.0"),
    ],
)
def test_a_worse_counter_fails_even_if_no_time_changed(change, told):
    accepted = processes(package_mib=3.0)
    found = verdict([process(seed=9, **({"package_mib": 3.0} | change))], accepted, QUIET)
    assert found.outcome is Outcome.BROKEN and told in found.reason


# Counters of the accepted side. The measured side changes one, or the kernels.
COUNTED = {
    "launches_in_a_step": 865,
    "graph_replays_in_a_step": 1,
    "cached_steps": 17,
    "host_syncs_in_a_step": 1,
    "graphs_compiled_after_warmup": 1,
    "graph_breaks": 1,
    "unique_graphs": 2,
}
OTHER_KERNEL = {"kernels": {"gemm": ("cutlass",)}}


@pytest.mark.parametrize("counter", COUNTERS, ids=lambda counter: counter.name)
@pytest.mark.parametrize("more", [True, False])
def test_a_counter_fails_in_its_worse_direction_and_is_a_change_in_the_other(counter, more):
    accepted = processes(counters=COUNTED)
    now = COUNTED[counter.name] + (1 if more else -1)
    changed = process(86.0, seed=9, counters=COUNTED | {counter.name: now})
    found = verdict([changed], accepted, QUIET)
    is_worse = more is (counter.worse == "more")
    assert found.outcome is (Outcome.BROKEN if is_worse else Outcome.CHANGED), found.reason
    assert found.worse_names == ((counter.name,) if is_worse else ())
    assert found.reason.startswith(f"{COUNTED[counter.name]} → {now} {counter.noun}")
    assert "denoising step: step_ms 86" in found.reason  # faster, which makes no counter better
    assert found.headline.startswith(f"{COUNTED[counter.name]} → {now} {counter.noun}, ")


@pytest.mark.parametrize("change", [{"counters": {"graph_breaks": 0}}, OTHER_KERNEL], ids=str)
@pytest.mark.parametrize(
    ("step_ms", "between", "outcome", "clock"),
    [
        (86.0, 0.001, Outcome.CHANGED, "denoising step -13.9%"),
        (100.0, 0.001, Outcome.CHANGED, "as fast as before"),
        (110.0, 0.001, Outcome.SLOWER, "denoising step +10"),
        (100.0, 0.03, Outcome.UNDECIDED, ""),
    ],
)
def test_a_change_in_a_step_passes_if_the_clock_is_the_same_or_better(
    change, step_ms, between, outcome, clock
):
    same = {"counters": {"graph_breaks": 2}, "kernels": {"gemm": ("nvjet",)}}
    accepted = processes(between=between, **same)
    noise = QUIET if between == 0.001 else None
    found = verdict([process(step_ms, seed=9, **(same | change))], accepted, noise)
    assert found.outcome is outcome, found.reason
    assert str(found.step_changes[0]) in found.reason
    assert clock in found.headline and bool(found.headline) is found.is_judged


def test_an_invalid_runner_is_no_change():
    accepted = processes(counters={"graph_breaks": 2}, canaries={"gemm_ms": (10.0, 10.0)})
    found = verdict([process(canaries={"gemm_ms": (11.0, 11.0)})], accepted, QUIET)
    assert found.outcome is Outcome.INVALID_RUNNER and "2 → 0 graph breaks" in found.reason


def test_a_counter_of_another_version_fails_however_it_changed():
    """Nothing is known of its direction, neither here nor by a report on older results."""
    accepted = processes(counters={"spills": 7})
    found = verdict([process(seed=9, counters={"spills": 6})], accepted, QUIET)
    assert found.outcome is Outcome.BROKEN and found.worse_names == ("spills",)
    assert verdict([process(seed=9)], processes(counters={}), QUIET).outcome is Outcome.SAME


def test_every_counter_that_is_counted_is_judged():
    evidence = SimpleNamespace(cached_steps=0, step=ProfiledStep())
    counted = counters(evidence, dynamo_counters(), 0)
    assert counted.keys() == {counter.name for counter in COUNTERS} == COUNTED.keys()


def test_the_remedy_works_where_it_is_read():
    """A comparison stores nothing that could be accepted; a baseline has no pull request."""
    accepted = processes(counters={"graph_breaks": 1})
    for now, outcome in ((2, Outcome.BROKEN), (0, Outcome.CHANGED)):
        found = verdict([process(seed=9, counters={"graph_breaks": now})], accepted, QUIET)
        stored = failure_text(case(), found)
        compared = failure_text(case(), found, is_against=True)
        assert found.outcome is outcome
        assert "fluxfast baseline accept" in stored and "perf-ok" not in stored
        assert ("`perf-ok: REASON`" in compared) is (outcome is Outcome.BROKEN)
        assert ("REASON names graph_breaks" in compared) is (outcome is Outcome.BROKEN)
        assert ("nightly run proposes" in compared) is (outcome is Outcome.CHANGED)


def test_a_missing_counter_and_one_changed_in_an_earlier_process_fail():
    accepted = processes(counters={"graph_breaks": 0, "cached_steps": 17})
    found = verdict([process(seed=9)], accepted, QUIET)
    assert found.outcome is Outcome.BROKEN
    assert found.reason == "17 → ? cached steps: no longer counted"
    told = verdict([process(counters={"graph_breaks": 2}), process(seed=9)], processes(), QUIET)
    assert told.outcome is Outcome.BROKEN and "0 → 2 graph breaks" in told.reason


def test_a_gpu_that_is_always_throttled_is_an_invalid_runner():
    hot = process(130.0, sampling={"held_back": ["hardware thermal slowdown"] * 4})
    found = verdict([hot], processes(), QUIET)
    assert found.outcome is Outcome.INVALID_RUNNER
    assert "throttled in 4 of" in found.reason and "thermal" in found.reason


def test_a_slowdown_is_reported_with_the_changed_counter():
    found = verdict([process(130.0, counters={"graph_breaks": 57})], processes(), QUIET)
    assert found.outcome is Outcome.BROKEN
    assert found.reason.startswith("0 → 57 graph breaks: more is worse")
    assert "; at the same time slower: " in found.reason
    assert "+3" in found.reason
    assert "remedy" in failure_text(case(), found)


@pytest.mark.parametrize(("now", "outcome"), [(10.2, "slower"), (11.0, "invalid runner")])
def test_a_runner_outside_its_band_is_no_regression(now, outcome):
    accepted = processes(canaries={"gemm_ms": (10.0, 10.0)})
    found = verdict([process(130.0, canaries={"gemm_ms": (now, now)})], accepted, QUIET)
    assert found.outcome == outcome
    if outcome == "invalid runner":
        assert "canary gemm_ms 11, baseline 10: +10%" in found.reason and not found.is_judged


def test_a_cpu_is_judged_by_ratios_alone():
    changes = {"environment": {"hardware": CPU.to_json()}, "reference_e2e_s": (3.0,) * 8}
    measured = [process(pace_ms=(50.0,) * 8, **changes)]
    names = {c.metric.name for c in compare_sides(measured, measured, noises([measured])).changes}
    assert names == {"eager_ratio", "step_pace", "decode_pace", "peak_memory_gib"}


@pytest.mark.slow
def test_false_alarms_and_detection_in_simulated_runs():
    """The noise is normal here; tests/support/replay replays recorded noise."""
    alarms = seen = 0
    for seed in range(300):
        accepted = processes(count=3, between=0.003, seed=seed)
        noise = noises([processes(between=0.003, seed=1000 + seed + n) for n in range(9)])
        same, slow = (processes(100 * f, count=1, between=0.003, seed=-seed) for f in (1, 1.025))
        alarms += verdict(same, accepted, noise).outcome is Outcome.SLOWER
        seen += verdict(slow, accepted, noise).outcome is Outcome.SLOWER
    assert alarms <= 2 and seen >= 270


def test_every_metric_defines_how_it_is_judged():
    assert len({m.name for m in PERFORMANCE_METRICS}) == len(PERFORMANCE_METRICS)
    for metric in PERFORMANCE_METRICS:
        assert metric.tolerance > 0 and metric.unit and metric.stage
        assert (metric.risk is None) == (metric.noise == 0)


def test_the_scatter_of_ten_thousand_images_takes_no_quadratic_time():
    draw = random.Random(1)
    many = Process(samples=[100 * draw.gauss(1, 0.01) for _ in range(10_000)], card="a")
    began = time.process_time()
    assert relative_deviation([many, many]) == pytest.approx(0.01, rel=0.1)
    assert time.process_time() - began < 2  # all pairs: half a minute and gigabytes
