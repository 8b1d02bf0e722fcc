"""Name what the cases of a report are compared with. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fluxfast.bench.results.machine import stack_difference
from fluxfast.bench.results.origin import commit_text
from fluxfast.report.rows import ReportRow


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The two sides that `--against` compares. The field names are keys of the report's JSON.

    Attributes:
        before: the other side, by its commit.
        after: this side.
        stack: the packages that differ, as `torch 2.11.0 → 2.12.0`; "" where none does.
        processes_before: the most processes that measured a case of the other side.
        processes_after: likewise of this side.
    """

    before: str
    after: str
    stack: str
    processes_before: int
    processes_after: int

    def __str__(self) -> str:
        """Return one line with both sides."""
        stack = f"; {self.stack}" if self.stack else ""
        after, before = (
            f"{name} ({count} process{'' if count == 1 else 'es'})"
            for name, count in (
                (self.after, self.processes_after),
                (self.before, self.processes_before),
            )
        )
        return f"{after} compared with {before}{stack}"


def compared(rows: Sequence[ReportRow]) -> Compared | None:
    """Return the sides that the rows of one machine compare; None without `--against`."""
    pairs = [(row.measured, row.other) for row in rows if row.other]
    if not pairs:
        return None
    after, before = (side.results[-1] for side in pairs[-1])
    return Compared(
        before="an accepted baseline" if pairs[-1][1].is_accepted else commit_text(before),
        after=commit_text(after),
        stack=stack_difference(before, after),
        processes_before=max(len(other.results) for _, other in pairs),
        processes_after=max(len(measured.results) for measured, _ in pairs),
    )
