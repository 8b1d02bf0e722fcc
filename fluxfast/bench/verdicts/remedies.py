"""Name the remedy of a verdict: one for a stored baseline, another for `--against`. No torch."""

from __future__ import annotations

from fluxfast.bench.verdicts.outcome import ACCEPTING_LABEL, HOW_TO_ACCEPT, Outcome
from fluxfast.bench.verdicts.verdict import Verdict

AGAINST_A_BASELINE = {
    Outcome.SLOWER: f"find the commit, or accept the slowdown: {HOW_TO_ACCEPT}",
    Outcome.BROKEN: f"find what changed {{names}}, or accept it: {HOW_TO_ACCEPT}",
    Outcome.FASTER: f"accept the speedup, or it hides the next slowdown: {HOW_TO_ACCEPT}",
    Outcome.CHANGED: f"make it the new baseline, or every run reports it: {HOW_TO_ACCEPT}",
    Outcome.UNDECIDED: "free the machine, raise --seconds, or compare with --against REF",
    Outcome.INVALID_RUNNER: "free the machine or use another one; the code was not judged",
    Outcome.WRONG_STACK: "install the baseline's stack, or record a new baseline with this one",
}
_ON_A_PULL_REQUEST = (
    f"or accept it on the pull request: add the label {ACCEPTING_LABEL} and, to its description, "
    f"the line `{ACCEPTING_LABEL}: REASON`"
)
_AFTER_THE_MERGE = (
    "a comparison stores nothing; after the merge the nightly run proposes the new baseline. "
    f"Without one, {HOW_TO_ACCEPT}"
)
AGAINST_A_REVISION = AGAINST_A_BASELINE | {
    Outcome.SLOWER: f"find the commit or the package, {_ON_A_PULL_REQUEST}",
    Outcome.BROKEN: f"find what changed {{names}}, {_ON_A_PULL_REQUEST}; REASON names {{names}}",
    Outcome.FASTER: _AFTER_THE_MERGE,
    Outcome.CHANGED: _AFTER_THE_MERGE,
    Outcome.UNDECIDED: "free the machine, or raise --seconds",
}


def remedy(verdict: Verdict, *, is_against: bool) -> str:
    """Return what to do about a verdict; "" if there is nothing to do.

    Args:
        verdict: the verdict on one case.
        is_against: the case was compared with another revision, not with a stored baseline.
    """
    found = (AGAINST_A_REVISION if is_against else AGAINST_A_BASELINE).get(verdict.outcome, "")
    return found.format(names=" and ".join(verdict.worse_names))
