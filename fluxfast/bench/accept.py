"""What may become a baseline, and the history of what did. No torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from fluxfast.bench.baseline import Baseline
from fluxfast.bench.metrics import METRICS, typical
from fluxfast.bench.result import CaseResult
from fluxfast.bench.runner import why_invalid_runner
from fluxfast.errors import BaselineError
from fluxfast.files import write_atomically

COLUMNS = ("date", "commit", "case", "figure", "before", "after", "change", "processes")


def check_acceptable(baseline: Baseline, results: Sequence[CaseResult], processes: int) -> None:
    """Raises BaselineError for a dirty tree, too few processes, or a runner that stands out."""
    for result in results:
        _check_commit(result)
    for case_id, ours in by_case(results).items():
        if len(ours) < processes:
            raise BaselineError(
                "too few processes measured this case",
                got=f"{len(ours)}: {case_id}",
                allowed=f"{processes} or more, for their scatter is the noise that a verdict knows",
                remedy="measure in more processes, each with --record --results DIR of its own, "
                "or ask for fewer with --processes N",
            )
        _check_runner(baseline, case_id, ours)


def by_case(results: Sequence[CaseResult]) -> dict[str, list[CaseResult]]:
    found: dict[str, list[CaseResult]] = {}
    for result in results:
        found.setdefault(result.case.id, []).append(result)
    return found


def _check_commit(result: CaseResult) -> None:
    commit, dirty = result.provenance.get("commit"), result.provenance.get("dirty")
    if dirty or not commit:
        raise BaselineError(
            "nobody could measure this again",
            got=f"{result.case.id}: {'a tree with changes' if dirty else 'an unknown commit'}",
            allowed="results of a commit",
            remedy="commit, then measure; where there is no repository, set FLUXFAST_COMMIT",
        )


def _check_runner(baseline: Baseline, case_id: str, results: Sequence[CaseResult]) -> None:
    """Against the other processes, and against what the baseline has of the case."""
    accepted = baseline.results.get(case_id, ())
    for number, result in enumerate(results):
        others = [*results[:number], *results[number + 1 :]]
        reason = why_invalid_runner([result], others) or why_invalid_runner([result], accepted)
        if reason:
            raise BaselineError(
                "the runner of a result stands out",
                got=f"{case_id}: {reason}",
                allowed="canaries within their band of the other processes and of the baseline",
                remedy="measure it again on a free machine; for a new kind of machine start a new "
                "baseline file",
            )


def history_path(baseline: Baseline) -> Path:
    return baseline.path.with_suffix(".history.tsv")


def history_rows(
    before: Mapping[str, Sequence[CaseResult]], results: Sequence[CaseResult]
) -> list[dict[str, str]]:
    """A row for each figure of each case that is accepted."""
    rows = []
    for case_id, ours in sorted(by_case(results).items()):
        for metric in METRICS:
            new, old = typical(metric, ours), typical(metric, before.get(case_id, ()))
            if new is None:
                continue
            rows.append(
                {
                    "date": str(ours[-1].provenance.get("date", "")),
                    "commit": str(ours[-1].provenance.get("commit", ""))[:12],
                    "case": case_id,
                    "figure": metric.name,
                    "before": "" if old is None else f"{old:.6g}",
                    "after": f"{new:.6g}",
                    "change": "new" if old is None else f"{new / old - 1:+.2%}",
                    "processes": str(len(ours)),
                }
            )
    return rows


def append_history(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Rows are only ever added, one for each figure, so that two branches merge."""
    known = path.read_text(encoding="utf-8") if path.exists() else "\t".join(COLUMNS) + "\n"
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, delimiter="\t", lineterminator="\n").writerows(rows)
    write_atomically(path, known + text.getvalue())
