"""What may become a baseline, and the history of what did. No torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.verdicts.metrics import PERFORMANCE_METRICS, typical
from fluxfast.bench.verdicts.runner import DEVICE_BAND, HOST_BAND, why_invalid_runner
from fluxfast.errors import BaselineError

COLUMNS = ("date", "commit", "case", "figure", "before", "after", "change", "processes")


def check_acceptable(baseline: Baseline, results: Sequence[CaseResult], processes: int) -> None:
    """Raises BaselineError for changed sources, too few processes, or a runner that is unknown or
    stands out.
    """
    for result in results:
        _check_commit(result)
        _check_canaries(result)
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


def check_processes(found: Sequence[tuple[Path, CaseResult]]) -> None:
    """Raises BaselineError where one process is there twice: it has no scatter with itself."""
    for (path, one), (other_path, other) in combinations(found, 2):
        if one.case == other.case and _is_same_process(one, other):
            raise BaselineError(
                "one process would count as two",
                got=f"{path} and {other_path}",
                allowed="one result of a case from each process",
                remedy="name the results of each process once; measure in more of them, each with "
                "--record --results DIR of its own",
            )


def _is_same_process(one: CaseResult, other: CaseResult) -> bool:
    """By its samples, or by its id, date and card: ids are alike in containers of two cards."""
    ids = [(r.provenance.get("process"), r.provenance.get("date"), r.card) for r in (one, other)]
    is_known = None not in ids[0]
    return one.images == other.images or (is_known and ids[0] == ids[1])


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
            got=f"{result.case.id}: {'sources with changes' if dirty else 'an unknown commit'}",
            allowed="results of a commit",
            remedy="commit, then measure; where there is no repository, set FLUXFAST_COMMIT",
        )


def _check_canaries(result: CaseResult) -> None:
    """A CPU's figures are ratios to what is timed beside them; a GPU's are known by these alone."""
    missing = [name for name in DEVICE_BAND | HOST_BAND if not result.canaries.get(name)]
    if result.on_gpu and missing:
        raise BaselineError(
            "a result of a GPU lacks canaries",
            got=f"{result.case.id}: no {', '.join(missing)}",
            allowed="results with all canaries, which tell the machine from another",
            remedy="measure it again with `pytest perf_tests --record`",
        )


def _check_runner(baseline: Baseline, case_id: str, results: Sequence[CaseResult]) -> None:
    """Against the other processes, and against what the baseline has of the case, or of any case
    where it knows no canaries of this one: they are the same work about each.
    """
    accepted = [result for result in baseline.results.get(case_id, ()) if result.canaries]
    accepted = accepted or [result for of_case in baseline.results.values() for result in of_case]
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
        for metric in PERFORMANCE_METRICS:
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


def history_text(path: Path, rows: Sequence[Mapping[str, str]]) -> str:
    """Of the file with these added, below a last line that was cut too. Rows are only ever added,
    one for each figure, so that two branches merge.
    """
    try:
        known = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(
            "this history cannot be read",
            got=f"{path}: {error}",
            allowed="text in UTF-8, as fluxfast baseline accept writes it",
            remedy="restore it from version control; the baseline is as it was",
        ) from error
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, delimiter="\t", lineterminator="\n").writerows(rows)
    return (known or "\t".join(COLUMNS)).removesuffix("\n") + "\n" + text.getvalue()
