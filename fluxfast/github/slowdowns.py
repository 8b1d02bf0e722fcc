"""The slowdowns of a history as issues: which to open, which to close. Pure, standard library."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from fluxfast.github.labels import ACCEPTING_LABEL

NIGHTS_APART = 2  # a change point may move so far as more nights are known


@dataclass(frozen=True, kw_only=True)
class Slowdown:
    """One change point, with every case on one GPU that moved with it: what is said of each."""

    gpu: str
    since: date
    commits: tuple[str, str]
    cases: Mapping[str, str]

    @property
    def title(self) -> str:
        plural = "" if len(self.cases) == 1 else "s"
        return f"{self.gpu}: {len(self.cases)} case{plural} slower since {self.since}"

    @property
    def body(self) -> str:
        cases = "\n".join(f"- `{case}`: {said}" for case, said in self.cases.items())
        good, changed = self.commits
        return (
            f"<!-- fluxfast slowdown | {self.gpu} | {self.since} -->\n{cases}\n\nlast good "
            f"`{good}`, first slower `{changed}`\n\nThis is closed by itself when the level is "
            f"back, or accepted with a pull request that has the label `{ACCEPTING_LABEL}` and a "
            "reason."
        )

    def is_of(self, body: str) -> bool:
        """Whether an issue with this body is about this slowdown: one of its cases, about then."""
        found = re.match(r"<!-- fluxfast slowdown \| (.+?) \| (\S+) -->", body)
        if not found or found[1] != self.gpu:
            return False
        apart = abs(date.fromisoformat(found[2]) - self.since)
        of_it = set(re.findall(r"^- `(.+?)`:", body, re.MULTILINE))
        return apart <= timedelta(days=NIGHTS_APART) and bool(of_it & self.cases.keys())


def slowdowns(history: Sequence[Mapping[str, Any]]) -> list[Slowdown]:
    """What `fluxfast history --json` says is still slower, by GPU and commits."""
    found: dict[tuple[str, date, tuple[str, str]], dict[str, str]] = {}
    for series in history:
        for change in series["changes"]:
            if change["still_slower"]:
                commits = change["last_good_commit"], change["first_changed_commit"]
                since = date.fromisoformat(change["date"][:10])
                said = f"{change['relative']:+.1%}, {change['cause']}: {change['detail']}"
                found.setdefault((series["gpu"], since, commits), {})[series["case"]] = said
    return [
        Slowdown(gpu=gpu, since=since, commits=commits, cases=cases)
        for (gpu, since, commits), cases in found.items()
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

    An issue that somebody closed stays closed; a slowdown of another night is another one.
    """
    bodies = [issue["body"] or "" for issue in issues]
    to_open = [s for s in now if not any(s.is_of(body) for body in bodies)]
    to_close = [
        issue["number"]
        for issue, body in zip(issues, bodies, strict=True)
        if issue["state"] == "OPEN" and body.startswith("<!-- fluxfast slowdown")
        if not any(s.is_of(body) for s in now)
    ]
    return to_open, to_close
