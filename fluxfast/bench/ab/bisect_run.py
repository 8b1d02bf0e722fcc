"""Measure the commit that `git bisect run` has checked out: good, bad, or to be skipped.

Copy this file out of the repository first, because git replaces the repository at every step:

    cp fluxfast/bench/ab/bisect_run.py /tmp/
    git bisect start BAD GOOD
    git bisect run python /tmp/bisect_run.py --gpu h200 --matrix default --model dev --against GOOD

The arguments are those of `pytest perf_tests`. The exit statuses are those that git expects: 0 for
a commit that passes, 1 for one that is slower or broken, 125 for one that cannot be judged, because
it is undecided, the machine was disturbed, or it does not build. A commit is bad only if two runs
say so: a search trusts each answer. Ctrl-C ends with 130, at which git stops. Only Python is
imported, because the commit's own code may not work.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

GOOD, BAD, SKIPPED, STOPPED = 0, 1, 125, 130
PASSES = ("same", "faster", "changed")
FAILS = ("slower", "broken")
RESULTS = Path(".fluxfast", "bisect")


def verdicts_in(results: Path) -> list[dict[str, str]]:
    """Return the verdict on each case of a run with `--against`."""
    paths = sorted(results.glob("B*/verdicts/*.json"))
    return [{"case": path.stem, **json.loads(path.read_text(encoding="utf-8"))} for path in paths]


def status_of(verdicts: Sequence[dict[str, str]], pytest_status: int) -> tuple[int, str]:
    """Return the exit status for git, and why.

    Args:
        verdicts: the verdict on each case.
        pytest_status: the exit status of pytest.
    """
    failed = [verdict for verdict in verdicts if verdict["outcome"] in FAILS]
    unsure = [verdict for verdict in verdicts if verdict["outcome"] not in PASSES]
    if failed:
        return BAD, f"bad: {_listed(failed)}"
    if unsure:
        return SKIPPED, f"skipped: {_listed(unsure)}"
    if pytest_status or not verdicts:
        return SKIPPED, f"skipped: {len(verdicts)} verdicts, and pytest ended with {pytest_status}"
    return GOOD, f"good: {len(verdicts)} cases pass"


def _listed(verdicts: Iterable[dict[str, str]]) -> str:
    return "; ".join(f"{one['case']} is {one['outcome']}: {one['reason']}" for one in verdicts)


def measure(arguments: Sequence[str], results: Path) -> tuple[int, str]:
    """Measure this commit; return the exit status for git, and why."""
    shutil.rmtree(results, ignore_errors=True)
    command = [sys.executable, "-m", "pytest", "perf_tests", *arguments, f"--results={results}"]
    try:
        done = subprocess.run(command)
    except KeyboardInterrupt:
        return STOPPED, "not measured to the end"
    return status_of(verdicts_in(results), done.returncode)


def main(arguments: Sequence[str]) -> int:
    """Measure this commit, print the answer and return it as git's exit status."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    results = RESULTS / commit
    status, why = measure(arguments, results)
    if status == BAD:
        sys.stdout.write(f"bisect: {commit} is {why}; it is measured again\n")
        sys.stdout.flush()
        status, again = measure(arguments, RESULTS / f"{commit}-again")
        if status == GOOD:
            status, why = SKIPPED, "skipped: it was bad once, and good the second time"
        else:
            why = again
    sys.stdout.write(f"bisect: {commit} is {why} (results in {results})\n")
    return status


if __name__ == "__main__":
    if not any(word.startswith("--against") for word in sys.argv):
        sys.exit("bisect_run.py needs --against GOOD, the commit that the others are compared with")
    sys.exit(main(sys.argv[1:]))
