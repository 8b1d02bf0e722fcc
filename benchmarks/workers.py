"""Compare figures of a run with workers (`-n`) with those of runs that measure one at a time.

    python -m benchmarks.workers --alone ALONE… --together TOGETHER…   # folders of --results

Results of one case on one card are compared, because cards of a model differ. A figure agrees if
the 95% interval of its change, with the noise of the GPU's stored baseline, contains zero; a figure
without an interval agrees within its tolerance. Canaries are shown and not judged. The exit status
is 1 if a figure, a counter or a kernel differs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fluxfast.bench.baselines.lookup import find_baseline
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.store import read_results
from fluxfast.bench.verdicts.comparison import Change, Comparison, compare_sides
from fluxfast.console import out
from fluxfast.tables import plain_table, render

Results = Mapping[tuple[str, str], Sequence[CaseResult]]
NUMBERS = ("alone", "together", "change", "95%")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--alone", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--together", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--gpu", default="h200", help="the baseline with the noise (h200)")
    options = parser.parse_args()
    alone, together = by_case_and_card(options.alone), by_case_and_card(options.together)
    both, noise = sorted(alone.keys() & together.keys()), find_baseline(options.gpu).noise
    compared = {key: compare_sides(together[key], alone[key], noise) for key in both}
    table = plain_table("case", "card", "figure", *NUMBERS, "agrees", numbers=NUMBERS)
    for key, comparison in compared.items():
        rows = [*figures(comparison), *canaries(alone[key], together[key])]
        for cells in rows:
            table.add_row(name_of(alone[key][0]), key[1][-4:], *cells)
    out(render(table))
    for case, card in sorted(alone.keys() ^ together.keys()):
        out(f"on one side only: {case} on {card}")
    return summary(compared)


def summary(compared: Mapping[tuple[str, str], Comparison]) -> int:
    """Print what differs besides times, and how many figures agree; return the exit status."""
    counted = [
        f"{case}: {change}" for (case, _), one in compared.items() for change in one.step_changes
    ]
    for line in counted:
        out(line)
    changes = [change for one in compared.values() for change in one.changes]
    agreeing = sum(map(agrees, changes))
    out(f"{agreeing} of {len(changes)} figures agree")
    return 0 if changes and agreeing == len(changes) and not counted else 1


def by_case_and_card(folders: Sequence[Path]) -> Results:
    """Return the results in the folders by case and card."""
    found: dict[tuple[str, str], list[CaseResult]] = {}
    for result in read_results(folders):
        found.setdefault((result.case.id, result.card), []).append(result)
    return found


def name_of(result: CaseResult) -> str:
    """Return a short name: the model and the role, or else how many optimizations the case has."""
    return f"{result.case.model}, {result.role or len(result.case.optimizations)}"


def agrees(change: Change) -> bool:
    """Return whether a change is noise, or within the tolerance of a figure without an interval."""
    if change.estimate is None:
        return not (change.is_broken or change.is_improved)
    low, high = change.estimate.interval()
    return low <= 0 <= high


def figures(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each figure: name, both values, change, interval, and if it agrees."""
    for change in comparison.changes:
        digits, interval = change.metric.digits, "–"
        if change.estimate:
            low, high = change.estimate.interval()
            interval = f"{low:+.2%} to {high:+.2%}"
        values = (f"{value:.{digits}f}" for value in (change.baseline, change.measured))
        verdict = "yes" if agrees(change) else "no"
        yield (change.metric.name, *values, f"{change.relative:+.2%}", interval, verdict)


def canaries(
    alone: Sequence[CaseResult], together: Sequence[CaseResult]
) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each canary: the median of its readings on both sides."""
    for name in sorted(alone[0].canaries.keys() & together[0].canaries.keys()):
        sides = [[x for one in side for x in one.canaries[name]] for side in (alone, together)]
        before, now = map(statistics.median, sides)
        yield (f"canary {name}", f"{before:.3f}", f"{now:.3f}", f"{now / before - 1:+.2%}", "", "")


if __name__ == "__main__":
    sys.exit(main())
