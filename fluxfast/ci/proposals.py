"""Propose new baselines: choose and write them without a token, open the pull request with one.

The two run in jobs of their own. Only the first needs packages, so no package runs next to a token
that can write.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fluxfast.bench.verdicts.outcome import PASSED_STATUS, Outcome
from fluxfast.ci.client import gh, note, output_of, say, with_body
from fluxfast.ci.labels import accepting_reason
from fluxfast.ci.nights import AUTHOR, merged_pulls
from fluxfast.ci.slowdowns import accepted_slowdowns
from fluxfast.errors import BaselineError
from fluxfast.files import write_atomically
from fluxfast.report.escaping import code, escaped, fenced

BASELINES = Path("baselines")
BASELINE_BRANCH = "baselines/nightly"
WORTH_PROPOSING = (Outcome.FASTER, Outcome.CHANGED, Outcome.NEW, Outcome.WRONG_STACK)
ANOTHER_CARD = "another card"


def worth_proposing(
    report: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    merged: Sequence[Mapping[str, Any]] = (),
) -> dict[tuple[str, str], str]:
    """Return the cases whose figures should become their baseline, with the reason.

    Results of a card that the baseline lacks qualify, if they are the same, to be added to the
    others. A slowdown qualifies once the history has it as an accepted change point, and a broken
    case if accepted pull requests name all that is worse. Cases measured by fewer processes than a
    baseline takes (the ablation, once a night) do not qualify.

    Args:
        report: the JSON of `fluxfast report`.
        history: the JSON of `fluxfast history`.
        merged: the merged pull requests with the accepting label.

    Returns:
        Reasons by GPU and case.
    """
    from fluxfast.bench.baselines.baseline import PROCESSES

    accepted = accepted_slowdowns(history)
    found = {}
    for case in (case for case in report["cases"] if case["processes"] >= PROCESSES):
        where, outcome = (case["gpu"], case["case"]), Outcome(case["outcome"])
        if outcome in WORTH_PROPOSING:
            found[where] = outcome.value
        elif outcome is Outcome.SAME and _is_on_another_card(case):
            found[where] = ANOTHER_CARD
        elif outcome is Outcome.SLOWER and where in accepted:
            found[where] = f"{outcome.value} as accepted in {accepted[where]}"
        elif outcome is Outcome.BROKEN and (pulls := _breaking(case, merged)):
            found[where] = f"{outcome.value} as accepted in {', '.join(pulls)}"
    return found


def _is_on_another_card(case: Mapping[str, Any]) -> bool:
    known = (case["before"] or {}).get("cards", ())
    return bool(known and case["cards"]) and not {*known} & {*case["cards"]}


def _breaking(case: Mapping[str, Any], merged: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the accepted pull requests that name what is worse in a case; none if not all of it.

    They were merged after the baseline of the case was measured, and before the case was.
    """
    since, until = (case["before"] or {}).get("measured_at"), case["measured_at"]
    found, named = [], set[str]()
    for pull in merged:
        merged_at = pull["mergedAt"].replace("Z", "+00:00")
        reason = accepting_reason(pull["body"] or "") or ""
        names = {name for name in case["worse"] if name in reason}
        if names and since and since < merged_at < until:
            found.append(f"#{pull['number']}")
            named |= names
    return found if named == set(case["worse"]) else []


def proposal(options: argparse.Namespace) -> int:
    """Accept the baselines that are worth it; write them with the text of their pull request."""
    report, history = (
        json.loads(path.read_text(encoding="utf-8")) for path in (options.report, options.history)
    )
    worth = worth_proposing(report, history, merged_pulls())
    before = _baselines()
    refused = _accept(options.results, worth)
    refusals = [f"- {_place(where)}\n\n{fenced(why)}\n" for where, why in refused.items()]
    if refusals:
        note("`fluxfast baseline` refused:\n\n" + "\n".join(refusals))
    worth = {where: why for where, why in worth.items() if where not in refused}
    kinds = sorted({why.partition(" as ")[0] for why in worth.values()})
    body = [f"- {escaped(why)}: {_place(where)}" for where, why in worth.items()]
    body += ["", "Refused:", "", *refusals] if refusals else []
    summary = options.body.read_text(encoding="utf-8")
    found = {
        "title": f"New baselines: {', '.join(kinds)}" if worth else "",
        "body": "\n".join([*body, "", summary]),
        "files": {name: text for name, text in _baselines().items() if text != before.get(name)},
    }
    write_atomically(options.output, json.dumps(found))
    say(f"to propose: {found['title'] or 'nothing'}")
    return PASSED_STATUS


def _place(where: tuple[str, str]) -> str:
    gpu, case = where
    return f"{code(case)} on {escaped(gpu)}"


def _baselines() -> dict[str, str]:
    """Return the text of each file of the baselines, by name."""
    return {path.name: path.read_text(encoding="utf-8") for path in BASELINES.iterdir()}


def _accept(
    folders: Sequence[Path], worth: Mapping[tuple[str, str], str]
) -> dict[tuple[str, str], str]:
    """Accept the figures of each case as its baseline; return why those refused were refused."""
    from fluxfast.bench.results.machine import hardware_of, machine_name
    from fluxfast.bench.results.store import read_results

    refused = {}
    for folder in folders:
        gpu = machine_name(hardware_of(read_results([folder])[0]))
        for case in (case for of_gpu, case in worth if of_gpu == gpu):
            is_added = worth[gpu, case] == ANOTHER_CARD
            action = ("add-card", "--by=nightly run") if is_added else ("accept",)
            command = ("fluxfast", "baseline", *action, str(folder), f"--case={case}")
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                refused[gpu, case] = done.stderr.strip()
    return refused


def propose(options: argparse.Namespace) -> int:
    """Open or update a pull request with the new baselines of a proposal."""
    found = json.loads(options.proposal.read_text(encoding="utf-8"))
    title = found["title"]
    if not title:
        say("no new baseline to propose")
        return PASSED_STATUS
    known = {path.stem for path in BASELINES.glob("*.json")}
    allowed = {f"{stem}{ending}" for stem in known for ending in (".json", ".history.tsv")}
    if foreign := sorted(found["files"].keys() - allowed):
        raise BaselineError(
            "a proposal of new baselines changes other files",
            got=", ".join(foreign),
            allowed=f"the files of the GPUs in {BASELINES}: {', '.join(sorted(known))}",
            remedy="read the log of the job that wrote it: it may run a compromised package",
        )
    output_of("gh", "auth", "setup-git")
    output_of("git", "switch", "--quiet", "--force-create", BASELINE_BRANCH)
    for name, text in found["files"].items():
        write_atomically(BASELINES / name, text)
    output_of("git", "add", str(BASELINES))
    output_of("git", *AUTHOR, "commit", "--quiet", "--message", title)
    output_of("git", "push", "--quiet", "--force", "origin", BASELINE_BRANCH)
    _open_pull(title, found["body"], options.base)
    say(f"proposed: {title}")
    return PASSED_STATUS


def _open_pull(title: str, text: str, base: str) -> None:
    """Open the pull request of the baselines' branch, or update the open one."""
    open_pulls = gh("pr", "list", "--head", BASELINE_BRANCH, "--json", "number")
    verb = ["create", "--head", BASELINE_BRANCH, "--base", base]
    if open_pulls:
        verb = ["edit", str(open_pulls[0]["number"])]
    with_body(text, "pr", *verb, "--title", title, "--body-file", "")
