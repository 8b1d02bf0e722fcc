"""Add the processes of a card that a baseline lacks. No torch.

A card is compared with its own processes where the baseline has some, and cards of one model differ
by more than a gate has to detect. So a fleet is gated best by a baseline of all its cards. A card
joins with results that are *same* against those that were accepted by hand: what they hide of a
change is less than the tolerance, and no later card adds to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fluxfast.bench.baselines.accept import by_case
from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.verdicts.outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Who added processes to a baseline, and when.

    Attributes:
        by: a name.
        at: the date and time, in ISO 8601 with a time zone.
    """

    by: str
    at: str


@dataclass(frozen=True, kw_only=True)
class Extension:
    """A baseline with the processes of further cards.

    Attributes:
        baseline: the baseline, with the processes that were added.
        added: the results that were added.
        refused: for each case whose results were not added, the reason.
    """

    baseline: Baseline
    added: tuple[CaseResult, ...]
    refused: Mapping[str, str]


def with_cards(
    baseline: Baseline, results: Iterable[CaseResult], signature: Signature, processes: int
) -> Extension:
    """Return the baseline with the cases whose results are those of the same program.

    All cases are judged together, as those of one run, and not against cards that joined so: each
    might be slower by what the ones before it were allowed.

    Args:
        baseline: the baseline.
        results: processes of one commit on cards that the baseline lacks.
        signature: kept in the provenance of each process.
        processes: how many of a case each card needs.

    Raises:
        BaselineError: a result belongs to another machine.
    """
    cases = by_case(list(results))
    refused = {
        i: why for i, ours in cases.items() if (why := _why_not_new(baseline, ours, processes))
    }
    new = {case_id: ours for case_id, ours in cases.items() if case_id not in refused}
    verdicts = _without_added(baseline).judge_all(new)
    added = list[CaseResult]()
    for case_id, verdict in verdicts.items():
        if verdict.outcome is not Outcome.SAME:
            refused[case_id] = f"{verdict.outcome.value}: {verdict.reason}"
            continue
        signed = [_signed(result, signature) for result in cases[case_id]]
        baseline = baseline.accept([*baseline.results[case_id], *signed])
        added += signed
    return Extension(baseline=baseline, added=tuple(added), refused=refused)


def _without_added(baseline: Baseline) -> Baseline:
    kept = {
        case_id: tuple(one for one in of_case if "added_by" not in one.provenance)
        for case_id, of_case in baseline.results.items()
    }
    return replace(baseline, results=kept)


def _why_not_new(baseline: Baseline, results: Sequence[CaseResult], processes: int) -> str | None:
    known = {accepted.card for accepted in baseline.results.get(results[0].case.id, ())}
    if not known:
        return "it has no accepted process to compare with: use `fluxfast baseline accept`"
    if not all(result.card for result in results):
        return "a process without the UUID of its card"
    if there := sorted({result.card for result in results} & known):
        return f"the baseline has processes of {', '.join(there)}"
    card, count = min(Counter(result.card for result in results).items(), key=lambda one: one[1])
    return f"{count} of {processes} processes of {card}" if count < processes else None


def _signed(result: CaseResult, signature: Signature) -> CaseResult:
    by = {"added_by": signature.by, "added_at": signature.at}
    return replace(result, provenance={**result.provenance, **by})
