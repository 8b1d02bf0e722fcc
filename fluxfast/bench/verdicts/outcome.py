"""The outcome of judging one case: one enum for the suite, the report and CI. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

# Exit statuses of `pytest perf_tests` and of CI. 6 comes after pytest's own 0 to 5.
PASSED_STATUS, FAILED_STATUS, NOT_JUDGED_STATUS = 0, 1, 6
# How to make a result the new baseline, for messages.
HOW_TO_ACCEPT = (
    "measure three times with --record --results DIR, each with a DIR of its own, then "
    "`fluxfast baseline accept DIR DIR DIR`"
)
# The label of a pull request that accepts what its description names in a line of the same name.
ACCEPTING_LABEL = "perf-ok"


class Outcome(StrEnum):
    """The outcome of one case. The values are stored in results and baselines."""

    SAME = "same"
    FASTER = "faster"
    CHANGED = "changed"
    SLOWER = "slower"
    UNDECIDED = "undecided"
    NEW = "new"
    BROKEN = "broken"
    INVALID_RUNNER = "invalid runner"
    WRONG_STACK = "wrong stack"
    RECORDED = "recorded"

    @property
    def is_pass(self) -> bool:
        """Return whether the case passes; RECORDED does, because it was measured for a baseline."""
        return self in (Outcome.SAME, Outcome.FASTER, Outcome.CHANGED, Outcome.RECORDED)

    @property
    def is_judged(self) -> bool:
        """Return whether the outcome is pass or fail; UNDECIDED and INVALID_RUNNER are neither."""
        return self not in (Outcome.UNDECIDED, Outcome.INVALID_RUNNER)

    @property
    def exit_code(self) -> int:
        """Exit status of a gate in which this is the worst outcome.

        `pytest perf_tests` alone differs: it skips an undecided case, and a skip leaves its status
        0.
        """
        if self.is_pass:
            return PASSED_STATUS
        return FAILED_STATUS if self.is_judged else NOT_JUDGED_STATUS

    @property
    def display(self) -> str:
        """The outcome for tables: upper case where the case does not pass."""
        return self.value if self.is_pass else self.value.upper()


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """Return the exit status of a run: a failure outweighs a case that was not judged."""
    statuses = {outcome.exit_code for outcome in outcomes}
    return next(
        (status for status in (FAILED_STATUS, NOT_JUDGED_STATUS) if status in statuses),
        PASSED_STATUS,
    )
