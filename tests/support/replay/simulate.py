"""Simulate runs of cases from recorded samples.

The samples of a simulated process are the level of its case × the effect of a process × the scatter
of an image. Effects are the deviations of all recorded processes from the mean of their case,
scaled up because a mean of few processes absorbs part of the deviation. Scatter is the deviation
of all recorded images of the case from the median of their process, because the three images of one
process are too few. Both are sampled with replacement.
"""

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from scipy.stats import binomtest

from fluxfast.bench.ab.against import PAIRS, is_sure
from fluxfast.bench.baselines.baseline import INTERIM_ANALYSES, on_the_same_cards
from fluxfast.bench.baselines.file import read_baseline
from fluxfast.bench.measurement.limits import why_ended
from fluxfast.bench.verdicts.comparison import Change, Comparison
from fluxfast.bench.verdicts.estimate import estimate
from fluxfast.bench.verdicts.metric import PerformanceMetric
from fluxfast.bench.verdicts.metrics import metric_named
from fluxfast.bench.verdicts.noise import noise_of
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.process import MEDIAN_VARIANCE
from fluxfast.bench.verdicts.verdict import decide

SLOW_HOST = 1.05  # an image of unoptimized schnell on an H200 took 0.84 s, elsewhere 0.80 s
ONE_CARD = "the same for all"  # an empty name would be that of an unknown GPU


@dataclass(frozen=True, kw_only=True)
class Process:
    """The part of a CaseResult that the noise model reads.

    Attributes:
        slow_from: the index of the first image that a slow host delays.
    """

    level: float
    card: str
    slow_from: float = math.inf
    samples: tuple[float, ...] = ()
    canaries: dict = field(default_factory=dict)
    on_gpu: bool = True


@dataclass(frozen=True, kw_only=True)
class Effect:
    """How one recorded process deviates on a log scale: its figure and its canaries."""

    card: str
    level: float
    pace: float


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The recorded samples of one metric.

    Attributes:
        image_s: seconds per image, by case.
        scatter: log samples relative to the median of their process, by case.
        effects: the deviations of the recorded processes, over all cases.
        slow_hosts: share of the judged processes in which the host becomes slow; synthetic, no such
            process was recorded.
        halves: whether the gate compares the halves of a process.
    """

    metric: PerformanceMetric
    image_s: list[float]
    scatter: list[list[float]]
    effects: list[Effect]
    has_canaries: bool
    slow_hosts: float = 0.0
    halves: bool = True


def recording(
    path,
    name,
    group: Callable = lambda result: "",
    cases=lambda case: True,
    pace=None,
    reduced=False,
    judged=lambda result: result,
):
    """Read the recording of the metric called `name`.

    Args:
        path: a baseline file.
        name: the metric.
        group: effects are relative to the mean of the processes of a case in one group, such as a
            GPU.
        cases: selects cases.
        pace: replaces the canaries of a result.
        reduced: subtract from the effects the part that the scatter within a process explains.
            Otherwise the simulation contains that scatter twice and is noisier than reality.
        judged: returns a result with the readings that the comparison may use.
    """
    named = metric_named(name)
    metric = replace(named, samples=lambda result: named.samples(judged(result)))
    image_s, scatter, effects = [], [], []
    for results in read_baseline(path).results.values():
        if len(results) < 3 or not cases(results[0].case):
            continue
        image_s.append(statistics.median(i.e2e_s for result in results for i in result.images))
        logs = [[math.log(x) for x in metric.samples(result)] for result in results]
        scatter.append([x - statistics.median(process) for process in logs for x in process])
        groups: dict = {}
        for process, result in zip(logs, results, strict=True):
            beside = math.log(pace(result)) if pace else 0.0
            seen = (statistics.median(process), beside, result.card or ONE_CARD)
            groups.setdefault(group(result), []).append(seen)
        for members in groups.values():
            effects += _effects(members, one_card=len(groups) > 1)
    if reduced:
        alone = _without_scatter(effects, scatter, read_baseline(path).results.values(), metric)
        effects = [replace(effect, level=effect.level * alone) for effect in effects]
    plain = PerformanceMetric(**{**vars(metric), "samples": lambda process: process.samples})
    return Recording(
        metric=plain,
        image_s=image_s,
        scatter=scatter,
        effects=effects,
        has_canaries=pace is not None,
    )


def _effects(members, one_card):
    if len(members) < 2:
        return []
    larger = math.sqrt(len(members) / (len(members) - 1))
    level, beside = (statistics.fmean(m[i] for m in members) for i in (0, 1))
    return [
        Effect(
            card=ONE_CARD if one_card else card,
            level=(y - level) * larger,
            pace=(x - beside) * larger,
        )
        for y, x, card in members
    ]


def _without_scatter(effects, scatter, cases, metric):
    """Return the share of the effects that remains without the scatter of finitely many images."""
    images = statistics.harmonic_mean([len(metric.samples(r)) for rs in cases for r in rs])
    within = statistics.fmean(x * x for case in scatter for x in case)
    added = MEDIAN_VARIANCE * within / images
    return math.sqrt(max(0.0, 1 - added / statistics.fmean(x.level**2 for x in effects)))


def draw(recorded, case, factor, random_, limits, slow_hosts=0.0):
    """Simulate one process of `case` until the stop rule ends it; `factor` slows it down.

    `slow_hosts` is the probability that the host becomes slow, at any image but the first.
    """
    effect = random_.choice(recorded.effects)
    process = Process(
        level=100.0 * factor * math.exp(effect.level),
        card=effect.card,
        canaries={"gemm_ms": (10.0 * math.exp(effect.pace),) * 2} if recorded.has_canaries else {},
    )
    if slow_hosts and random_.random() < slow_hosts:
        images = max(limits.min_images, math.ceil(limits.min_sampling_s / recorded.image_s[case]))
        process = replace(process, slow_from=random_.randrange(1, images))
    return sampled(process, recorded, case, random_, limits)


def sampled(process, recorded, case, random_, limits):
    """Return the process with images added until the stop rule ends it."""
    scatter, samples = recorded.scatter[case], list(process.samples)
    while not why_ended(samples, len(samples) * recorded.image_s[case], limits):
        host = SLOW_HOST if len(samples) >= process.slow_from else 1.0
        samples.append(process.level * math.exp(random_.choice(scatter)) * host)
    return replace(process, samples=tuple(samples))


def comparison(recorded, measured, accepted, noise):
    found = estimate(recorded.metric, measured, accepted, noise)
    change = Change(
        metric=recorded.metric,
        measured=statistics.median(statistics.median(p.samples) for p in measured),
        baseline=statistics.median(statistics.median(p.samples) for p in accepted),
        estimate=found if recorded.halves else replace(found, halves=()),
    )
    return Comparison(changes=(change,))


def stored_run(recorded, factor, random_, limits):
    """Simulate a run of every case in one process against a baseline of three processes.

    With a factor of 1 all cases are unchanged, otherwise one random case is slowed down. Returns
    the samples of both sides and the outcome, for every case or for the slowed one.
    """
    cases = range(len(recorded.scatter))
    asked = list(cases) if factor == 1 else [random_.choice(cases)]
    accepted = [[draw(recorded, c, 1.0, random_, limits) for _ in range(3)] for c in cases]
    noise = noise_of(recorded.metric, accepted)
    measured = [
        draw(recorded, c, factor if c in asked else 1.0, random_, limits, recorded.slow_hosts)
        for c in cases
    ]

    def compared(c):
        beside = on_the_same_cards([measured[c]], accepted[c])
        return comparison(recorded, [measured[c]], beside, noise)

    def verdicts(chosen):
        return decide(
            [compared(c) for c in chosen],
            INTERIM_ANALYSES,
            to_come=len(cases) - len(chosen),
        )

    for c in asked:
        if verdicts([c])[0].outcome is Outcome.UNDECIDED:
            more = limits.extended(len(measured[c].samples))
            measured[c] = sampled(measured[c], recorded, c, random_, more)
    settled = verdicts(cases)
    return [
        ([x for p in accepted[c] for x in p.samples], measured[c].samples, settled[c].outcome)
        for c in asked
    ]


def stored_rates(recorded, factor, peers, runs, limits, seed=0):
    """Return how often each rule calls a run slower that takes `factor` times as long, and our
    outcomes.
    """
    random_ = random.Random(f"{seed} {factor}")
    called, outcomes = Counter(), Counter()
    while outcomes.total() < runs:
        for old, new, outcome in stored_run(recorded, factor, random_, limits):
            outcomes[outcome] += 1
            called.update(name for name, rule in peers.items() if rule(old, new))
    return {"fluxfast": outcomes[Outcome.SLOWER]} | {n: called[n] for n in peers}, outcomes


def against_run(recorded, factor, random_, limits):
    """Simulate `--against` for one random case: pairs of processes on one machine until sure.

    The run has as many other cases as were recorded. Returns both sides and the outcome.
    """
    case, others = random_.randrange(len(recorded.scatter)), len(recorded.scatter) - 1
    old, new = [], []
    for _ in range(PAIRS):
        old.append(draw(recorded, case, 1.0, random_, limits))
        new.append(draw(recorded, case, factor, random_, limits))
        noise = noise_of(recorded.metric, [old, new])
        compared = [comparison(recorded, new, old, noise)]
        verdict = decide(compared, analyses=PAIRS, to_come=others)[0]
        if is_sure(verdict.outcome, len(new)):
            break
    return old, new, verdict.outcome


def against_rates(recorded, factor, peers, runs, limits, seed=0):
    """Return the same as `stored_rates`, for `--against`."""
    random_ = random.Random(f"{seed} {factor}")
    called, outcomes = Counter(), Counter()
    for _ in range(runs):
        old, new, outcome = against_run(recorded, factor, random_, limits)
        outcomes[outcome] += 1
        sides = [[x for process in side for x in process.samples] for side in (old, new)]
        called.update(name for name, rule in peers.items() if rule(*sides))
    return {"fluxfast": outcomes[Outcome.SLOWER]} | {n: called[n] for n in peers}, outcomes


def interval(count, runs):
    """Return Clopper and Pearson's 95% interval of a rate."""
    found = binomtest(count, runs).proportion_ci(0.95, method="exact")
    return found.low, found.high
