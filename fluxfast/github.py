"""`python -m fluxfast.github`: what the workflows say to GitHub, through its command `gh`.

Texts come from `fluxfast report` and `fluxfast history`. Needs Python and gh alone (`accepted`
needs fluxfast installed), and each command can be run by hand; GH_REPO says which repository.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxfast.slowdowns import ACCEPTING_LABEL, issue_actions, slowdowns

COMMENT_MARK = "<!-- fluxfast: the verdict on this pull request -->"
LONGEST_COMMENT = 65_000  # characters; GitHub takes 65,536
GATING_LABEL = "perf"
ISSUE_LABEL = "perf-regression"
BASELINE_BRANCH = "baselines/nightly"
SKIPPED = ("undecided", "invalid runner")  # as pytest has them: neither passed nor failed
WORTH_PROPOSING = ("faster", "new", "wrong stack")
# A pull request that touches one of these is timed without being asked.
GATED_PATHS = ("fluxfast/", "constraints-h200.txt", "pyproject.toml")
# But for these, which no image is drawn or timed with.
UNTIMED_PATHS = (
    "fluxfast/github.py",
    "fluxfast/history/",
    "fluxfast/mini/",
    "fluxfast/quality/",
    "fluxfast/report/",
    "fluxfast/slowdowns.py",
)
PASSED, FAILED = 0, 1
NOT_JUDGED = 6  # as `pytest perf_tests` ends on an invalid runner


def run(*command: str) -> str:
    """Standard output. Raises CalledProcessError, with what the command said on our own error."""
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()


def gh(*arguments: str) -> Any:
    """What gh answers, as JSON where it is."""
    answer = run("gh", *arguments)
    return json.loads(answer) if answer[:1] in ("[", "{") else answer


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def is_wanted(labels: Sequence[str], paths: Sequence[str]) -> bool:
    timed = (p for p in paths if p.startswith(GATED_PATHS) and not p.startswith(UNTIMED_PATHS))
    return GATING_LABEL in labels or any(timed)


def wanted(options: argparse.Namespace) -> int:
    """Write `run=true` or `run=false`: whether a pull request is timed."""
    paths = run("git", "diff", "--name-only", f"{options.base}...HEAD").splitlines()
    answer = is_wanted(options.labels.split(","), paths)
    with Path(options.output).open("a", encoding="utf-8") as file:
        file.write(f"run={str(answer).lower()}\n")
    say(f"timed: {answer} ({len(paths)} files changed; labels: {options.labels or 'none'})")
    return PASSED


def measured(options: argparse.Namespace) -> int:
    """Fail unless the job that measures has ended well."""
    if options.result == "success":
        return PASSED
    ended = options.result or "nothing"
    say(f"nothing was measured: the job `measure` ended as {ended}; read its log, run it again")
    return FAILED


def comment(options: argparse.Namespace) -> int:
    """Post the text, or update the comment that is there."""
    text = options.body.read_text(encoding="utf-8")
    if len(text) > LONGEST_COMMENT:
        text = text[:LONGEST_COMMENT] + "\n\n… the rest is in the page, among the artifacts."
    mine = f'.[] | select(.body | startswith("{COMMENT_MARK}")) | .id'
    comments = f"repos/{{owner}}/{{repo}}/issues/{options.pull}/comments"
    found = str(gh("api", comments, "--paginate", "--jq", mine)).split()
    with tempfile.NamedTemporaryFile("w", suffix=".md", encoding="utf-8") as file:
        file.write(f"{COMMENT_MARK}\n{text}")
        file.flush()
        at = f"repos/{{owner}}/{{repo}}/issues/comments/{found[0]}" if found else comments
        method = "PATCH" if found else "POST"
        gh("api", "--method", method, at, "--silent", "-F", f"body=@{file.name}")
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
    report = json.loads(options.report.read_text(encoding="utf-8"))
    pull = gh("pr", "view", options.pull, "--json", "labels,body") if options.pull else {}
    labels = [label["name"] for label in pull.get("labels", [])]
    reason = accepting_reason(pull.get("body") or "") if ACCEPTING_LABEL in labels else None
    judged = gate_of(report, failed_tests(options.junit), reason)
    say(judged.why)
    if judged.status == FAILED and ACCEPTING_LABEL in labels and not reason:
        say(f"The label {ACCEPTING_LABEL} needs a line `{ACCEPTING_LABEL}: why` in the description")
    return judged.status


def failed_tests(junit: Path) -> int:
    suites = ElementTree.parse(junit).getroot().iter("testsuite")
    return sum(int(s.get("failures", 0)) + int(s.get("errors", 0)) for s in suites)


def accepting_reason(body: str) -> str | None:
    found = re.search(rf"^\s*{ACCEPTING_LABEL}:\s*(\S.*?)\s*$", body, re.MULTILINE)
    return found[1] if found else None


def accepted(options: argparse.Namespace) -> int:
    """Record in the history which merged pull requests had their slowdown accepted, and why."""
    from fluxfast.history.store import Acceptance, accept, opened

    fields = "number,body,mergedAt,mergedBy"
    merged = gh("pr", "list", "--state", "merged", "--label", ACCEPTING_LABEL, "--limit", "100",
                "--json", fields)  # fmt: skip
    found = [
        Acceptance(
            pull=f"#{pull['number']}",
            merged_at=pull["mergedAt"].replace("Z", "+00:00"),
            who=pull["mergedBy"]["login"],
            reason=reason,
        )
        for pull in merged
        if (reason := accepting_reason(pull["body"] or ""))
    ]
    with opened(options.database) as connection:
        accept(connection, found)
    say(f"{len(found)} acceptances are in {options.database}")
    return PASSED


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


AUTHOR = ("-c", "user.name=fluxfast", "-c", "user.email=fluxfast@users.noreply.github.com")


def propose(options: argparse.Namespace) -> int:
    """A pull request with new baselines, if the report has something that is worth one."""
    report = json.loads(options.report.read_text(encoding="utf-8"))
    worth = sorted({c["outcome"] for c in report["cases"]} & set(WORTH_PROPOSING))
    if not worth:
        say("no new baseline to propose")
        return PASSED
    for results in options.results:
        run("fluxfast", "baseline", "accept", str(results))
    run("gh", "auth", "setup-git")
    run("git", "switch", "--quiet", "--force-create", BASELINE_BRANCH)
    run("git", "add", "baselines")
    title = f"New baselines: {', '.join(worth)}"
    run("git", *AUTHOR, "commit", "--quiet", "--message", title)
    run("git", "push", "--quiet", "--force", "origin", BASELINE_BRANCH)
    open_pulls = gh("pr", "list", "--head", BASELINE_BRANCH, "--json", "number")
    verb = ("edit", str(open_pulls[0]["number"])) if open_pulls else (
        "create", "--head", BASELINE_BRANCH, "--base", options.base
    )  # fmt: skip
    gh("pr", *verb, "--title", title, "--body-file", str(options.body))
    say(f"proposed: {title}")
    return PASSED


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m fluxfast.github", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Any, **options: dict[str, Any]) -> None:
        one = commands.add_parser(function.__name__, help=function.__doc__)
        for name, settings in options.items():
            one.add_argument(f"--{name}", **({"required": True} | settings))
        one.set_defaults(run=function)

    path = {"type": Path}
    command(wanted, base={}, labels={"default": "", "required": False}, output={})
    command(measured, result={})
    command(comment, pull={}, body=path)
    command(gate, report=path, junit=path, pull={"required": False})
    command(accepted, database=path)
    command(issues, history=path)
    command(keep, folder=path)
    command(propose, report=path, body=path, base={}, results=path | {"nargs": "+"})
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"fluxfast.github: {' '.join(error.cmd[:3])} … ended with "
                         f"{error.returncode}\n")  # fmt: skip
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
