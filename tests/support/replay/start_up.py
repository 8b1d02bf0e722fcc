"""Simulate verdicts on times of the start: false alarms, and a planted delay.

    python -m tests.support.replay.start_up

A baseline has three processes, a run one, all of one card. Their times scatter independently by a
relative standard deviation; nothing here was measured. The seed is fixed.
"""

import random
from dataclasses import replace

from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.verdicts.comparison import compare_sides
from fluxfast.bench.verdicts.noise import noises
from fluxfast.console import out
from fluxfast.tables import plain_table, render
from tests.support.results import result

PROCESSES, RUNS, PLANTED_S = 3, 1000, 5.0
COMPILE_S = (6.0, 10.0, 15.0, 25.0)
SCATTER = (0.02, 0.05, 0.10, 0.15)
COMPARED = ("compile_s", "to_first_image_s")


def started(compile_s: float) -> CaseResult:
    """Return a process of one card that compiled for these seconds."""
    found = result(starts_cold=True, apply_s=0.1, first_image_s=1.9 + compile_s)
    return replace(found, environment={**found.environment, "gpu": {"uuid": "GPU-1"}})


def shares(
    compile_s: float, scatter: float, planted_s: float = 0.0, runs: int = RUNS, seed: int = 0
) -> tuple[float, float]:
    """Return the shares of runs that call a time of the start worse, and that cannot judge it."""
    draw, noise = random.Random(seed), noises([])

    def measured(added_s: float = 0.0) -> CaseResult:
        return started(compile_s * (1 + draw.gauss(0, scatter)) + added_s)

    alarms = unjudged = 0
    for _ in range(runs):
        accepted = [measured() for _ in range(PROCESSES)]
        found = compare_sides([measured(planted_s)], accepted, noise).changes
        compared = [change for change in found if change.metric.name in COMPARED]
        alarms += any(change.is_broken for change in compared)
        unjudged += not compared
    return alarms / runs, unjudged / runs


def main() -> None:
    columns = ("compile s", "scatter", "not judged", "false alarms", f"+{PLANTED_S:.0f} s seen")
    table = plain_table(*columns, numbers=columns)
    for compile_s in COMPILE_S:
        for scatter in SCATTER:
            alarms, unjudged = shares(compile_s, scatter)
            seen, _ = shares(compile_s, scatter, PLANTED_S)
            rates = (f"{share:.1%}" for share in (unjudged, alarms, seen))
            table.add_row(f"{compile_s:.0f}", f"{scatter:.0%}", *rates)
    out(render(table))
    out(f"{RUNS} runs each, against {PROCESSES} processes of the same card")


if __name__ == "__main__":
    main()
