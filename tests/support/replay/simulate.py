"""Case-runs made from recorded ones.

A process is its case's level × an effect of the process × what its images scatter by. The effects
are those of all recorded processes about their case's mean (made larger by what a mean of so few
takes away), the scatter that of all recorded images of the case about their process's median, for
three images of one process are too few to draw from. Both are drawn with replacement.
"""

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from scipy.stats import binomtest

from fluxfast.bench.ab.against import PAIRS, is_sure
from fluxfast.bench.baselines.baseline import LOOKS, on_the_same_cards, read_baseline
from fluxfast.bench.measurement.limits import why_enough
from fluxfast.bench.verdicts.metrics import PerformanceMetric, metric_named
from fluxfast.bench.verdicts.noise import MEDIAN_VARIANCE, estimate, noise_of
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.verdict import Change, Comparison, decide

SLOW_HOST = 1.05  # an image of unoptimized schnell on an H200 took 0.84 s, elsewhere 0.80 s
ONE_CARD = "the same for all"  # an empty name would be that of an unknown GPU


@dataclass(frozen=True, kw_only=True)
class Process:
    """As much of a CaseResult as the noise model looks at.

    `slow_from`: the image from which on the host is slow.
    """

    level: float
    card: str
    slow_from: float = math.inf
    samples: tuple[float, ...] = ()
    canaries: dict = field(default_factory=dict)
    on_gpu: bool = True


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Of one recorded process, on a log scale: on its figure, and on its canaries."""

    card: str
    level: float
    pace: float


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Of one metric: per case the log samples about their process's median, and the effects.

    `slow_hosts`: in what share of the processes that are judged the host becomes slow; none was
    recorded so. `halves`: whether those of a process are compared.
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
):
    """Effects are about the mean of the processes of a case in one `group` (a GPU, say).

    `pace`: what stands in for the canaries of a result. `reduced`: the effects less what the
    scatter within explains of them; else that is in twice, and there is more noise than really.
    """
    metric = metric_named(name)
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
    """The share of the effects' size that is left when what few images add is taken away."""
    images = statistics.harmonic_mean([len(metric.samples(r)) for rs in cases for r in rs])
    within = statistics.fmean(x * x for case in scatter for x in case)
    added = MEDIAN_VARIANCE * within / images
    return math.sqrt(max(0.0, 1 - added / statistics.fmean(x.level**2 for x in effects)))


def draw(recorded, case, factor, random_, limits, slow_hosts=0.0):
    """One process of `case`, sampled until the stop rule ends it; `factor` slows it down.

    `slow_hosts`: how likely the host becomes slow meanwhile, at any image but the first.
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
    """The process with images added, until there are enough."""
    scatter, samples = recorded.scatter[case], list(process.samples)
    while not why_enough(samples, len(samples) * recorded.image_s[case], limits):
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
    """A run of every case in one process against a baseline of three.

    All cases are as they were, or one of them is slowed down. Gives samples of both sides and the
    outcome, of every case or of that one.
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
            LOOKS,
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
    """How often each rule calls a run slower that is `factor` times as slow, and our outcomes."""
    random_ = random.Random(f"{seed} {factor}")
    called, outcomes = Counter(), Counter()
    while outcomes.total() < runs:
        for old, new, outcome in stored_run(recorded, factor, random_, limits):
            outcomes[outcome] += 1
            called.update(name for name, rule in peers.items() if rule(old, new))
    return {"fluxfast": outcomes[Outcome.SLOWER]} | {n: called[n] for n in peers}, outcomes


def against_run(recorded, factor, random_, limits):
    """`--against`: pairs of processes on one machine until sure. Both sides, and the outcome.

    Of one case, with as many others in its run as were recorded.
    """
    case, others = random_.randrange(len(recorded.scatter)), len(recorded.scatter) - 1
    old, new = [], []
    for _ in range(PAIRS):
        old.append(draw(recorded, case, 1.0, random_, limits))
        new.append(draw(recorded, case, factor, random_, limits))
        noise = noise_of(recorded.metric, [old, new])
        compared = [comparison(recorded, new, old, noise)]
        verdict = decide(compared, looks=PAIRS, to_come=others)[0]
        if is_sure(verdict.outcome, len(new)):
            break
    return old, new, verdict.outcome


def against_rates(recorded, factor, peers, runs, limits, seed=0):
    """As `stored_rates`, of `--against`."""
    random_ = random.Random(f"{seed} {factor}")
    called, outcomes = Counter(), Counter()
    for _ in range(runs):
        old, new, outcome = against_run(recorded, factor, random_, limits)
        outcomes[outcome] += 1
        sides = [[x for process in side for x in process.samples] for side in (old, new)]
        called.update(name for name, rule in peers.items() if rule(*sides))
    return {"fluxfast": outcomes[Outcome.SLOWER]} | {n: called[n] for n in peers}, outcomes


def interval(count, runs):
    """Clopper and Pearson's, 95%."""
    found = binomtest(count, runs).proportion_ci(0.95, method="exact")
    return found.low, found.high
