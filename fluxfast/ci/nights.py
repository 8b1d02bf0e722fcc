"""Process the results of a night: acceptances, issues, the history's branch, new baselines."""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fluxfast.bench.verdicts.outcome import ACCEPTING_LABEL, PASSED_STATUS, Outcome
from fluxfast.ci.client import gh, note, output_of, say, with_body
from fluxfast.ci.labels import ISSUE_LABEL, accepting_reason
from fluxfast.ci.slowdowns import accepted_slowdowns, issue_actions
from fluxfast.report.escaping import escaped, fenced

BASELINE_BRANCH = "baselines/nightly"
WORTH_PROPOSING = (Outcome.FASTER, Outcome.CHANGED, Outcome.NEW, Outcome.WRONG_STACK)
AUTHOR = ("-c", "user.name=fluxfast", "-c", "user.email=fluxfast@users.noreply.github.com")


def accepted(options: argparse.Namespace) -> int:
    """Record in the history which merged pull requests had their slowdown accepted, and why."""
    from fluxfast.history.database import Acceptance, add_acceptances, opened
    from fluxfast.history.queries import commits

    merged, found = merged_pulls(), []
    with opened(options.database) as connection:
        known = commits(connection)
        for pull in merged:
            reason = accepting_reason(pull["body"] or "")
            if not reason:
                continue
            merge, merged_at = pull["mergeCommit"]["oid"], pull["mergedAt"].replace("Z", "+00:00")
            if not has_commit(merge):
                note(f"passed over #{pull['number']}: this clone does not have its merge {merge}")
                continue
            acceptance = Acceptance(
                pull=f"#{pull['number']}",
                merged_at=merged_at,
                measured_at=first_measured(merge, merged_at, known),
                who=(pull["mergedBy"] or {}).get("login", "unknown"),
                reason=reason,
            )
            found.append(acceptance)
        add_acceptances(connection, found)
    say(f"recorded {len(found)} acceptances in {options.database}")
    return PASSED_STATUS


def merged_pulls() -> Sequence[Mapping[str, Any]]:
    """Return the newest merged pull requests with the accepting label."""
    fields = "number,body,mergedAt,mergedBy,mergeCommit"
    found: Sequence[Mapping[str, Any]] = gh(
        "pr", "list", "--state", "merged", "--label", ACCEPTING_LABEL, "--limit", "100",
        "--json", fields)  # fmt: skip
    return found or []


def has_commit(commit: str) -> bool:
    """Return whether this clone has a commit; one of a deleted branch or fork may be gone."""
    known = ("git", "cat-file", "-e", f"{commit}^{{commit}}")
    return not subprocess.run(known, capture_output=True).returncode


def first_measured(merge: str, merged_at: str, commits: Sequence[tuple[str, str]]) -> str:
    """Return when the first commit that contains a merge was measured; "" if none was.

    A commit that this clone does not have, or that was measured before the merge, does not count.

    Args:
        merge: the merge commit.
        merged_at: when it was merged, in ISO 8601.
        commits: measured commits, each with the time of its first measurement, oldest first.
    """
    for commit, measured_at in commits:
        contains = ("git", "merge-base", "--is-ancestor", merge, commit.removesuffix("+dirty"))
        is_later = measured_at >= merged_at
        if is_later and not subprocess.run(contains, capture_output=True).returncode:
            return measured_at
    return ""


def issues(options: argparse.Namespace) -> int:
    """Open an issue for each new slowdown of the history, and close those that are over."""
    history = json.loads(options.history.read_text(encoding="utf-8"))
    known = gh("issue", "list", "--label", ISSUE_LABEL, "--state", "all", "--limit", "200",
               "--json", "number,body,state")  # fmt: skip
    actions = issue_actions(history, known or [])
    for new in actions.to_open:
        gh("issue", "create", "--title", new.title, "--body", new.body, "--label", ISSUE_LABEL)
    for number in actions.to_close:
        comment = "The slowdown has recovered, was accepted, or went with the card."
        gh("issue", "close", str(number), "--comment", comment)
    for number, slowdown in actions.to_edit.items():
        gh("issue", "edit", str(number), "--title", slowdown.title, "--body", slowdown.body)
    say(
        f"issues: {len(actions.to_open)} opened, {len(actions.to_close)} closed, "
        f"{len(actions.to_edit)} edited"
    )
    return PASSED_STATUS


def keep(options: argparse.Namespace) -> int:
    """Commit and push the history from its worktree."""
    output_of("gh", "auth", "setup-git")
    git = ("git", "-C", str(options.folder))
    output_of(*git, "add", "history.sqlite3")
    if not output_of(*git, "status", "--porcelain", "--untracked-files=no"):
        say("the history did not change")
        return PASSED_STATUS
    output_of(*git, *AUTHOR, "commit", "--quiet", "--message", "Add the results of the night")
    output_of(*git, "push", "--quiet")
    say("pushed the history")
    return PASSED_STATUS


def worth_proposing(
    report: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    merged: Sequence[Mapping[str, Any]] = (),
) -> dict[tuple[str, str], str]:
    """Return the cases whose figures should become their baseline, with the reason.

    A slowdown qualifies once the history has it as an accepted change point, and a broken case if
    accepted pull requests name all that is worse. Cases measured by fewer processes than a baseline
    takes (the ablation, once a night) do not qualify.

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
        elif outcome is Outcome.SLOWER and where in accepted:
            found[where] = f"{outcome.value} as accepted in {accepted[where]}"
        elif outcome is Outcome.BROKEN and (pulls := _breaking(case, merged)):
            found[where] = f"{outcome.value} as accepted in {', '.join(pulls)}"
    return found


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


def propose(options: argparse.Namespace) -> int:
    """Open or update a pull request with the new baselines that are worth one."""
    report, history = (
        json.loads(path.read_text(encoding="utf-8")) for path in (options.report, options.history)
    )
    worth = worth_proposing(report, history, merged_pulls())
    if not worth:
        say("no new baseline to propose")
        return PASSED_STATUS
    refused = _accept(options.results, list(worth))
    refusals = [
        f"- `{case}` on {escaped(gpu)}\n\n{fenced(why)}\n" for (gpu, case), why in refused.items()
    ]
    if refusals:
        note("`fluxfast baseline accept` refused:\n\n" + "\n".join(refusals))
    worth = {where: why for where, why in worth.items() if where not in refused}
    if worth:
        title = _push(worth)
        body = [
            f"- {escaped(why)}: `{case}` on {escaped(gpu)}" for (gpu, case), why in worth.items()
        ]
        body += ["", "Refused:", "", *refusals] if refusals else []
        summary = options.body.read_text(encoding="utf-8")
        _open_pull(title, "\n".join([*body, "", summary]), options.base)
        say(f"proposed: {title}")
    return PASSED_STATUS


def _push(worth: Mapping[tuple[str, str], str]) -> str:
    """Commit the baselines to their branch and push it; return the title of the commit."""
    output_of("gh", "auth", "setup-git")
    output_of("git", "switch", "--quiet", "--force-create", BASELINE_BRANCH)
    output_of("git", "add", "baselines")
    kinds = sorted({why.partition(" as ")[0] for why in worth.values()})
    title = f"New baselines: {', '.join(kinds)}"
    output_of("git", *AUTHOR, "commit", "--quiet", "--message", title)
    output_of("git", "push", "--quiet", "--force", "origin", BASELINE_BRANCH)
    return title


def _open_pull(title: str, text: str, base: str) -> None:
    """Open the pull request of the baselines' branch, or update the open one."""
    open_pulls = gh("pr", "list", "--head", BASELINE_BRANCH, "--json", "number")
    verb = ["create", "--head", BASELINE_BRANCH, "--base", base]
    if open_pulls:
        verb = ["edit", str(open_pulls[0]["number"])]
    with_body(text, "pr", *verb, "--title", title, "--body-file", "")


def _accept(
    folders: Sequence[Path], worth: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    """Accept the figures of each case as its baseline; return why those refused were refused."""
    from fluxfast.bench.results.store import read_results

    refused = {}
    for folder in folders:
        gpu = read_results([folder])[0].environment["hardware"]["name"]
        for case in (case for of_gpu, case in worth if of_gpu == gpu):
            command = ("fluxfast", "baseline", "accept", str(folder), f"--case={case}")
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                refused[gpu, case] = done.stderr.strip()
    return refused
