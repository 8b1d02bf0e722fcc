"""Tables and messages about results and verdicts. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fluxfast.bench.cases.case import Case, eager_by_workload
from fluxfast.bench.cases.role import Role
from fluxfast.bench.results.artifacts import Figures, psnr_text
from fluxfast.bench.results.summary import CaseSummary
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.remedies import remedy
from fluxfast.bench.verdicts.verdict import Verdict
from fluxfast.tables import plain_table, render

# Label, figures and verdict of a case; None stands for a case that was only recorded.
Row = tuple[str, CaseSummary, Verdict | None]
NO_VALUE = "–"


def figure(value: float | None, digits: int) -> str:
    """Return a number for a table cell."""
    return NO_VALUE if value is None else f"{value:.{digits}f}"


def times(factor: float | None) -> str:
    """Return a speedup for a table cell, as `2.50×`."""
    return NO_VALUE if factor is None else f"{factor:.2f}×"


def speedups(summaries: Iterable[CaseSummary]) -> dict[str, float]:
    """Return the speedup of each case over the eager case of its workload, by case id.

    On a CPU it is the paired ratio. On a GPU the eager case is the bfloat16 one of the same
    `summaries`, with synthetic weights of the same profile; cases without one are omitted.
    """
    by_case = {summary.case: summary for summary in summaries}
    eager_cases = eager_by_workload(by_case)
    found = {}
    for case, summary in by_case.items():
        eager = eager_cases.get(case.workload)
        if summary.eager_ratio:
            found[case.id] = 1 / summary.eager_ratio
        elif eager and by_case[eager].weights_profile == summary.weights_profile:
            found[case.id] = by_case[eager].e2e_s / summary.e2e_s
    return found


def why_not_faster(role: Role | None, speedup: float | None) -> str | None:
    """Return the warning about a preset that is slower than the eager pipeline, or None.

    Args:
        role: the role of the case.
        speedup: its speedup over eager; None where it is not known.
    """
    if role in (None, Role.EAGER) or speedup is None or round(1 / speedup, 2) <= 1:
        return None
    return f"{role} is slower than eager: {times(1 / speedup)}"


def change_text(verdict: Verdict) -> str:
    """Return the change of a verdict: its figure, and below with its 95% interval in per cent.

    As `step`, and on a second line `+3.1% (+2…+4)`.
    """
    change = verdict.shown
    if change is None:
        return NO_VALUE
    text = f"{change.relative:+.1%}"
    if change.estimate:
        low, high = change.estimate.interval()
        text = _wrapped(f"{text} ({100 * low:+.0f}…{100 * high:+.0f})", 17)
    return f"{change.metric.title}\n{text}"


def verdict_table(
    rows: Sequence[Row],
    quality: Mapping[str, Figures | None] | None = None,
) -> str:
    """Return the table of a run: label, figures and verdict of each case.

    Args:
        rows: label, figures and verdict of each case.
        quality: the quality of each case's image against eager, by case id.

    Returns:
        The table, at most 100 columns wide. A figure that no case has gets no column, and names of
        optimizations are not broken.
    """
    speedup, quality = speedups(summary for _, summary, _ in rows), quality or {}
    has_batches = any(summary.case.batch_size > 1 for _, summary, _ in rows)
    numbers = (
        "s/\nimage",
        "images\n/s",
        "ms/step",
        "compile\ns",
        "GiB",
        "PSNR\ndB",
        "speedup",
        "change\n(95%)",
    )
    figures = [
        (
            figure(summary.image_s, 2),
            figure(summary.serving.images_per_s if has_batches else None, 2),
            figure(summary.step_ms, 1),
            figure(summary.compile_s, 0),
            figure(summary.peak_memory_gib, 1),
            psnr_text(quality.get(summary.case.id)),
            times(speedup.get(summary.case.id)),
            change_text(verdict) if verdict else NO_VALUE,
        )
        for _, summary, verdict in rows
    ]
    known = [i for i in range(len(numbers)) if any(row[i] != NO_VALUE for row in figures)]
    columns = [numbers[i] for i in known]
    table = plain_table("model", "case", *columns, "verdict", numbers=columns)
    words = [word for name, _, _ in rows for word in name.split()]
    table.columns[1].min_width = max(map(len, words))
    for (name, summary, verdict), row in zip(rows, figures, strict=True):
        cells = [row[i] for i in known]
        word = verdict.display if verdict else Outcome.RECORDED.display
        table.add_row(summary.case.model, name, *cells, _wrapped(word, 9))
    return render(table)


def _wrapped(text: str, width: int) -> str:
    """Break a longer text at its spaces, to keep the table within its width."""
    return text if len(text) <= width else text.replace(" ", "\n")


def failure_text(case: Case, verdict: Verdict, *, is_against: bool = False) -> str:
    """Return the message of a case that fails or needs attention: reason, metrics, remedy.

    Args:
        case: the case.
        verdict: the verdict on it.
        is_against: the case was compared with another revision, not with a stored baseline.
    """
    lines = [f"{case.id}: {verdict.outcome.display}: {verdict.reason}"]
    lines += [f"  {change}" for change in verdict.changes]
    found = remedy(verdict, is_against=is_against)
    return "\n".join([*lines, f"  remedy: {found}"] if found else lines)


def baseline_rows(summaries: Iterable[CaseSummary]) -> list[dict[str, Any]]:
    """Return the figures of a baseline for programs: one dictionary for each case."""
    summaries = list(summaries)
    speedup = speedups(summaries)
    return [
        {
            "case": s.case.id,
            "model": s.case.model,
            "weights": s.case.weights,
            "weights_profile": s.weights_profile,
            "optimizations": list(s.case.optimizations),
            "cache": s.case.cache,
            "resolution": f"{s.case.height}x{s.case.width}",
            "batch_size": s.case.batch_size,
            "steps": s.case.num_inference_steps,
            "e2e_s": round(s.e2e_s, 4),
            "step_ms": round(s.step_ms, 3),
            "encode_ms": round(s.encode_ms, 3),
            "decode_ms": round(s.decode_ms, 3),
            "compile_s": _rounded(s.compile_s, 2),
            "to_first_image_s": _rounded(s.cold_first_image_s, 2),
            "lora_swap_s": _rounded(s.lora_swap_s, 3),
            "other_size_extra_s": _rounded(s.other_size_extra_s, 3),
            "peak_memory_gib": _rounded(s.peak_memory_gib, 3),
            "speedup": round(speedup[s.case.id], 3) if s.case.id in speedup else None,
            "serving": vars(s.serving),
            "processes": s.processes,
            "spread": round(s.spread, 4),
        }
        for s in summaries
    ]


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def baseline_table(summaries: Sequence[CaseSummary], labels: Mapping[str, str]) -> str:
    """Return the table of a baseline's figures.

    Args:
        summaries: the cases.
        labels: the label of each case by its id; a case without one is shown by its id.
    """
    speedup = speedups(summaries)
    timed = ("s/image", "ms/step", "decode ms", "compile s", "first s")
    numbers = (*timed, "GiB", "speedup", "processes")
    table = plain_table("model", "case", *numbers, numbers=numbers)
    for s in summaries:
        table.add_row(
            s.case.model,
            labels.get(s.case.id, s.case.id),
            figure(s.image_s, 2),
            figure(s.step_ms, 1),
            figure(s.decode_ms, 0),
            figure(s.compile_s, 0),
            figure(s.cold_first_image_s, 1),
            figure(s.peak_memory_gib, 1),
            times(speedup.get(s.case.id)),
            str(s.processes),
        )
    return render(table)
