"""The slowdowns of a history as issues: which to open, which to close. Pure, standard library."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fluxfast.github.labels import ACCEPTING_LABEL


@dataclass(frozen=True, kw_only=True)
class Slowdown:
    """One change point, with every case on one GPU that moved with it."""

    gpu: str
    since: str
    commits: tuple[str, str]
    lines: tuple[str, ...]

    @property
    def title(self) -> str:
        plural = "" if len(self.lines) == 1 else "s"
        return f"{self.gpu}: {len(self.lines)} case{plural} slower since {self.since}"

    @property
    def body(self) -> str:
        cases = "\n".join(f"- {line}" for line in self.lines)
        good, changed = self.commits
        return (
            f"{mark(self.gpu, self.commits)}\n{cases}\n\nlast good `{good}`, first slower "
            f"`{changed}`\n\nThis is closed by itself when the level is back, or accepted with a "
            f"pull request that has the label `{ACCEPTING_LABEL}` and a reason."
        )


def mark(gpu: str, commits: tuple[str, str]) -> str:
    return f"<!-- fluxfast slowdown | {gpu} | {' '.join(commits)} -->"


def slowdowns(history: Sequence[Mapping[str, Any]]) -> list[Slowdown]:
    """What `fluxfast history --json` says is still slower, by GPU and commits."""
    found: dict[tuple[str, tuple[str, str]], list[tuple[str, str]]] = {}
    for series in history:
        for change in series["changes"]:
            if change["still_slower"]:
                commits = change["last_good_commit"], change["first_changed_commit"]
                line = f"{change['relative']:+.1%} `{series['case']}`, {change['cause']}: "
                about = (change["date"][:10], line + change["detail"])
                found.setdefault((series["gpu"], commits), []).append(about)
    return [
        Slowdown(gpu=gpu, since=cases[0][0], commits=commits, lines=tuple(c[1] for c in cases))
        for (gpu, commits), cases in found.items()
    ]


def accepted_slowdowns(history: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """The pull requests that made a case slower and were accepted, by GPU and case.

    A case that is slower for another reason as well is not among them.
    """
    found = {}
    for series in history:
        slower = [change for change in series["changes"] if change["relative"] > 0]
        pulls = dict.fromkeys(one["pull"] for change in slower for one in change["accepted"])
        if pulls and not any(change["still_slower"] for change in slower):
            found[series["gpu"], series["case"]] = ", ".join(pulls)
    return found


def issue_actions(
    now: Sequence[Slowdown], issues: Sequence[Mapping[str, Any]]
) -> tuple[list[Slowdown], list[int]]:
    """What to open, and the numbers of what to close.

    A slowdown is that of an issue, open or closed, if they share a commit: its place may move by
    a night as more of them are known.
    """
    known = [(marked(issue["body"] or ""), issue) for issue in issues]

    def same(slowdown: Slowdown, of_issue: tuple[str, set[str]] | None) -> bool:
        return (
            of_issue is not None
            and of_issue[0] == slowdown.gpu
            and bool(of_issue[1] & set(slowdown.commits))
        )

    to_open = [s for s in now if not any(same(s, of_issue) for of_issue, _ in known)]
    to_close = [
        issue["number"]
        for of_issue, issue in known
        if of_issue and issue["state"] == "OPEN" and not any(same(s, of_issue) for s in now)
    ]
    return to_open, to_close


def marked(body: str) -> tuple[str, set[str]] | None:
    found = re.search(r"<!-- fluxfast slowdown \| (.+?) \| (.+?) -->", body)
    return (found[1], set(found[2].split())) if found else None
