"""Process the results of a night: acceptances, issues, the history's branch."""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Mapping, Sequence
from shutil import copyfile
from typing import Any

from fluxfast.bench.verdicts.outcome import ACCEPTING_LABEL, PASSED_STATUS
from fluxfast.ci.client import gh, note, output_of, say
from fluxfast.ci.labels import ISSUE_LABEL, accepting_reason
from fluxfast.ci.slowdowns import issue_actions

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
    """Commit a database as the history in the worktree of its branch, and push it.

    Another job wrote the database: only this file of it enters the worktree.
    """
    copyfile(options.database, options.folder / "history.sqlite3")
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
