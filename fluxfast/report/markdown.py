"""The summary for a pull request: the verdict, what changed, the rest folded. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from fluxfast.bench.results.artifacts import told
from fluxfast.report.charts import steps_of
from fluxfast.report.inputs import RECORDED
from fluxfast.report.report import Machine, Report
from fluxfast.report.rows import Row

SIGNS = {"pass": "✅", "fail": "❌", "not judged": "⚠️"}
MOST_STEPS = 12
LONGEST_REASON = 400
HEAD_PX, STEP_PX, BAR_COLOUR = 110, 34, "#5b8fd0"  # readable on white and on black


def markdown(report: Report) -> str:
    """GitHub-flavoured; the staircases are pictures that GitHub draws (Mermaid)."""
    sign = "📌" if set(report.outcomes) == {RECORDED} else SIGNS[report.status]
    parts = [f"### {sign} {report.verdict_line}"]
    lines = [f"{machine.where}{b}" for machine in report.machines for b in machine.blames]
    if lines:
        parts.append("\n".join(f"- **{line}**" for line in lines))
    if report.changed:
        parts.append(_table(report.changed, reasons=True))
    elif set(report.outcomes) != {RECORDED}:
        parts.append("Nothing changed.")
    parts += [_staircases(machine) for machine in report.machines]
    parts.append(_folded(f"All {len(report.rows)} cases", _table(report.rows, reasons=False)))
    commands = "\n".join(row.command for row in report.changed or report.rows)
    parts.append(_folded("Reproduce", f"```console\n{commands}\n```"))
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(rows: Sequence[Row], *, reasons: bool) -> str:
    qualities = [told(row.measured.extras.get("quality")) for row in rows]
    has_quality = any(quality != "–" for quality in qualities)
    has_machines = any(row.where for row in rows)
    head = ["verdict", *(["machine"] if has_machines else []), "case", "image", "change"]
    head += ["step ms", "compile s", "GiB", *(["PSNR dB"] if has_quality else [])]
    head += ["reason"] if reasons else []
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row, quality in zip(rows, qualities, strict=True):
        s, change = row.summary, row.judgement.change
        cells = [
            row.judgement.outcome.upper() if not row.judgement.passes else row.judgement.outcome,
            *([row.gpu] if has_machines else []),
            f"{row.case.model}: {row.label}",
            f"{row.value:.3f} {row.unit} ({row.low:.3f}–{row.high:.3f})",
            "–" if change is None else f"{change:+.1%}",
            f"{s.step_ms:.1f}",
            "–" if s.compile_s is None else f"{s.compile_s:.0f}",
            "–" if s.peak_memory_gib is None else f"{s.peak_memory_gib:.1f}",
        ]
        cells += [quality] if has_quality else []
        cells += [_short(row.judgement.reason)] if reasons else []
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}…"


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def _staircases(machine: Machine) -> str:
    drawn = [picture for rows in machine.workloads if (picture := _staircase(rows))]
    return _folded(f"Staircase on {machine.gpu}", "\n\n".join(drawn)) if drawn else ""


def _staircase(rows: Sequence[Row]) -> str:
    steps = steps_of(rows)[:MOST_STEPS]
    if len(steps) < 2:
        return ""
    unit = "s" if rows[0].unit == "s" else "times eager"
    names = ", ".join(f'"{name}"' for name, _ in steps)
    values = ", ".join(f"{row.value:.4g}" for _, row in steps)
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
            f'  y-axis "an image, {unit}" 0 --> {max(row.value for _, row in steps) * 1.05:.4g}',
            f"  bar [{values}]",
            "```",
        ]
    )
