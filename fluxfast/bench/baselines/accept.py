"""Check what may become a baseline, and keep the history of what did. No torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.role import difference
from fluxfast.bench.results.joining import check_consistent, check_processes
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.verdicts.metrics import PERFORMANCE_METRICS, typical
from fluxfast.bench.verdicts.runner import DEVICE_BAND, HOST_BAND, LINK_BAND, why_invalid_runner
from fluxfast.errors import BaselineError
from fluxfast.files.reading import read_text

COLUMNS = ("date", "commit", "case", "figure", "before", "after", "change", "processes")


def check_acceptable(
    baseline: Baseline, found: Sequence[tuple[Path, CaseResult]], processes: int
) -> None:
    """Check that results may become a baseline.

    Args:
        baseline: the baseline that they would join.
        found: all results to accept, each with the path of its file.
        processes: the smallest number of processes of each case.

    Raises:
        BaselineError: the sources have uncommitted changes or the commit is unknown; a case has
            two commits or stacks, one process twice, or too few processes; or the canaries of a
            result are missing or out of their band.
    """
    of_case: dict[str, list[tuple[Path, CaseResult]]] = {}
    for path, result in found:
        _check_commit(result)
        _check_canaries(result)
        of_case.setdefault(result.case.id, []).append((path, result))
    for case_id, ours_found in of_case.items():
        check_processes(ours_found)
        check_consistent(ours_found)
        ours = [result for _, result in ours_found]
        if len(ours) < processes:
            raise BaselineError(
                "too few processes measured this case",
                got=f"{len(ours)}: {case_id}",
                allowed=f"{processes} or more, because their scatter gives the noise of a verdict",
                remedy="measure in more processes, each with --record --results DIR of its own, "
                "or ask for fewer with --processes N",
            )
        _check_runner(baseline, case_id, ours)


def by_case(results: Sequence[CaseResult]) -> dict[str, list[CaseResult]]:
    """Return the results of each case, by case id."""
    found: dict[str, list[CaseResult]] = {}
    for result in results:
        found.setdefault(result.case.id, []).append(result)
    return found


def _check_commit(result: CaseResult) -> None:
    origin = result.provenance
    if origin.get("commit") and not origin.get("dirty"):
        return
    why = "the commit is unknown"
    if origin.get("dirty"):
        why = f"uncommitted changes of commit {origin['commit']}"
    elif reason := origin.get("why_commit_unknown"):
        why += f" ({reason})"
    raise BaselineError(
        "these results are not reproducible",
        got=f"{result.case.id}: {why}",
        allowed="results of a commit without changes of its sources",
        remedy="commit, then measure again; where there is no repository, set FLUXFAST_COMMIT",
    )


def _check_canaries(result: CaseResult) -> None:
    """Require canaries of a GPU; the figures of a CPU are ratios and need none."""
    needed = DEVICE_BAND | HOST_BAND | (LINK_BAND if result.case.gpus > 1 else {})
    missing = [name for name in needed if not result.canaries.get(name)]
    if result.on_gpu and missing:
        raise BaselineError(
            "a result of a GPU lacks canaries",
            got=f"{result.case.id}: no {', '.join(missing)}",
            allowed="results with all canaries, which identify the state of the machine",
            remedy="measure it again with `pytest perf_tests --record`",
        )


def _check_runner(baseline: Baseline, case_id: str, results: Sequence[CaseResult]) -> None:
    """Compare canaries with those of the other processes and of the baseline.

    Where the baseline has no canaries of this case, those of its other cases serve: they are the
    same work.
    """
    accepted = [result for result in baseline.results.get(case_id, ()) if result.canaries]
    accepted = accepted or [result for of_case in baseline.results.values() for result in of_case]
    for number, result in enumerate(results):
        others = [*results[:number], *results[number + 1 :]]
        reason = why_invalid_runner([result], others) or why_invalid_runner([result], accepted)
        if reason:
            raise BaselineError(
                "the machine of a result differs from that of the others",
                got=f"{case_id}: {reason}",
                allowed="canaries within their band of the other processes and of the baseline",
                remedy="measure again on a free machine; for a new kind of machine, add a new "
                "baseline file",
            )


def history_path(baseline: Baseline) -> Path:
    """Return the path of the history of a baseline."""
    return baseline.path.with_suffix(".history.tsv")


def role_changes(baseline: Baseline, results: Sequence[CaseResult]) -> list[str]:
    """Return a line for each case that takes the place of another one in its role."""
    lines = []
    for case_id, ours in sorted(by_case(results).items()):
        before = baseline.counterpart(ours[-1].case, ours[-1].role)
        if before != case_id:
            names = Case.from_id(before).optimizations
            change = difference(ours[-1].case.optimizations, names)
            lines.append(f"{ours[-1].case.model}, {ours[-1].role}: {change}; before: {before}")
    return lines


def history_rows(baseline: Baseline, results: Sequence[CaseResult]) -> list[dict[str, str]]:
    """Return a row for each figure of each accepted case.

    The figures before are those of the case, or of the one whose place it takes in its role.

    Args:
        baseline: the baseline that the results join.
        results: the results that are accepted.
    """
    rows = []
    for case_id, ours in sorted(by_case(results).items()):
        before = baseline.results.get(baseline.counterpart(ours[-1].case, ours[-1].role), ())
        for metric in PERFORMANCE_METRICS:
            new, old = typical(metric, ours), typical(metric, before)
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
    """Return the content of the history file with `rows` appended.

    Rows are only ever appended, so that two branches merge; one that is there already is not, as
    after an `accept` that was killed. A truncated last line is completed with a newline.

    Raises:
        BaselineError: the file cannot be read as text.
    """
    try:
        known = read_text(path) if path.exists() else ""
    except (OSError, ValueError) as error:
        raise BaselineError(
            "this history cannot be read",
            got=f"{path}: {error}",
            allowed="text in UTF-8, as fluxfast baseline accept writes it",
            remedy="restore it from version control; the baseline is unchanged",
        ) from error
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, delimiter="\t", lineterminator="\n").writerows(rows)
    new = [row for row in text.getvalue().splitlines(True) if row not in f"{known}\n"]
    return (known or "\t".join(COLUMNS)).removesuffix("\n") + "\n" + "".join(new)
