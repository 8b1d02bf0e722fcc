"""Tables for people; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.artifacts import Figures, told
from fluxfast.bench.results.summary import CaseSummary
from fluxfast.bench.verdicts.metrics import WHOLE_IMAGE
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.verdict import Verdict
from fluxfast.tables import plain_table, render


def figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def speedups(summaries: Iterable[CaseSummary]) -> dict[str, float]:
    """Speed of each case over the eager case of its workload, by case id, where there is one.

    On a CPU it is the interleaved ratio; on a GPU the eager case is the bfloat16 one.
    """
    by_case = {summary.case: summary for summary in summaries}
    found = {}
    for case, summary in by_case.items():
        if summary.eager_ratio:
            found[case.id] = 1 / summary.eager_ratio
        elif eager := case.eager_among(by_case):
            found[case.id] = by_case[eager].e2e_s / summary.e2e_s
    return found


def against(verdict: Verdict) -> str:
    """The change that decided, else that of the whole image, with its 95% interval, in per cent."""
    change = verdict.shown
    if change is None:
        return "–"
    text = f"{change.relative:+.1%}"
    if change.estimate is None:
        return text
    low, high = change.estimate.interval()
    return f"{text} ({100 * low:+.0f}…{100 * high:+.0f})"


def verdict_table(
    rows: Sequence[tuple[str, CaseSummary, Verdict | None]],
    quality: Mapping[str, Figures | None] | None = None,
) -> str:
    """One row a case: label, figures, verdict; None stands for a case that was only recorded.

    `quality`: by case id, against the eager picture. A figure that no case has gets no column;
    names of optimizations are not broken.
    """
    speed, quality = speedups(summary for _, summary, _ in rows), quality or {}
    numbers = (
        *("image\ns", "step\nms", "compile\ns", "GiB", "PSNR\ndB", "speed"),
        "change\n(95%)",
    )
    figures = [
        (
            figure(summary.e2e_s, 2),
            figure(summary.step_ms, 1),
            figure(summary.compile_s, 0),
            figure(summary.peak_memory_gib, 1),
            told(quality.get(summary.case.id)),
            f"{speed[summary.case.id]:.2f}×" if summary.case.id in speed else "–",
            _broken(against(verdict), 16) if verdict else "–",
        )
        for _, summary, verdict in rows
    ]
    known = [i for i in range(len(numbers)) if any(row[i] != "–" for row in figures)]
    columns = [numbers[i] for i in known]
    table = plain_table("model", "case", *columns, "verdict", numbers=columns)
    words = [word for name, _, _ in rows for word in name.split()]
    table.columns[1].min_width = max(map(len, words))
    for (name, summary, verdict), row in zip(rows, figures, strict=True):
        table.add_row(
            summary.case.model, name, *(row[i] for i in known), _broken(_word(verdict), 9)
        )
    return render(table)


def _broken(text: str, width: int) -> str:
    """At the space, where it is longer: the table keeps to its width then."""
    return text if len(text) <= width else text.replace(" ", "\n")


def _word(verdict: Verdict | None) -> str:
    if verdict is None:
        return "recorded"
    word = verdict.outcome.value if verdict.passes else verdict.outcome.value.upper()
    decided_by = verdict.decided_by
    if decided_by is None or decided_by.metric.stage == WHOLE_IMAGE:
        return word
    return f"{word}: {decided_by.metric.stage}"


def _figures(summary: CaseSummary) -> tuple[str, ...]:
    return (
        figure(summary.e2e_s, 2),
        figure(summary.step_ms, 1),
        figure(summary.decode_ms, 0),
        figure(summary.compile_s, 0),
        figure(summary.peak_memory_gib, 1),
    )


def failure_text(case: Case, verdict: Verdict) -> str:
    """What a failing case says: the reason, then every metric, then what to do."""
    lines = [f"{case.id}: {verdict.outcome.value.upper()}: {verdict.reason}"]
    lines += [f"  {change}" for change in verdict.changes]
    remedy = {
        Outcome.SLOWER: "find the commit, or accept it: measure with --record --results DIR, "
        "then `fluxfast baseline accept DIR`",
        Outcome.BROKEN: "a counter is compared exactly: find what changed it, "
        "or accept it as above",
        Outcome.FASTER: "an unclaimed win: make it the new baseline, or it will hide the next "
        "slowdown: measure with --record --results DIR, then `fluxfast baseline accept DIR`",
        Outcome.UNDECIDED: "free the machine, raise --seconds, or compare with --against REF",
        Outcome.INVALID_RUNNER: "free the machine or take another; nothing is said of the code",
        Outcome.WRONG_STACK: "install the baseline's stack, or record a new baseline on this one",
    }.get(verdict.outcome)
    return "\n".join([*lines, f"  remedy: {remedy}"] if remedy else lines)


def baseline_rows(summaries: Iterable[CaseSummary]) -> list[dict[str, Any]]:
    """The figures of a baseline, for programs."""
    summaries = list(summaries)
    speed = speedups(summaries)
    return [
        {
            "case": s.case.id,
            "model": s.case.model,
            "weights": s.case.weights,
            "optimizations": list(s.case.optimizations),
            "resolution": f"{s.case.height}x{s.case.width}",
            "batch_size": s.case.batch_size,
            "steps": s.case.num_inference_steps,
            "e2e_s": round(s.e2e_s, 4),
            "step_ms": round(s.step_ms, 3),
            "encode_ms": round(s.encode_ms, 3),
            "decode_ms": round(s.decode_ms, 3),
            "compile_s": None if s.compile_s is None else round(s.compile_s, 2),
            "peak_memory_gib": None if s.peak_memory_gib is None else round(s.peak_memory_gib, 3),
            "speedup": round(speed[s.case.id], 3) if s.case.id in speed else None,
            "processes": s.processes,
            "spread": round(s.spread, 4),
        }
        for s in summaries
    ]


def baseline_table(summaries: Sequence[CaseSummary], labels: Mapping[str, str]) -> str:
    """The figures of a baseline, for people."""
    speed = speedups(summaries)
    numbers = ("image s", "step ms", "decode ms", "compile s", "GiB", "speed", "runs")
    table = plain_table("model", "case", *numbers, numbers=numbers)
    for s in summaries:
        shown = f"{speed[s.case.id]:.2f}×" if s.case.id in speed else "–"
        table.add_row(
            s.case.model, labels.get(s.case.id, s.case.id), *_figures(s), shown, str(s.processes)
        )
    return render(table)
