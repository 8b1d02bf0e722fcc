"""The commands that fuzz and kill notice what they are there to notice."""

import os
import signal
import time
from pathlib import Path

import pytest

from fluxfast.errors import FluxFastError
from tests.fuzz import workers
from tests.fuzz.outcomes import ACCEPTED, FAILED, REFUSED, Kind, check_markdown, check_page
from tests.kills.events import run_with_library

REPOSITORY = Path(__file__).parents[2]


def refuse(random, folder):
    raise FluxFastError("wrong", got="this", allowed="that", remedy="change it")


FEEDS = {
    "accepted": (lambda random, folder: None, ACCEPTED, ""),
    "refused": (refuse, REFUSED, ""),
    "traceback": (lambda random, folder: {}["x"], FAILED, "KeyError"),
    "crash": (lambda random, folder: os.kill(os.getpid(), signal.SIGSEGV), FAILED, "crash"),
    "hang": (lambda random, folder: time.sleep(60), FAILED, "hang"),
    "later": (lambda random, folder: None, ACCEPTED, ""),
}


def test_a_traceback_a_crash_and_a_hang_are_failures_and_the_next_case_is_run(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(workers, "LIMIT_S", 0.5)
    kinds = [Kind(name=name, weight=1, feed=feed) for name, (feed, *_) in FEEDS.items()]
    found = list(workers.outcomes(range(len(kinds)), kinds.__getitem__, 0, tmp_path))
    assert [one.kind for one in found] == list(FEEDS)
    for one in found:
        _, end, place = FEEDS[one.kind]
        assert one.end == end and place in one.place, one


@pytest.mark.parametrize("text", ["<fuzz-tag>", "<td><fuzz-tag a=b>", "</script><fuzz-tag>"])
def test_markup_of_a_file_is_noticed(text):
    for check in (check_page, check_markdown):
        with pytest.raises(Exception, match="markup"):
            check(f"<script>let a = '{text}'</script>" if "script" in text else text)
        check("<p>&lt;fuzz-tag&gt;</p>")


UNSAFE = """
import sys
from pathlib import Path
from tests.kills.__main__ import run
from tests.kills.events import Events
from tests.kills.runner import kill, prepared
from tests.kills.scenario import Scenario

def write(folder, report):
    (folder / "a.txt").write_text("one line\\n" * 99)
    report("written")
    (folder / "b.lock").touch()
    (folder / "b.lock").unlink()

def check(folder, reported):
    assert reported is None or "written" not in reported or (folder / "a.txt").read_text()

folder = Path(sys.argv[1])
unsafe = Scenario(name="unsafe", prepare=lambda folder: (folder / "a.txt").write_text("a line\\n"),
                  run=write, check=check, again=lambda folder, reported: None)
events = Events()
one = prepared(unsafe, events, folder / "unsafe")
found = [kill(one, at, events, folder / "killed") for at in range(1, one.events + 1)]
assert one.events == 4 and not found[0], found  # before the file is opened
assert "half of a.txt" in found[1] and not found[2] and "b.lock" in found[3], found
sys.exit(run(20, ("sessions", "commands", "against"), folder))
"""


@pytest.mark.subprocess
def test_commands_that_are_killed_lose_nothing_and_one_that_is_not_safe_is_noticed(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    assert run_with_library(["-c", UNSAFE, str(tmp_path)], tmp_path) == 0
    assert capfd.readouterr().out.splitlines()[-1].split()[2:] == ["20", "0"]
