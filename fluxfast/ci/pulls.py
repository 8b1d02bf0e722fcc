"""The gate of a pull request: whether it is timed, its comment, its status."""

from __future__ import annotations

import argparse
import json
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxfast.ci.client import FAILED, NOT_JUDGED, PASSED, gh, note, run, say, with_body
from fluxfast.ci.labels import ACCEPTING_LABEL, GATING_LABEL, accepting_reason, labels_of

COMMENT_MARK = "<!-- fluxfast: the verdict on this pull request -->"
GATE = "perf-gate.yml"
LOOKS, LOOK_EVERY_S = 50, 10.0  # at a run that is neither measuring nor done
SKIPPED = ("undecided", "invalid runner")  # as pytest has them: neither passed nor failed
# A pull request that touches one of these is timed without being asked.
GATED_PATHS = ("fluxfast/", "constraints-h200.txt", "pyproject.toml")
# But for these, which no image is drawn or timed with.
UNTIMED_PATHS = (
    "fluxfast/github/",
    "fluxfast/history/",
    "fluxfast/mini/",
    "fluxfast/quality/",
    "fluxfast/report/",
)


def is_wanted(labels: Sequence[str], paths: Sequence[str]) -> bool:
    timed = (p for p in paths if p.startswith(GATED_PATHS) and not p.startswith(UNTIMED_PATHS))
    return GATING_LABEL in labels or any(timed)


def wanted(options: argparse.Namespace) -> int:
    """Write `run=true` or `run=false`: whether a pull request is timed."""
    paths = run("git", "diff", "--name-only", f"{options.base}...HEAD").splitlines()
    labels = labels_of(gh("pr", "view", options.pull, "--json", "labels"))
    answer = is_wanted(labels, paths)
    with Path(options.output).open("a", encoding="utf-8") as file:
        file.write(f"run={str(answer).lower()}\n")
    say(f"timed: {answer} ({len(paths)} files changed; labels: {', '.join(labels) or 'none'})")
    return PASSED


def again(options: argparse.Namespace) -> int:
    """What a label or a description that came later asks of the run of a commit.

    The label `perf` has it timed, if it was not. Else it is judged again, on what was measured.
    """
    asked = Again(why="still under way", waits=True)
    for _ in range(LOOKS):
        pull = gh("pr", "view", options.pull, "--json", "labels,headRefOid,headRefName")
        if pull["headRefOid"] != options.commit:
            say("another commit has come: its own run sees labels and description")
            return PASSED
        number, jobs = _latest_run(pull)
        asked = again_of(jobs, GATING_LABEL in labels_of(pull))
        if not asked.waits:
            break
        time.sleep(LOOK_EVERY_S)
    if asked.rerun is not None:
        gh("run", "rerun", *(asked.rerun or (number,)))
    say(asked.why)
    return FAILED if asked.waits else PASSED


def _latest_run(pull: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Of its newest commit: the number, "" where there is none, and the jobs by name."""
    found = gh("run", "list", "--workflow", GATE, "--commit", pull["headRefOid"], "--branch",
               pull["headRefName"], "--limit", "1", "--json", "databaseId")  # fmt: skip
    if not found:
        return "", {}
    number = str(found[0]["databaseId"])
    return number, {job["name"]: job for job in gh("run", "view", number, "--json", "jobs")["jobs"]}


@dataclass(frozen=True, kw_only=True)
class Again:
    """What to run again, as `gh run rerun` has it: None for nothing, () for all; or to wait."""

    why: str
    rerun: tuple[str, ...] | None = None
    waits: bool = False


def again_of(jobs: Mapping[str, Mapping[str, Any]], is_asked: bool) -> Again:
    measure, judging = jobs.get("measure", {}), jobs.get("gate", {})
    if measure and measure["status"] != "completed":
        return Again(why="still measuring: its gate reads labels and description after that")
    if not jobs:
        return Again(why=f"{GATE} has not begun", waits=True)
    if any(job["status"] != "completed" for job in jobs.values()):
        return Again(why="still under way", waits=True)
    if measure.get("conclusion") == "success":
        return Again(rerun=("--job", str(judging["databaseId"])), why="judged again")
    if is_asked:
        return Again(rerun=(), why="timed, for it was not")
    return Again(why="nothing was measured, nothing to judge")


def measured(options: argparse.Namespace) -> int:
    """Fail unless the job that measures has ended well."""
    if options.result == "success":
        return PASSED
    ended = options.result or "nothing"
    say(f"nothing was measured: the job `measure` ended as {ended}; read its log, run it again")
    return FAILED


def summary(options: argparse.Namespace) -> int:
    """Say a text, and put it into the summary of the job."""
    note(options.body.read_text(encoding="utf-8"))
    return PASSED


def comment(options: argparse.Namespace) -> int:
    """Post the text, or update the comment that is there."""
    judged, report = _judged(options)
    text = options.body.read_text(encoding="utf-8")
    if judged.status == PASSED and report["status"] != "pass":
        text = f"**{judged.why}**\n\n{text}"
    mine = f'.[] | select(.body | startswith("{COMMENT_MARK}")) | .id'
    comments = f"repos/{{owner}}/{{repo}}/issues/{options.pull}/comments"
    found = str(gh("api", comments, "--paginate", "--jq", mine)).split()
    at = f"repos/{{owner}}/{{repo}}/issues/comments/{found[0]}" if found else comments
    method = "PATCH" if found else "POST"
    marked = f"{COMMENT_MARK}\n{text}"
    with_body(marked, "api", "--method", method, at, "--silent", "-F", "body=@")
    say("updated the comment" if found else "commented")
    return PASSED


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The exit status of a run, and why."""

    status: int
    why: str


def gate_of(report: Mapping[str, Any], failed_tests: int, reason: str | None) -> Gate:
    """Judge a report; `reason` is why a slowdown is accepted, None where nobody accepts it."""
    failing = [case for case in report["cases"] if not case["passes"]]
    worse = [c for c in failing if c["outcome"] not in SKIPPED]
    if not report["cases"]:
        return Gate(status=FAILED, why="no case was measured: see the log")
    if failed_tests > len(worse):
        untold = failed_tests - len(worse)
        return Gate(status=FAILED, why=f"{untold} tests failed without a verdict: see the log")
    if report["status"] == "pass":
        return Gate(status=PASSED, why=report["verdict_line"])
    if report["status"] == "not judged":
        return Gate(status=NOT_JUDGED, why=f"{report['verdict_line']}: run it again")
    if reason and all(case["outcome"] == "slower" for case in worse):
        return Gate(status=PASSED, why=f"{len(worse)} slowdowns accepted: {reason}")
    return Gate(status=FAILED, why=report["verdict_line"])


def gate(options: argparse.Namespace) -> int:
    """End with the status of a run: 0 passed, 1 failed, 6 not judged."""
    judged, _ = _judged(options)
    say(judged.why)
    if judged.status == FAILED:
        say(f"To accept what is slower, give it the label {ACCEPTING_LABEL} and write a line "
            f"`{ACCEPTING_LABEL}: why` in the description")  # fmt: skip
    return judged.status


def _judged(options: argparse.Namespace) -> tuple[Gate, dict[str, Any]]:
    """And the report that is judged, with what the pull request says for it."""
    report = json.loads(options.report.read_text(encoding="utf-8"))
    pull = gh("pr", "view", options.pull, "--json", "labels,body") if options.pull else {}
    is_accepted = pull and ACCEPTING_LABEL in labels_of(pull)
    reason = accepting_reason(pull["body"] or "") if is_accepted else None
    return gate_of(report, failed_tests(options.junit), reason), report


def failed_tests(junit: Path) -> int:
    suites = ElementTree.parse(junit).getroot().iter("testsuite")
    return sum(int(s.get("failures", 0)) + int(s.get("errors", 0)) for s in suites)
