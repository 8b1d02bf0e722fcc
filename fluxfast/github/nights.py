"""The night: acceptances, issues, the history's branch, and proposed baselines."""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from fluxfast.github.client import FAILED, PASSED, gh, run, say
from fluxfast.github.labels import ACCEPTING_LABEL, ISSUE_LABEL, accepting_reason
from fluxfast.github.slowdowns import accepted_slowdowns, issue_actions, slowdowns

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
                measured_at=first_measured(
                    (pull["mergeCommit"] or {}).get("oid", ""), merged_at, known
                ),
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
    """When the first of `commits` (with their times) that holds `merge` was measured, or ""."""
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
    to_open, to_close = issue_actions(slowdowns(history), known or [])
    for slowdown in to_open:
        gh("issue", "create", "--title", slowdown.title, "--body", slowdown.body, "--label",
           ISSUE_LABEL)  # fmt: skip
    for number in to_close:
        gh("issue", "close", str(number), "--comment", "The level is back, or accepted.")
    say(f"opened {len(to_open)}, closed {len(to_close)}")
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

    A slowdown is worth it once the history has it as a change point that was accepted.
    """
    accepted = accepted_slowdowns(history)
    found = {}
    for case in report["cases"]:
        where = case["gpu"], case["case"]
        if case["outcome"] in WORTH_PROPOSING:
            found[where] = case["outcome"]
        elif case["outcome"] == "slower" and where in accepted:
            found[where] = f"slower as accepted in {accepted[where]}"
    return found


def propose(options: argparse.Namespace) -> int:
    """A pull request with new baselines, of the cases that are worth one."""
    from fluxfast.bench.result import read_results

    report, history = (
        json.loads(path.read_text(encoding="utf-8")) for path in (options.report, options.history)
    )
    worth = worth_proposing(report, history)
    if not worth:
        say("no new baseline to propose")
        return PASSED
    refused = []
    for folder in options.results:
        gpu = read_results([folder])[0].environment["hardware"]["name"]
        for case in (case for of_gpu, case in sorted(worth) if of_gpu == gpu):
            command = ("fluxfast", "baseline", "accept", str(folder), f"--case={case}")
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                refused.append(f"- `{case}` on {gpu}\n\n```\n{done.stderr.strip()}\n```\n")
                del worth[gpu, case]
    say("".join(refused) or "none was refused")
    if not worth:
        return FAILED
    run("gh", "auth", "setup-git")
    run("git", "switch", "--quiet", "--force-create", BASELINE_BRANCH)
    run("git", "add", "baselines")
    title = f"New baselines: {', '.join(sorted(set(worth.values())))}"
    run("git", *AUTHOR, "commit", "--quiet", "--message", title)
    run("git", "push", "--quiet", "--force", "origin", BASELINE_BRANCH)
    open_pulls = gh("pr", "list", "--head", BASELINE_BRANCH, "--json", "number")
    verb = ("edit", str(open_pulls[0]["number"])) if open_pulls else (
        "create", "--head", BASELINE_BRANCH, "--base", options.base
    )  # fmt: skip
    if refused:
        with options.body.open("a", encoding="utf-8") as file:
            file.write("\n\nWorth a baseline, but refused:\n\n" + "\n".join(refused))
    gh("pr", *verb, "--title", title, "--body-file", str(options.body))
    say(f"proposed: {title}")
    return PASSED
