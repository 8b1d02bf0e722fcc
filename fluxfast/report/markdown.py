"""Write the summary for a pull request: the verdict, the changes, the rest folded. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from fluxfast.bench.results.artifacts import psnr_text
from fluxfast.report.ablation import ablation_steps
from fluxfast.report.contents import MachineReport, Report, changed_among
from fluxfast.report.escaping import escaped, fenced, inert
from fluxfast.report.judgement import ReportedVerdict
from fluxfast.report.labels import MISSING, percent, value_title
from fluxfast.report.rows import ReportRow
from fluxfast.report.scaling import ABOUT as ABOUT_SCALING
from fluxfast.report.scaling import TITLE as SCALING
from fluxfast.report.scaling import scaling_table
from fluxfast.report.serving import ABOUT as ABOUT_SERVING
from fluxfast.report.serving import TITLE as SERVING
from fluxfast.report.serving import serving_table

SIGNS = {"pass": "✅", "fail": "❌", "not judged": "⚠️"}
RECORDED_SIGN = "📌"
MOST_STEPS, MOST_SERVED = 12, 24
LONGEST_REASON = 400
HEAD_PX, STEP_PX, BAR_COLOUR = 110, 34, "#5b8fd0"  # readable on white and on black


def markdown(report: Report) -> str:
    """Return the summary as GitHub-flavoured Markdown, with cumulative ablations in Mermaid."""
    sign = RECORDED_SIGN if report.is_recorded else SIGNS[report.status]
    parts = [f"### {sign} {escaped(report.verdict_line)}"]
    parts += [escaped(f"{m.where}{m.compared}.") for m in report.machines if m.compared]
    parts += [f"⚠️ **{escaped(warning)}**" for warning in report.warnings]
    lines = [f"{m.where}{attribution}" for m in report.machines for attribution in m.attributions]
    lines = [*report.leads, *lines]
    if lines:
        parts.append("\n".join(f"- **{escaped(line)}**" for line in lines))
    if report.changed:
        parts.append(_table(report.changed, reasons=True))
    elif not report.is_recorded:
        parts.append("No case changed.")
    if report.remedies:
        parts.append("\n".join(f"- {escaped(line)}" for line in report.remedies))
    parts += [_ablations(machine) for machine in report.machines]
    parts.append(_folded(f"All {len(report.rows)} cases", _table(report.rows, reasons=False)))
    if report.scalings:
        parts.append(
            _folded(SCALING, f"{_escaped_grid(scaling_table(report.scalings))}\n\n{ABOUT_SCALING}")
        )
    parts.append(_folded(SERVING, _serving(report)))
    rows = changed_among(report.reproducible) or report.reproducible
    commands = "\n".join(row.command for row in rows)
    parts.append(_folded("Reproduce", fenced(commands, "console")))
    return "\n\n".join(part for part in parts if part) + "\n"


def _serving(report: Report) -> str:
    """Return latency, throughput and start of the first cases; the page has those of all."""
    table = serving_table(report.rows)
    more = len(table) - 1 - MOST_SERVED
    others = f" {more} more lines are on the page." if more > 0 else ""
    return f"{_escaped_grid(table[: MOST_SERVED + 1])}\n\n{ABOUT_SERVING}{others}"


def _escaped_grid(table: Sequence[Sequence[str]]) -> str:
    header, *lines = [[*map(escaped, line)] for line in table]
    return _grid(header, lines)


def _table(rows: Sequence[ReportRow], *, reasons: bool) -> str:
    """Return one line for each row; a column that no row has is left out."""
    cells = [_cells(row) for row in rows]
    heads = [head for head in cells[0] if any(line[head] != MISSING for line in cells)]
    heads = [head for head in heads if head != "machine" or any(row.where for row in rows)]
    heads = [head for head in heads if head != "reason" or reasons]
    lines = [[escaped(line[head]) for head in heads] for line in cells]
    return _grid(heads, lines)


def _grid(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = "|" + " --- |" * len(header)
    return "\n".join([_line(header), rule, *map(_line, lines)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: ReportRow) -> dict[str, str]:
    summary, verdict = row.summary, row.verdict
    return {
        "verdict": verdict.outcome.display,
        "machine": row.gpu,
        "case": f"{row.case.model}: {row.label}",
        "image": f"{row.value:.3f} {row.unit} ({row.low:.3f}–{row.high:.3f})",
        "change": change_text(verdict),
        "ms/step": f"{summary.step_ms:.1f}",
        "compile (s)": _figure(summary.compile_s, 0),
        "memory (GiB)": _figure(summary.peak_memory_gib, 1),
        "PSNR (dB)": psnr_text(row.measured.artifacts.get("quality")),
        "reason": _short(verdict.reason),
    }


def change_text(verdict: ReportedVerdict) -> str:
    """Return the change that a verdict shows with the figure that it is of, as far as known."""
    if verdict.shown:
        return str(verdict.shown)
    return MISSING if verdict.change is None else percent(verdict.change)


def _figure(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}…"


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{inert(title)}</summary>\n\n{text}\n\n</details>"


def _ablations(machine: MachineReport) -> str:
    charts = [chart for rows in machine.workloads if (chart := _ablation(rows))]
    title = f"Cumulative ablation on {machine.gpu}"
    return _folded(title, "\n\n".join(charts)) if charts else ""


def _ablation(rows: Sequence[ReportRow]) -> str:
    steps = ablation_steps(rows)[:MOST_STEPS]
    if len(steps) < 2:
        return ""
    names = ", ".join(f'"{step.name}"' for step in steps)
    values = ", ".join(f"{step.row.value:.4g}" for step in steps)
    highest = max(step.row.value for step in steps) * 1.05
    return "\n".join(
        [
            "```mermaid",
            "---",
            "config:",
            f"  xyChart: {{height: {HEAD_PX + STEP_PX * len(steps)}}}",
            f'  themeVariables: {{xyChart: {{plotColorPalette: "{BAR_COLOUR}"}}}}',
            "---",
            "xychart-beta horizontal",
            f'  title "{rows[0].workload}"',
            f"  x-axis [{names}]",
            f'  y-axis "{value_title(rows[0].metric)}" 0 --> {highest:.4g}',
            f"  bar [{values}]",
            "```",
        ]
    )
