"""Gate a pull request: decide whether it is benchmarked, comment on it, and set its status."""

from __future__ import annotations

import argparse
import json
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxfast.bench.verdicts.outcome import (
    ACCEPTING_LABEL,
    FAILED_STATUS,
    NOT_JUDGED_STATUS,
    PASSED_STATUS,
    Outcome,
    exit_code,
)
from fluxfast.ci.client import gh, note, output_of, say, with_body
from fluxfast.ci.labels import GATING_LABEL, accepting_reason, labels_of
from fluxfast.report.escaping import escaped

# A pull request may make these worse if its description says why.
ACCEPTABLE = {Outcome.SLOWER, Outcome.BROKEN}
COMMENT_MARK = "<!-- fluxfast: the verdict on this pull request -->"
COMMENTS = """
query($owner: String!, $name: String!, $number: Int!, $endCursor: String) {
  repository(owner: $owner, name: $name) { pullRequest(number: $number) {
    comments(first: 100, after: $endCursor) {
      nodes { databaseId body viewerDidAuthor } pageInfo { hasNextPage endCursor }
    }
  } }
}
"""
GATE = "perf-gate.yml"
POLLS, POLL_EVERY_S = 50, 10.0  # of a run that is neither measuring nor finished
# A pull request that changes one of these is benchmarked without the label,
GATED_PATHS = (
    "fluxfast/",
    "perf_tests/",
    "conftest.py",
    "constraints-h200.txt",
    "pyproject.toml",
)
# except for these, which no image is generated or timed with.
UNTIMED_PATHS = (
    "fluxfast/ci/",
    "fluxfast/cli/",
    "fluxfast/history/",
    "fluxfast/mini/",
    "fluxfast/quality/",
    "fluxfast/report/",
)


def is_wanted(labels: Sequence[str], paths: Sequence[str]) -> bool:
    """Return whether a pull request with these labels and changed paths is benchmarked."""
    timed = (p for p in paths if p.startswith(GATED_PATHS) and not p.startswith(UNTIMED_PATHS))
    return GATING_LABEL in labels or any(timed)


def wanted(options: argparse.Namespace) -> int:
    """Write `run=true` or `run=false`: whether a pull request is benchmarked."""
    paths = output_of("git", "diff", "--name-only", f"{options.base}...HEAD").splitlines()
    labels = labels_of(gh("pr", "view", options.pull, "--json", "labels"))
    answer = is_wanted(labels, paths)
    with Path(options.output).open("a", encoding="utf-8") as file:
        file.write(f"run={str(answer).lower()}\n")
    reason = f"{len(paths)} files changed; labels: {', '.join(labels) or 'none'}"
    say(f"benchmarked: {'yes' if answer else 'no'} ({reason})")
    return PASSED_STATUS


def again(options: argparse.Namespace) -> int:
    """Rerun what a later label or description of a pull request asks for.

    The label `perf` has the commit benchmarked if it was not. Other changes have the gate read the
    existing measurements again.
    """
    rerun = Rerun(reason="still under way", waits=True)
    for _ in range(POLLS):
        pull = gh("pr", "view", options.pull, "--json", "labels,headRefOid,headRefName")
        if pull["headRefOid"] != options.commit:
            say("a newer commit was pushed; its own run reads labels and description")
            return PASSED_STATUS
        number, jobs = _latest_run(pull)
        rerun = rerun_of(jobs, is_labelled=GATING_LABEL in labels_of(pull))
        if not rerun.waits:
            break
        time.sleep(POLL_EVERY_S)
    if rerun.arguments is not None:
        gh("run", "rerun", *(rerun.arguments or (number,)))
    say(rerun.reason)
    return FAILED_STATUS if rerun.waits else PASSED_STATUS


def _latest_run(pull: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the number ("" without a run) and the jobs by name of the newest commit's run."""
    found = gh("run", "list", "--workflow", GATE, "--commit", pull["headRefOid"], "--branch",
               pull["headRefName"], "--limit", "1", "--json", "databaseId")  # fmt: skip
    if not found:
        return "", {}
    number = str(found[0]["databaseId"])
    return number, {job["name"]: job for job in gh("run", "view", number, "--json", "jobs")["jobs"]}


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """The part of a run to run again.

    Attributes:
        reason: the sentence for the log.
        arguments: arguments of `gh run rerun`; None for nothing, () for the whole run.
        waits: the run has to go on before this can be decided.
    """

    reason: str
    arguments: tuple[str, ...] | None = None
    waits: bool = False


def rerun_of(jobs: Mapping[str, Mapping[str, Any]], is_labelled: bool) -> Rerun:
    """Return what to run again.

    Args:
        jobs: the jobs of the newest run by name; empty without a run.
        is_labelled: the pull request has the label `perf`.
    """
    measure, judging = jobs.get("measure", {}), jobs.get("gate", {})
    if measure and measure["status"] != "completed":
        return Rerun(reason="still measuring; the gate reads labels and description afterwards")
    if not jobs:
        return Rerun(reason=f"{GATE} has not started", waits=True)
    if any(job["status"] != "completed" for job in jobs.values()):
        return Rerun(reason="still under way", waits=True)
    if measure.get("conclusion") == "success":
        arguments = ("--job", str(judging["databaseId"]))
        return Rerun(arguments=arguments, reason="the gate judges the measurements again")
    if is_labelled:
        return Rerun(arguments=(), reason="benchmarking the commit, which was not measured")
    return Rerun(reason="nothing was measured, so there is nothing to judge")


def measured(options: argparse.Namespace) -> int:
    """Fail unless the job `measure` succeeded."""
    if options.result == "success":
        return PASSED_STATUS
    result = options.result or "no result"
    say(f"nothing was measured: job `measure` ended with {result}; read its log and run it again")
    return FAILED_STATUS


def summary(options: argparse.Namespace) -> int:
    """Print a text and add it to the summary of the job."""
    note(options.body.read_text(encoding="utf-8"))
    return PASSED_STATUS


def comment(options: argparse.Namespace) -> int:
    """Post the report as a comment, or update the existing comment."""
    judged = _judged(options)
    text = options.body.read_text(encoding="utf-8")
    if judged.is_accepted:
        text = f"**{escaped(judged.reason)}**\n\n{text}"
    found = _own_comments(options.pull)
    comments = f"repos/{{owner}}/{{repo}}/issues/{options.pull}/comments"
    at = f"repos/{{owner}}/{{repo}}/issues/comments/{found[0]}" if found else comments
    method = "PATCH" if found else "POST"
    marked = f"{COMMENT_MARK}\n{text}"
    with_body(marked, "api", "--method", method, at, "--silent", "-F", "body=@")
    say("updated the comment" if found else "posted a comment")
    return PASSED_STATUS


def _own_comments(pull: str) -> list[str]:
    """Return the ids of the comments that this account wrote; anyone can write the mark."""
    is_own = f'select(.viewerDidAuthor and (.body | startswith("{COMMENT_MARK}")))'
    nodes = f".data.repository.pullRequest.comments.nodes[] | {is_own} | .databaseId"
    place = ("-F", "owner={owner}", "-F", "name={repo}", "-F", f"number={pull}")
    answer = gh("api", "graphql", "--paginate", *place, "-f", f"query={COMMENTS}", "--jq", nodes)
    return str(answer).split()


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The decision about a pull request.

    Attributes:
        status: the exit status.
        reason: the sentence that explains it.
        is_accepted: the pull request passes because what is worse was accepted.
        how_to_accept: how a maintainer can accept what is worse; "" if nobody can.
    """

    status: int
    reason: str
    is_accepted: bool = False
    how_to_accept: str = ""


def gate_of(report: Mapping[str, Any], failed_tests: int, accepted: str | None) -> Gate:
    """Judge a report.

    Args:
        report: the JSON of `fluxfast report`.
        failed_tests: how many tests failed; cases that were not judged are skipped, not failed. A
            test that fails without a verdict, such as a proof, cannot be accepted.
        accepted: the reason why what is worse is accepted; None if it is not.
    """
    outcomes = [Outcome(case["outcome"]) for case in report["cases"]]
    worse = [o for o in outcomes if o.is_judged and not o.is_pass]
    if not outcomes:
        return Gate(status=FAILED_STATUS, reason="no case was measured; read the log")
    if failed_tests > len(worse):
        others = failed_tests - len(worse)
        reason = f"{others} tests failed without a verdict; read the log"
        return Gate(status=FAILED_STATUS, reason=reason)
    status, line = exit_code(outcomes), report["verdict_line"]
    can_accept = worse and set(worse) <= ACCEPTABLE
    how_to_accept = _how_to_accept(report) if can_accept else ""
    if accepted and can_accept:
        if unnamed := [name for name in worse_names(report) if name not in accepted]:
            reason = f"{line}; the reason for `{ACCEPTING_LABEL}` does not name {_joined(unnamed)}"
            return Gate(status=FAILED_STATUS, reason=reason, how_to_accept=how_to_accept)
        others = exit_code([outcome for outcome in outcomes if outcome not in worse])
        if others != PASSED_STATUS:
            again = f"{line}; what is worse is accepted, run the job again for the rest"
            return Gate(status=others, reason=again, how_to_accept=how_to_accept)
        counted = ", ".join(f"{count} {outcome}" for outcome, count in Counter(worse).items())
        return Gate(
            status=PASSED_STATUS, reason=f"{counted} accepted: {accepted}", is_accepted=True
        )
    if status == NOT_JUDGED_STATUS:
        return Gate(status=status, reason=f"{line}; run the job again")
    return Gate(status=status, reason=line, how_to_accept=how_to_accept)


def _how_to_accept(report: Mapping[str, Any]) -> str:
    names = worse_names(report)
    return (
        f"to accept what is worse, add the label {ACCEPTING_LABEL} and the line "
        f"`{ACCEPTING_LABEL}: REASON` to the description"
        + (f"; REASON has to name {_joined(names)}" if names else "")
    )


def worse_names(report: Mapping[str, Any]) -> list[str]:
    """Return the counters and sizes that make cases BROKEN, which an acceptance has to name.

    So an acceptance does not cover what a later commit of the pull request breaks.
    """
    return list(dict.fromkeys(name for case in report["cases"] for name in case.get("worse", ())))


def _joined(names: Sequence[str]) -> str:
    return " and ".join(names)


def gate(options: argparse.Namespace) -> int:
    """Exit with the status of a run: 0 passed, 1 failed, 6 not judged."""
    judged = _judged(options)
    say(judged.reason)
    if judged.how_to_accept:
        say(judged.how_to_accept)
    return judged.status


def _judged(options: argparse.Namespace) -> Gate:
    """Judge the report, with the acceptance of the pull request."""
    report = json.loads(options.report.read_text(encoding="utf-8"))
    pull = gh("pr", "view", options.pull, "--json", "labels,body") if options.pull else {}
    is_accepted = pull and ACCEPTING_LABEL in labels_of(pull)
    accepted = accepting_reason(pull["body"] or "") if is_accepted else None
    return gate_of(report, failed_tests(options.junit), accepted)


def failed_tests(junit: Path) -> int:
    """Return how many tests failed or had an error, according to a JUnit file."""
    suites = ElementTree.parse(junit).getroot().iter("testsuite")
    return sum(int(s.get("failures", 0)) + int(s.get("errors", 0)) for s in suites)
