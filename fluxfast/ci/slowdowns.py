"""Map the slowdowns of a history to issues: which to open, edit and close. Pure."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from fluxfast.bench.verdicts.outcome import ACCEPTING_LABEL
from fluxfast.report.escaping import code, escaped, hidden

NIGHTS_APART = 2  # how far a change point may move as more nights are measured
MARK = "<!-- fluxfast slowdown"


@dataclass(frozen=True, kw_only=True)
class Slowdown:
    """One change point with every case on one GPU that became slower there.

    Attributes:
        gpu: the name of the machine.
        since: the first slower night.
        commits: the last good and the first slower commit.
        cases: the change of each case, for people, by case id.
        nights: all nights of the history, oldest first.
    """

    gpu: str
    since: date
    commits: tuple[str, str]
    cases: Mapping[str, str]
    nights: tuple[date, ...]

    @property
    def title(self) -> str:
        """The title of the issue."""
        plural = "" if len(self.cases) == 1 else "s"
        return f"{self.gpu}: {len(self.cases)} case{plural} slower since {self.since}"

    @property
    def body(self) -> str:
        """The text of the issue."""
        changes = self.cases.items()
        cases = "\n".join(f"- {code(case)}: {escaped(change)}" for case, change in changes)
        good, changed = self.commits
        return (
            f"{MARK} | {hidden(self.gpu)} | {self.since} -->\n{cases}\n\nLast good commit "
            f"{code(good)}, first slower commit {code(changed)}.\n\nThis issue is closed "
            "automatically when the slowdown recovers, or when it is accepted by a pull request "
            f"with the label `{ACCEPTING_LABEL}` and a reason."
        )

    def is_of(self, body: str) -> bool:
        """Return whether an issue with this body is about this slowdown.

        It is if it names the GPU, one of the cases, and a night close to this one.
        """
        marked = marks(body)
        if marked is None or marked[0] != hidden(self.gpu):
            return False
        then, since = (bisect_left(self.nights, day) for day in (marked[1], self.since))
        named = set(re.findall(r"^- `(.+?)`:", body, re.MULTILINE))
        return abs(then - since) <= NIGHTS_APART and bool(named & self.cases.keys())


def marks(body: str) -> tuple[str, date] | None:
    """Return the GPU and the first night in the mark of an issue's body; None without a mark."""
    found = re.match(rf"{MARK} \| (.+?) \| (\S+) -->", body)
    return (found[1], date.fromisoformat(found[2])) if found else None


def slowdowns(history: Sequence[Mapping[str, Any]]) -> list[Slowdown]:
    """Return the slowdowns in `fluxfast history --json` that are still open."""
    found: dict[tuple[str, date, str], dict[str, Mapping[str, Any]]] = {}
    for series in history:
        for change in (change for change in series["changes"] if change["still_slower"]):
            since = date.fromisoformat(change["date"][:10])
            where = series["gpu"], since, change["first_changed_commit"]
            found.setdefault(where, {})[series["case"]] = change
    return [
        Slowdown(
            gpu=gpu,
            since=since,
            commits=(_last_good(changes.values())["last_good_commit"], first_changed),
            cases={case: _text(change) for case, change in changes.items()},
            nights=tuple(nights_of(history)),
        )
        for (gpu, since, first_changed), changes in found.items()
    ]


def _last_good(changes: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the change whose last good night is the oldest: cases run on different cards."""
    return min(changes, key=lambda change: str(change["last_good_date"]))


def _text(change: Mapping[str, Any]) -> str:
    return f"{change['relative']:+.1%}, {change['cause']}: {change['detail']}"


def nights_of(history: Sequence[Mapping[str, Any]]) -> list[date]:
    """Return the nights on which anything was measured, oldest first."""
    days = {night["measured_at"][:10] for series in history for night in series["nights"]}
    return [date.fromisoformat(day) for day in sorted(days)]


def accepted_slowdowns(history: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """Return the accepted pull requests that made a case slower, by GPU and case.

    A case with another, open slowdown is left out.
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
    """The issues to open, edit and close.

    Attributes:
        to_open: slowdowns without an issue.
        to_close: numbers of issues whose slowdown is over.
        to_edit: slowdowns whose issue has an outdated text, by number.
    """

    to_open: list[Slowdown]
    to_close: list[int]
    to_edit: dict[int, Slowdown]


def issue_actions(
    history: Sequence[Mapping[str, Any]], issues: Sequence[Mapping[str, Any]]
) -> IssueActions:
    """Return what to do with the issues, given the history.

    An issue that somebody closed stays closed; a slowdown of another night gets a new one. Issues
    from before the first night of the history are left alone, because it does not cover them.
    """
    now, nights = slowdowns(history), nights_of(history)
    bodies = {issue["number"]: issue["body"] or "" for issue in issues}
    to_close, to_edit = [], {}
    for number in (issue["number"] for issue in issues if issue["state"] == "OPEN"):
        slowdown = next((s for s in now if s.is_of(bodies[number])), None)
        marked = marks(bodies[number])
        if slowdown and slowdown.body != bodies[number]:
            to_edit[number] = slowdown
        elif not slowdown and marked and nights and marked[1] >= nights[0]:
            to_close.append(number)
    return IssueActions(
        to_open=[s for s in now if not any(map(s.is_of, bodies.values()))],
        to_close=to_close,
        to_edit=to_edit,
    )
