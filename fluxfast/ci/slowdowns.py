"""The slowdowns of a history as issues: which to open, which to close. Pure, standard library."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from fluxfast.ci.labels import ACCEPTING_LABEL

NIGHTS_APART = 2  # a change point may move so far as more nights are known
MARK = "<!-- fluxfast slowdown"


@dataclass(frozen=True, kw_only=True)
class Slowdown:
    """One change point, with every case on one GPU that moved with it: what is said of each.

    `nights`: of the history, oldest first.
    """

    gpu: str
    since: date
    commits: tuple[str, str]
    cases: Mapping[str, str]
    nights: tuple[date, ...]

    @property
    def title(self) -> str:
        plural = "" if len(self.cases) == 1 else "s"
        return f"{self.gpu}: {len(self.cases)} case{plural} slower since {self.since}"

    @property
    def body(self) -> str:
        cases = "\n".join(f"- `{case}`: {said}" for case, said in self.cases.items())
        good, changed = self.commits
        return (
            f"{MARK} | {self.gpu} | {self.since} -->\n{cases}\n\nlast good "
            f"`{good}`, first slower `{changed}`\n\nThis is closed by itself when the level is "
            f"back, or accepted with a pull request that has the label `{ACCEPTING_LABEL}` and a "
            "reason."
        )

    def is_of(self, body: str) -> bool:
        """Whether an issue with this body is about this slowdown: one of its cases, about then."""
        marked = marks(body)
        if marked is None or marked[0] != self.gpu:
            return False
        then, since = (bisect_left(self.nights, day) for day in (marked[1], self.since))
        of_it = set(re.findall(r"^- `(.+?)`:", body, re.MULTILINE))
        return abs(then - since) <= NIGHTS_APART and bool(of_it & self.cases.keys())


def marks(body: str) -> tuple[str, date] | None:
    """The GPU and the first night that the body of an issue of ours is marked with."""
    found = re.match(rf"{MARK} \| (.+?) \| (\S+) -->", body)
    return (found[1], date.fromisoformat(found[2])) if found else None


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
    nights = tuple(nights_of(history))
    return [
        Slowdown(gpu=gpu, since=since, commits=commits, cases=cases, nights=nights)
        for (gpu, since, commits), cases in found.items()
    ]


def nights_of(history: Sequence[Mapping[str, Any]]) -> list[date]:
    days = {night["measured_at"][:10] for series in history for night in series["nights"]}
    return [date.fromisoformat(day) for day in sorted(days)]


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


@dataclass(frozen=True, kw_only=True)
class IssueActions:
    """What to open, and by number what to close and what to describe anew."""

    to_open: list[Slowdown]
    to_close: list[int]
    to_edit: dict[int, Slowdown]


def issue_actions(
    history: Sequence[Mapping[str, Any]], issues: Sequence[Mapping[str, Any]]
) -> IssueActions:
    """An issue that somebody closed stays closed; a slowdown of another night is another one.

    What began before the history does is left alone: it does not say how it went on.
    """
    now, nights = slowdowns(history), nights_of(history)
    bodies = {issue["number"]: issue["body"] or "" for issue in issues}
    to_close, to_edit = [], {}
    for number in (issue["number"] for issue in issues if issue["state"] == "OPEN"):
        of_it = next((s for s in now if s.is_of(bodies[number])), None)
        marked = marks(bodies[number])
        if of_it and of_it.body != bodies[number]:
            to_edit[number] = of_it
        elif not of_it and marked and nights and marked[1] >= nights[0]:
            to_close.append(number)
    return IssueActions(
        to_open=[s for s in now if not any(map(s.is_of, bodies.values()))],
        to_close=to_close,
        to_edit=to_edit,
    )
