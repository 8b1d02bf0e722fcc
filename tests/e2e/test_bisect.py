"""`git bisect run` finds a planted slowdown: git and the wrapper are real, the timing is not."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from fluxfast.bench.ab.bisect_run import FAILS, PASSES, status_of
from fluxfast.bench.verdicts.outcome import Outcome
from tests.support.collecting import collected
from tests.support.pages import REPOSITORY, commands

# A program in place of pytest. The commit of --against has a step of 100 ms.
STAND_IN = """
import json, sys
from pathlib import Path

assert sys.argv[1:4] == ["perf_tests", "--gpu", "h200"] and sys.argv[-3:-1] == ["--against", "good"]
step_ms = {step_ms}
if step_ms is None:
    raise SystemExit(0)  # no verdict: the case was not collected
outcome = "undecided" if step_ms < 0 else "slower" if step_ms > 110 else "same"
folder = Path(sys.argv[-1].partition("=")[2]) / "B1" / "verdicts"
folder.mkdir(parents=True)
(folder / "dev.json").write_text(json.dumps(dict(outcome=outcome, reason=str(step_ms))))
raise SystemExit(outcome == "slower")
"""
DISTURBED = '100 if sys.argv[-1].endswith("-again") else 120'  # slower in the first of two runs
# The step of each commit. Some cannot be judged: undecided, a syntax error, nothing collected.
STEPS = [100, 100, "100 ms", 101, -1, 99, None, DISTURBED, 100, 120, 121, -1, 120, "(", 120, 119]
FIRST_SLOW = 9


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Return a repository with a commit for each of STEPS, and a function that runs git in it."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    # Commits of one second and one size would share their bytecode; real ones take minutes each.
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    def git(*arguments):
        words = ["git", "-c", "user.name=x", "-c", "user.email=x", *arguments]
        done = subprocess.run(words, cwd=tmp_path / "repository", capture_output=True, text=True)
        assert not done.returncode, done.stdout + done.stderr
        return done.stdout

    (tmp_path / "repository").mkdir()
    git("init", "--quiet")
    for number, step_ms in enumerate(STEPS):
        text = STAND_IN.format(step_ms=step_ms)
        (tmp_path / "repository" / "pytest.py").write_text(text)
        git("add", ".")
        git("commit", "--allow-empty", "--quiet", "-m", f"commit {number}")
    git("tag", "good", f"HEAD~{len(STEPS) - 1}")
    return git


@pytest.mark.subprocess
def test_bisecting_finds_the_slow_commit_and_skips_those_that_cannot_be_judged(
    repository, tmp_path
):
    copy, checkout, on_bad, start, bisect, reset = commands("bisected")  # as the guide has them
    shutil.copy(REPOSITORY / copy.split()[1], tmp_path)
    here = {"BAD": "HEAD", "GOOD": "good", "python": sys.executable}
    here["/tmp/bisect_run.py"] = str(tmp_path / "bisect_run.py")
    repository("checkout", "--quiet", here[checkout.split()[-1]])
    tried = [here.get(word, word) for word in on_bad.split()]
    at = {"cwd": tmp_path / "repository", "capture_output": True, "text": True}
    assert "is bad: dev is slower" in subprocess.run(tried, **at).stdout
    log = ""
    for line in (start, bisect, reset):
        log += repository(*(here.get(word, word) for word in line.split()[1:]))
    (bad,) = re.findall(r"(\w+) is the first bad commit", log)
    assert repository("show", "-s", "--format=%s", bad) == f"commit {FIRST_SLOW}\n"
    assert "is bad: dev is slower: 120" in log and "is good: 1 cases pass" in log
    assert "skipped: it was bad once, and good the second time" in log


def test_the_command_of_the_guide_selects_a_case(monkeypatch):
    """Without a selected test there is no verdict, and git would skip every commit."""
    (bisect,) = (line for line in commands("bisected") if " run " in line)
    words = bisect.replace("GOOD", "HEAD").partition("bisect_run.py ")[2].split()
    assert len(collected(["perf_tests", *words], monkeypatch)) == 2  # one case, measured and judged


@pytest.mark.parametrize(
    ("outcomes", "pytest_status", "status"),
    [
        (["same", "faster"], 0, 0),
        (["same", "slower"], 1, 1),
        (["undecided", "broken"], 1, 1),
        (["same", "undecided"], 0, 125),
        (["same", "invalid runner"], 6, 125),
        (["same"], 1, 125),  # another case was not measured
        ([], 4, 125),
        ([], -9, 125),
    ],
)
def test_a_commit_is_bad_only_if_a_verdict_is(outcomes, pytest_status, status):
    verdicts = [{"case": "dev", "outcome": outcome, "reason": "why"} for outcome in outcomes]
    assert status_of(verdicts, pytest_status)[0] == status


def test_every_outcome_of_a_comparison_is_known_to_the_wrapper():
    for outcome in Outcome:
        if outcome.is_judged and outcome not in (Outcome.NEW, Outcome.WRONG_STACK):
            expected = PASSES if outcome.is_pass else FAILS
            assert outcome.value in expected or outcome is Outcome.RECORDED
