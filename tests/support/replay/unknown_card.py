"""Simulate the gate on cards that its baseline does not contain, from recorded cards.

h200_cards.json has the step time and the mean clock of each image of `python -m benchmarks.cards`.
One card at a time is left out of the baseline, which has all processes of the others. A simulated
process has the level of its card, the deviation of one recorded process from its card, and the
scatter of recorded images; time and cycles of an image are sampled together.
"""

import json
import math
import random
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fluxfast.bench.baselines.baseline import INTERIM_ANALYSES
from fluxfast.bench.results.image_timing import ImageTiming
from fluxfast.bench.verdicts.comparison import compare_sides
from fluxfast.bench.verdicts.noise import noises
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.verdict import decide
from tests.support.results import result

RECORDED = Path(__file__).with_name("h200_cards.json")
STEPS, IMAGES = 28, 5
Pair = tuple[float, float]  # log ms/step and log M cycles/step


@dataclass(frozen=True, kw_only=True)
class Cards:
    """The recorded cards, on a log scale.

    Attributes:
        levels: of each card, the mean over its processes.
        processes: the deviation of each process from its card.
        images: the deviation of each image from its process.
    """

    levels: list[Pair]
    processes: list[Pair]
    images: list[Pair]


def recorded_cards(path=RECORDED):
    levels, processes, images = [], [], []
    for card in json.loads(path.read_text())["cards"]:
        logs = [
            [(math.log(ms), math.log(ms * mhz / 1e3)) for ms, mhz in process]
            for process in card["processes"]
        ]
        medians = [_of_pairs(statistics.median, process) for process in logs]
        levels.append(_of_pairs(statistics.fmean, medians))
        processes += [_minus(median, levels[-1]) for median in medians]
        images += [
            _minus(image, median)
            for process, median in zip(logs, medians, strict=True)
            for image in process
        ]
    return Cards(levels=levels, processes=processes, images=images)


def _of_pairs(statistic, pairs):
    return tuple(statistic(values) for values in zip(*pairs, strict=True))


def _minus(one, other):
    return one[0] - other[0], one[1] - other[1]


def simulated(cards, card, count, random_, factor=1.0, counts_cycles=True):
    """Return a process of `count` images on a card; `factor` makes its steps longer."""
    level, process = cards.levels[card], random_.choice(cards.processes)
    timings = []
    for _ in range(count):
        image = random_.choice(cards.images)
        ms, mcycles = (math.exp(sum(parts)) for parts in zip(level, process, image, strict=True))
        timings.append(_timing(ms * factor, mcycles / ms * 1e3 if counts_cycles else None))
    environment = {**result().environment, "gpu": {"uuid": f"GPU-{card}"}}
    return result(images=tuple(timings), environment=environment)


def _timing(step_ms, clock_mhz):
    return ImageTiming(
        e2e_s=step_ms * STEPS / 1e3 + 0.05,
        encode_ms=20.0,
        prepare_ms=1.0,
        step_ms=(step_ms,) * STEPS,
        decode_ms=25.0,
        postprocess_ms=10.0,
        sm_clock_mhz=clock_mhz,
    )


def rates(runs, factor, counts_cycles=True, others=0, seed=0):
    """Return how many of `runs` on a card outside the baseline end with each outcome.

    `others` unchanged cases are judged together with the simulated one.
    """
    cards, random_ = recorded_cards(), random.Random(f"{seed} {factor}")
    count = len(cards.levels)
    outcomes = Counter()
    for run in range(runs):
        left_out = run % count
        accepted = [
            simulated(cards, card, IMAGES, random_, counts_cycles=counts_cycles)
            for card in range(count)
            if card != left_out
            for _ in range(3)
        ]
        noise = noises([accepted])
        images = simulated(cards, left_out, 2 * IMAGES, random_, factor, counts_cycles)
        for sampled in (IMAGES, 2 * IMAGES):  # an undecided case is sampled once more
            measured = result(images=images.images[:sampled], environment=images.environment)
            compared = compare_sides([measured], accepted, noise)
            outcome = decide([compared], INTERIM_ANALYSES, to_come=others)[0].outcome
            if outcome is not Outcome.UNDECIDED:
                break
        outcomes[outcome] += 1
    return outcomes
