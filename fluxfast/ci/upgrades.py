"""Compare environments in CI: of a pull request that changes pins, and of the newest versions."""

from __future__ import annotations

import argparse
import json
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxfast.bench.verdicts.outcome import PASSED_STATUS
from fluxfast.ci.client import gh, output_of, say, with_body
from fluxfast.ci.labels import UPGRADE_LABEL
from fluxfast.report.escaping import hidden

CONSTRAINTS, PROJECT = "constraints-h200.txt", "pyproject.toml"
BASE_PYTHON = ".fluxfast/base/.venv/bin/python"  # as `make base-environment` creates it
EXTRAS = "cuda,fa3"  # as `make runner` names them
MARK = "<!-- fluxfast upgrade"
LONGEST_TITLE = 250  # characters; GitHub's limit is 256


def pins(options: argparse.Namespace) -> int:
    """Write `python=PATH` if the base needs an environment of its own, else `python=`."""
    base = output_of("git", "merge-base", options.base, "HEAD")
    before, now = (requirements(*_files(commit)) for commit in (base, "HEAD"))
    python = "" if before == now else BASE_PYTHON
    with Path(options.output).open("a", encoding="utf-8") as file:
        file.write(f"python={python}\n")
    changed = ", ".join(sorted(before ^ now)) or "none"
    say(f"pins and requirements that differ from the base: {changed}")
    return PASSED_STATUS


def _files(commit: str) -> tuple[str, str]:
    """Return the project file and the constraints of a commit; "" for constraints it lacks."""
    shown = [
        subprocess.run(["git", "show", f"{commit}:{name}"], capture_output=True, text=True)
        for name in (PROJECT, CONSTRAINTS)
    ]
    return shown[0].stdout, shown[1].stdout


def requirements(project: str, constraints: str) -> frozenset[str]:
    """Return everything that decides which versions `make runner` installs."""
    declared = tomllib.loads(project)["project"]
    extras = declared.get("optional-dependencies", {})
    lines = [line.partition("#")[0].strip() for line in constraints.splitlines()]
    of_extras = (entry for name in EXTRAS.split(",") for entry in extras.get(name, ()))
    return frozenset([*declared["dependencies"], *of_extras, *filter(None, lines)])


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """The verdict on the newest versions that the project allows.

    Attributes:
        change: the versions that differ, as `torch 2.11.0 → 2.12.0`.
        verdict: the line that says how many cases changed.
        summary: the report in Markdown.
    """

    change: str
    verdict: str
    summary: str

    @property
    def title(self) -> str:
        """The title of the issue."""
        return f"Upgrade: {self.verdict} with {self.change}"[:LONGEST_TITLE]

    @property
    def mark(self) -> str:
        """The first line of the issue, by which a later night finds it."""
        return f"{MARK} | {hidden(self.change)} -->"

    @property
    def body(self) -> str:
        """The text of the issue."""
        return (
            f"{self.mark}\nThe newest versions that `pyproject.toml` allows, compared with "
            f"`{CONSTRAINTS}` on one machine:\n\n{self.summary}\n\nTo upgrade, change the pins and "
            "record new baselines. This issue is updated every night. Close it to pass over "
            "exactly these versions."
        )


def upgrade_of(report: Mapping[str, Any], summary: str) -> Upgrade | None:
    """Return the upgrade that a report compares; None if no package of the stack differs."""
    change = next((one["environment"] for one in report["comparisons"]), "")
    if "→" not in change:
        return None
    return Upgrade(change=change, verdict=report["verdict_line"], summary=summary)


def action_on(upgrade: Upgrade | None, issues: Sequence[Mapping[str, Any]]) -> tuple[str, int]:
    """Return what to do, and the number of the issue that it concerns.

    There is one open issue at most. One that somebody closed stays closed for the same versions.

    Args:
        upgrade: the upgrade that was measured; None without one.
        issues: the issues with the label, open and closed.
    """
    bodies = {issue["number"]: issue["body"] or "" for issue in issues}
    is_open = [i["number"] for i in issues if i["state"] == "OPEN" and MARK in bodies[i["number"]]]
    if upgrade is None:
        return ("close", is_open[0]) if is_open else ("nothing", 0)
    if is_open:
        return "edit", is_open[0]
    known = [number for number, body in bodies.items() if body.startswith(upgrade.mark)]
    return ("nothing", known[0]) if known else ("create", 0)


def upgrade(options: argparse.Namespace) -> int:
    """Open, update or close the one issue about the newest allowed versions."""
    report = json.loads(options.report.read_text(encoding="utf-8"))
    found = upgrade_of(report, options.body.read_text(encoding="utf-8"))
    known = gh("issue", "list", "--label", UPGRADE_LABEL, "--state", "all", "--limit", "100",
               "--json", "number,body,state")  # fmt: skip
    action, number = action_on(found, known or [])
    if action == "close":
        comment = "The newest versions that the project allows are the pinned ones."
        gh("issue", "close", str(number), "--comment", comment)
    elif found and action == "edit":
        words = ["issue", "edit", str(number), "--title", found.title]
        with_body(found.body, *words, "--body-file", "")
    elif found and action == "create":
        words = ["issue", "create", "--title", found.title, "--label", UPGRADE_LABEL]
        with_body(found.body, *words, "--body-file", "")
    say(f"{action}: {found.title if found else 'nothing newer is allowed'}")
    return PASSED_STATUS
