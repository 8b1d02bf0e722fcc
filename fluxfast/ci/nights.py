"""The night: acceptances, issues, the history's branch, and proposed baselines."""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fluxfast.ci.client import PASSED, gh, note, run, say, with_body
from fluxfast.ci.labels import ACCEPTING_LABEL, ISSUE_LABEL, accepting_reason
from fluxfast.ci.slowdowns import accepted_slowdowns, issue_actions

BASELINE_BRANCH = "baselines/nightly"
WORTH_PROPOSING = ("faster", "new", "wrong stack")
AUTHOR = ("-c", "user.name=fluxfast", "-c", "user.email=fluxfast@users.noreply.github.com")


def accepted(options: argparse.Namespace) -> int:
    """Record in the history which merged pull requests had their slowdown accepted, and why."""
    from fluxfast.history.store import Acceptance, accept, commits, opened

    fields = "number,body,mergedAt,mergedBy,mergeCommit"
    merged = gh("pr", "list", "--state", "merged", "--label", ACCEPTING_LABEL, "--limit", "100",
                "--json", fields)  # fmt: skip
    with opened(options.database) as connection:
        known = commits(connection)
        found = [
            Acceptance(
                pull=f"#{pull['number']}",
                merged_at=(merged_at := pull["mergedAt"].replace("Z", "+00:00")),
                measured_at=first_measured(pull["mergeCommit"]["oid"], merged_at, known),
                who=(pull["mergedBy"] or {}).get("login", "unknown"),
                reason=reason,
            )
            for pull in merged
            if (reason := accepting_reason(pull["body"] or ""))
        ]
        accept(connection, found)
    say(f"{len(found)} acceptances are in {options.database}")
    return PASSED


def first_measured(merge: str, merged_at: str, commits: Sequence[tuple[str, str]]) -> str:
    """When the first of `commits` (with their times) that holds `merge` was measured, or "".

    Raises CalledProcessError in a clone that lacks `merge`; a commit that it lacks holds nothing.
    """
    run("git", "cat-file", "-e", f"{merge}^{{commit}}")
    run("git", "cat-file", "-e", f"{merge}^{{commit}}")  # an error in a clone without the past
    for commit, measured_at in commits:
        held = ("git", "merge-base", "--is-ancestor", merge, commit.removesuffix("+dirty"))
        if measured_at >= merged_at and not subprocess.run(held, capture_output=True).returncode:
            return measured_at
    return ""


def issues(options: argparse.Namespace) -> int:
    """Open an issue for each new slowdown of the history, close those that are over."""
    history = json.loads(options.history.read_text(encoding="utf-8"))
    known = gh("issue", "list", "--label", ISSUE_LABEL, "--state", "all", "--limit", "200",
               "--json", "number,body,state")  # fmt: skip
    do = issue_actions(history, known or [])
    for new in do.to_open:
        gh("issue", "create", "--title", new.title, "--body", new.body, "--label", ISSUE_LABEL)
    for number in do.to_close:
        gh("issue", "close", str(number), "--comment", "The level is back, or accepted.")
    for number, seen in do.to_edit.items():
        gh("issue", "edit", str(number), "--title", seen.title, "--body", seen.body)
    say(f"opened {len(do.to_open)}, closed {len(do.to_close)}, edited {len(do.to_edit)}")
    return PASSED


def keep(options: argparse.Namespace) -> int:
    """Commit and push the history from its worktree."""
    run("gh", "auth", "setup-git")
    git = ("git", "-C", str(options.folder))
    run(*git, "add", "history.sqlite3")
    if not run(*git, "status", "--porcelain", "--untracked-files=no"):
        say("the history has nothing new")
        return PASSED
    run(*git, *AUTHOR, "commit", "--quiet", "--message", "Results of the night")
    run(*git, "push", "--quiet")
    say("pushed the history")
    return PASSED


def worth_proposing(
    report: Mapping[str, Any], history: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str], str]:
    """Why a case's figures should be its baseline, by GPU and case.

    A slowdown is worth it once the history has it as a change point that was accepted. What fewer
    processes measured than a baseline takes (the ablation, once a night) is not.
    """
    from fluxfast.bench.baselines.baseline import PROCESSES

    accepted = accepted_slowdowns(history)
    found = {}
    for case in (case for case in report["cases"] if case["processes"] >= PROCESSES):
        where = case["gpu"], case["case"]
        if case["outcome"] in WORTH_PROPOSING:
            found[where] = case["outcome"]
        elif case["outcome"] == "slower" and where in accepted:
            found[where] = f"slower as accepted in {accepted[where]}"
    return found


def propose(options: argparse.Namespace) -> int:
    """A pull request with new baselines, of the cases that are worth one."""
    report, history = (
        json.loads(path.read_text(encoding="utf-8")) for path in (options.report, options.history)
    )
    worth = worth_proposing(report, history)
    if not worth:
        say("no new baseline to propose")
        return PASSED
    refused = _accept(options.results, list(worth))
    told = [f"- `{case}` on {gpu}\n\n```\n{why}\n```\n" for (gpu, case), why in refused.items()]
    if told:
        note("Worth a baseline, but refused:\n\n" + "\n".join(told))
    worth = {where: why for where, why in worth.items() if where not in refused}
    if not worth:
        return PASSED
    run("gh", "auth", "setup-git")
    run("git", "switch", "--quiet", "--force-create", BASELINE_BRANCH)
    run("git", "add", "baselines")
    kinds = sorted({why.partition(" as ")[0] for why in worth.values()})
    title = f"New baselines: {', '.join(kinds)}"
    run("git", *AUTHOR, "commit", "--quiet", "--message", title)
    run("git", "push", "--quiet", "--force", "origin", BASELINE_BRANCH)
    open_pulls = gh("pr", "list", "--head", BASELINE_BRANCH, "--json", "number")
    verb = ("edit", str(open_pulls[0]["number"])) if open_pulls else (
        "create", "--head", BASELINE_BRANCH, "--base", options.base
    )  # fmt: skip
    body = [f"- {why}: `{case}` on {gpu}" for (gpu, case), why in worth.items()]
    body += ["", "Refused:", "", *told] if told else []
    text = "\n".join([*body, "", options.body.read_text(encoding="utf-8")])
    with_body(text, "pr", *verb, "--title", title, "--body-file", "")
    say(f"proposed: {title}")
    return PASSED


def _accept(
    folders: Sequence[Path], worth: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    """Make each case's figures its baseline; why it was refused of those that were."""
    from fluxfast.bench.results.result import read_results

    refused = {}
    for folder in folders:
        gpu = read_results([folder])[0].environment["hardware"]["name"]
        for case in (case for of_gpu, case in worth if of_gpu == gpu):
            command = ("fluxfast", "baseline", "accept", str(folder), f"--case={case}")
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                refused[gpu, case] = done.stderr.strip()
    return refused
