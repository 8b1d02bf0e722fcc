"""Run a scenario in a child process that is killed, and judge what it left."""

import os
import select
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from PIL import Image

from fluxfast.files.reading import read_json
from tests.kills.events import Events, arm
from tests.kills.scenario import Scenario

for name in ("scipy.special", "scipy.stats", "yaml"):  # once, not in each child
    import_module(name)
Image.init()
LIMIT_S = 30  # a command that takes longer waits for a lock that nobody holds
KILLED = -signal.SIGKILL


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A scenario with what is there before, and what is there after a run without a kill.

    Attributes:
        scenario: the scenario.
        folder: the folder of its files before.
        events: how many file events a run has.
        names: the names of all files and folders after it, and after the next one.
    """

    scenario: Scenario
    folder: Path
    events: int
    names: frozenset[str]


def prepared(scenario: Scenario, events: Events, folder: Path) -> Prepared:
    """Prepare a scenario; its command must succeed twice without a kill."""
    before, after = folder / "before", folder / "after"
    before.mkdir(parents=True)
    scenario.prepare(before)
    shutil.copytree(before, after, symlinks=True)
    events.reset(0)
    status, said = in_child(lambda report: _armed(scenario, after, report))
    assert status == 0, said
    count = events.count
    scenario.check(after, None)
    status, said = in_child(lambda report: scenario.again(after, ()))
    assert status == 0, said
    return Prepared(scenario=scenario, folder=before, events=count, names=names_in(after))


def _armed(scenario: Scenario, folder: Path, report: Callable[[str], None]) -> None:
    arm()
    scenario.run(folder, report)


def _armed_again(scenario: Scenario, folder: Path, reported: set[str]) -> None:
    arm()
    scenario.again(folder, reported)


def kill(one: Prepared, at: int, events: Events, folder: Path, next_at: int = 0) -> str:
    """Run the command in a copy of its folder and kill it; return what is wrong, or "".

    Args:
        one: the command.
        at: the event at which it is killed.
        events: counts and kills.
        folder: the copy.
        next_at: the event at which the next run is killed, too, if it comes so far; 0 for none.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(one.folder, folder, symlinks=True)
    events.reset(at)
    status, said = in_child(lambda report: _armed(one.scenario, folder, report))
    killed_at, reported = events.last, set(said.splitlines())
    events.reset(0)
    if status != KILLED:
        return f"not killed, exit status {status}: {said}"
    try:
        check_files(folder, one.folder)
        one.scenario.check(folder, reported)
        if next_at:
            events.reset(next_at)
            in_child(lambda report: _armed_again(one.scenario, folder, reported))
            events.reset(0)
            check_files(folder, one.folder)
            one.scenario.check(folder, reported)
        status, said = in_child(lambda report: one.scenario.again(folder, reported))
        assert status == 0, f"the next run fails: {said}"
        one.scenario.check(folder, None)
        left, lost = names_in(folder) - one.names, one.names - names_in(folder)
        assert not left and not lost, f"left behind: {sorted(left)}, missing: {sorted(lost)}"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__} in {place.name}:{place.lineno}: {_short(str(error))}"
        return f"killed at {_short(killed_at)}: {said}"
    return ""


def _short(text: str) -> str:
    return text.replace("\n", " ")[-400:]


def in_child(run: Callable[[Callable[[str], None]], None]) -> tuple[int, str]:
    """Run a function in a forked process of its own group; return its status and what it said."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.close(ours)
        status = 1
        try:
            run(lambda text: os.write(theirs, f"{text}\n".encode()) and None)
            status = 0
        except BaseException:
            os.write(theirs, traceback.format_exc()[-3000:].encode())
        finally:
            os._exit(status)
    os.close(theirs)
    said = _read(ours, pid)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


def _read(pipe: int, pid: int) -> str:
    """Read until the process and all that it started have ended; end them after the limit."""
    found, until = b"", time.monotonic() + LIMIT_S
    with os.fdopen(pipe, "rb", buffering=0) as file:
        while select.select([file], [], [], max(0.0, until - time.monotonic()))[0]:
            part = file.read(65536)
            if not part:
                return found.decode(errors="replace")
            found += part
    os.killpg(pid, signal.SIGTERM)
    return f"{found.decode(errors='replace')}hangs for {LIMIT_S} s"


def names_in(folder: Path) -> frozenset[str]:
    """Return the paths of all files and folders in a folder, without git's objects."""
    paths = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return frozenset(path for path in paths if "/.git/objects/" not in path)


def check_files(folder: Path, before: Path) -> None:
    """Check that each file is as before or completely new; hidden files are temporary."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in relative.parts):
            continue
        old = before / relative
        if not (old.is_file() and _content(old) == path.read_bytes()):
            _check_whole(path)
    lost = [p for p in before.rglob("*") if p.is_file() and not (folder / p.relative_to(before))]
    assert not lost, f"lost: {lost}"


@cache
def _content(path: Path) -> bytes:
    return path.read_bytes()


def _check_whole(path: Path) -> None:
    match path.suffix:
        case ".json":
            read_json(path)
        case ".png":
            with Image.open(path) as image:
                image.verify()
        case ".tsv" | ".txt":
            assert path.read_text().endswith("\n"), f"half of {path.name}"
