"""Progress lines of a session, with the time that is left. No torch."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from fluxfast.bench.cases.planned import PlannedCase


def left_s(begun_s: Sequence[float], now_s: float, after: int) -> float | None:
    """Return the seconds that are left if the next cases take as long as the finished ones.

    Args:
        begun_s: when each case began, the current one last.
        now_s: the time now.
        after: how many cases follow the current one.

    Returns:
        Seconds; None during the first case.
    """
    if len(begun_s) < 2:
        return None
    mean_s = (begun_s[-1] - begun_s[0]) / (len(begun_s) - 1)
    return after * mean_s + max(0.0, mean_s - (now_s - begun_s[-1]))


def left_text(seconds: float | None) -> str:
    """Return the time left as text, for example `, about 3 min left`; empty for None."""
    if seconds is None:
        return ""
    if seconds < 10:
        return ", a few seconds left"
    if seconds < 90:
        return f", about {seconds:.0f} s left"
    return f", about {seconds / 60:.0f} min left"


@dataclass(kw_only=True)
class Progress:
    """Prints how far a session is.

    Attributes:
        config: the session's configuration, for its terminal.
        begun_s: when each case began, by case id, as `time.monotonic` counts.
    """

    config: pytest.Config
    begun_s: dict[str, float] = field(default_factory=dict)

    def stage(
        self,
        planned: PlannedCase,
        stage: str,
        selected: Sequence[PlannedCase],
        done: Collection[str],
    ) -> None:
        """Print the stage of a case and the time left.

        Args:
            planned: the case.
            stage: what happens now.
            selected: all cases of the session.
            done: the ids of the cases that are measured.
        """
        now_s, number = time.monotonic(), selected.index(planned) + 1
        self.begun_s.setdefault(planned.case.id, now_s)
        after = [p for p in selected if p.case.id not in {*self.begun_s, *done}]
        left = left_text(left_s(list(self.begun_s.values()), now_s, len(after)))
        place = f"[{number}/{len(selected)}{left}]"
        self.line(f"{place} {planned.case.model}, {planned.label}: {stage}")

    def line(self, text: str) -> None:
        """Print a line past pytest's capture; nothing with -q."""
        reporter: Any = self.config.pluginmanager.get_plugin("terminalreporter")
        capture: Any = self.config.pluginmanager.get_plugin("capturemanager")
        if reporter is None or capture is None or self.config.get_verbosity() < 0:
            return
        with capture.global_and_fixture_disabled():
            if not reporter.isatty:  # a log
                reporter.write_line(text)
                return
            if reporter.currentfspath is None:  # the line that ends here is a progress line
                reporter.write_line("")
            reporter.ensure_newline()
            reporter.write(f"{text} ")
