"""The parts of the pytest plugin: folders, lock, judging and lines, without a pipeline."""

import fcntl
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

import pytest

from fluxfast.bench.baselines.baseline import PROCESSES, Baseline
from fluxfast.bench.cases.role import Role
from fluxfast.bench.results.folders import (
    LOCK,
    locked,
    new_folder,
    remove_old,
    why_not_writable,
)
from fluxfast.bench.results.machine import Gpu
from fluxfast.bench.verdicts.counters import step_changes
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.errors import BaselineError, FluxFastError
from fluxfast.pytest_plugin import baselines, neighbours, plugin, printing
from fluxfast.pytest_plugin.baselines import check_recordable
from fluxfast.pytest_plugin.judging import judge_against_baseline, verdict_json
from fluxfast.pytest_plugin.neighbours import announced
from fluxfast.pytest_plugin.options import Options
from fluxfast.pytest_plugin.worker import lock_own_results
from tests.support.machines import H200
from tests.support.processes import process, processes
from tests.support.results import case


def test_a_second_run_in_a_folder_is_refused_with_the_process_of_the_first(tmp_path):
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())
        with pytest.raises(FluxFastError, match=f"process {os.getpid()}"), locked(tmp_path):
            pass
    assert not (tmp_path / LOCK).exists()
    with locked(tmp_path):
        pass


@pytest.mark.subprocess
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from fluxfast.bench.results.folders import locked\n"
        "with locked(Path(sys.argv[1])): os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())


def test_runs_at_the_same_time_learn_of_each_other_and_not_of_dead_ones(tmp_path, monkeypatch):
    (tmp_path / "0-77").write_text("process 77: killed")
    monkeypatch.setattr(sys, "argv", ["/bin/pytest", "perf_tests", "--gpu", "cpu"])
    with announced(tmp_path) as others:
        assert others() == [] and not (tmp_path / "0-77").exists()
        first = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: 12)
        with announced(tmp_path) as others_of_second:
            [seen] = others_of_second()
        [noticed] = others()  # the second one has ended
    assert seen.startswith(f"process {first} since ") and noticed.startswith("process 12 since ")
    assert noticed.endswith(": pytest perf_tests --gpu cpu")
    assert not list(tmp_path.iterdir())


def test_links_of_another_user_are_not_followed_and_text_is_shown_without_escapes(tmp_path):
    """Everybody can write in the folder in which runs notice each other; root runs, too."""
    target, folder = tmp_path / "target", tmp_path / "timing"
    target.write_text("root's")
    target.chmod(0o600)
    folder.mkdir()
    (folder / "1-link").symlink_to(target)
    (folder / "1-hard").hardlink_to(target)
    os.mkfifo(folder / "1-pipe")
    other = folder / "1-other"
    other.write_bytes(b"\x1b[2Jprocess 5 \xff" + b"x" * 1000)
    with other.open() as held, target.open() as lock:
        for one in (held, lock):
            fcntl.flock(one, fcntl.LOCK_EX)
        with announced(folder) as others:
            (own,) = set(folder.iterdir()) - {other, *folder.glob("1-[hlp]*")}
            own.write_bytes(own.read_bytes() + b"\xff\x1b]0;x\xe2\x80\xae\n")
            present, noted = others()
    assert present.startswith("\\x1b[2Jprocess 5 \ufffdxxx") and len(present) < 1000
    assert noted == "\ufffd\\x1b]0;x\\u202e"
    assert target.read_text() == "root's" and target.stat().st_mode & 0o777 == 0o600
    for place in (tmp_path / "link", target):
        if place != target:
            place.symlink_to(tmp_path)
        with pytest.raises(FluxFastError, match="cannot be used"), announced(place):
            pass
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_a_run_is_not_seen_before_it_is_described_nor_taken_for_a_dead_one(tmp_path, monkeypatch):
    """A run that is taken for a dead one, in the moment before it locks its file, begins again."""
    described, lock, taken = neighbours._description, fcntl.flock, []

    def description():
        assert list(tmp_path.iterdir()) == []
        return described()

    def lock_of_a_slow_run(file, how):
        if not taken:
            taken.extend(tmp_path.iterdir())
            taken[0].unlink()
        lock(file, how)

    monkeypatch.setattr(neighbours, "_description", description)
    monkeypatch.setattr(neighbours.fcntl, "flock", lock_of_a_slow_run)
    with announced(tmp_path):
        assert list(tmp_path.iterdir()) == taken
        assert taken[0].read_text().startswith(f"process {os.getpid()} since ")


def test_a_worker_with_a_folder_of_its_own_keeps_it(tmp_path):
    """`remove_old` of another run leaves it; the workers of one suite share a folder and lock."""
    with ExitStack() as opened:
        none, results = SimpleNamespace(results=None), tmp_path / "results"
        worker = SimpleNamespace(options=none, results_folder=results, opened=opened)
        lock_own_results(worker)
        assert (results / LOCK).exists()
        lock_own_results(SimpleNamespace(options=SimpleNamespace(results=results)))


def test_the_newest_folders_of_results_are_kept_and_named_ones_never_removed(tmp_path):
    own = [tmp_path / f"20261101-0000{number:02}" for number in range(25)]
    for folder in (*own, tmp_path / "candidate"):
        folder.mkdir()
    (own[1] / LOCK).touch()  # a run was killed there
    with locked(own[0]):  # another run writes there
        assert remove_old(tmp_path) == 4
    assert {path.name for path in tmp_path.iterdir()} == {
        *(path.name for path in (own[0], *own[5:])),
        "candidate",
    }


def test_a_folder_of_results_is_a_new_one(tmp_path):
    first = new_folder(tmp_path)
    first.mkdir()
    assert new_folder(tmp_path) != first and not new_folder(tmp_path).exists()


def test_a_folder_below_a_file_is_not_writable(tmp_path):
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in why_not_writable(tmp_path / "file" / "results")
    assert why_not_writable(tmp_path / "new" / "results") is None


def baseline(tmp_path, **results):
    gpu = Gpu(
        slug="here",
        device_names=(H200.name,),
        platform=H200.platform,
        architecture=H200.architecture,
        memory_gib=H200.memory_gib,
    )
    return Baseline(gpu=gpu, results=results, path=tmp_path / "cpu.json")


@pytest.mark.parametrize(
    ("known", "step_ms", "grows", "outcome", "joins"),
    [
        (0, 100.0, True, Outcome.NEW, True),
        (0, 100.0, False, Outcome.NEW, False),
        (2, 100.0, True, Outcome.SAME, True),
        (PROCESSES, 100.0, True, Outcome.SAME, False),
        (2, 300.0, True, Outcome.SLOWER, False),
    ],
)
def test_a_cpus_baseline_grows_by_what_is_not_slower(
    known, step_ms, grows, outcome, joins, tmp_path
):
    accepted = {case().id: tuple(processes(count=known))} if known else {}
    found = judge_against_baseline(
        baseline(tmp_path, **accepted), {case().id: process(step_ms)}, grows=grows
    )
    assert found.verdicts[case().id].outcome is outcome
    assert (case().id in found.joining) is joins
    is_first = joins and outcome is Outcome.NEW
    assert (found.verdict(case().id) is None) is is_first
    shown = verdict_json(found.verdict(case().id), None)
    assert shown["outcome"] == ("recorded" if is_first else outcome.value)


def test_a_disturbed_process_does_not_become_the_standard_of_a_new_case(tmp_path):
    hot = process(sampling={"held_back": ["hardware thermal slowdown"] * 4})
    found = judge_against_baseline(baseline(tmp_path), {case().id: hot}, grows=True)
    assert found.verdicts[case().id].outcome is Outcome.INVALID_RUNNER
    assert not found.joining and not found.first


@pytest.mark.parametrize(
    ("between", "outcome"), [(0.001, Outcome.CHANGED), (0.05, Outcome.UNDECIDED)]
)
def test_a_process_with_other_counters_does_not_join_a_baseline(between, outcome, tmp_path):
    """It would become the last of the case, whose counters the next run is compared with."""
    known = processes(count=2, between=between, counters={"launches_in_a_step": 865})
    fewer = {case().id: process(counters={"launches_in_a_step": 703})}
    old = baseline(tmp_path, **{case().id: tuple(known)})
    found = judge_against_baseline(old, fewer, grows=True)
    assert found.verdicts[case().id].outcome is outcome
    assert not found.joining


def suite_of(tmp_path, baseline, judgement, **options):
    """Return what the printed lines need of a session."""
    return SimpleNamespace(
        options=SimpleNamespace(cases=None),
        baseline=baseline,
        grows_baseline=True,
        is_recording=False,
        joining=judgement.joining,
        judgement=judgement,
        **{"unsaved": None, **options},
    )


CHANGED = {"commit": "abcdefgh", "dirty": True}


@pytest.mark.parametrize("known", [0, 2])
def test_results_of_changed_sources_are_judged_and_never_recorded(known, tmp_path):
    accepted = {case().id: tuple(processes(count=known))} if known else {}
    measured = {case().id: process(provenance=CHANGED)}
    found = judge_against_baseline(baseline(tmp_path, **accepted), measured, grows=True)
    assert not found.joining
    verdict = found.verdict(case().id)
    assert verdict.outcome is (Outcome.SAME if known else Outcome.NEW)
    assert ("compare with --against HEAD" in verdict.reason) is not known
    own = case(weights="my_dev_0a1b2c")
    found = judge_against_baseline(
        baseline(tmp_path), {own.id: process(case=own, provenance=CHANGED)}, grows=True
    )
    assert found.verdict(own.id).reason.endswith("commit or stash them")


def test_a_run_that_could_only_record_changed_sources_stops_at_once(tmp_path, monkeypatch):
    changed = ("fluxfast/a.py", "fluxfast/b.py", "fluxfast/c.py", "conftest.py")
    selected = [SimpleNamespace(case=case(), role=Role.DEFAULT)]
    options = Options(baselines=tmp_path)
    monkeypatch.setattr(baselines, "changed_sources", lambda: ())
    check_recordable(options, baseline(tmp_path), selected)
    monkeypatch.setattr(baselines, "changed_sources", lambda: changed)
    with pytest.raises(BaselineError, match="uncommitted changes") as error:
        check_recordable(options, baseline(tmp_path), selected)
    assert error.value.got == "fluxfast/a.py, fluxfast/b.py, fluxfast/c.py and 1 more"
    assert "--against HEAD" in error.value.remedy and "git stash" in error.value.remedy
    with pytest.raises(BaselineError) as error:  # the suite refuses --against with --cases
        check_recordable(Options(baselines=tmp_path, cases=tmp_path), baseline(tmp_path), selected)
    assert "--against" not in error.value.remedy
    before = case(optimizations=("bf16",))
    known = {before.id: tuple(processes(case=before, role=Role.DEFAULT))}
    check_recordable(options, baseline(tmp_path, **known), selected)


@pytest.mark.parametrize("dirty", [False, True])
def test_the_lines_name_the_commit_that_is_recorded(dirty, tmp_path, monkeypatch):
    origin = {"commit": "abcdefghijk", "dirty": dirty}
    monkeypatch.setattr(printing, "provenance", lambda: origin)
    empty = baseline(tmp_path)
    judgement = judge_against_baseline(empty, {case().id: process(provenance=origin)}, grows=True)
    suite = suite_of(tmp_path, empty, judgement)
    before, after = list(printing._baseline_lines(suite)), list(printing._recorded_lines(suite))
    if dirty:
        assert "judged and not recorded" in before[1] and not after
    else:
        assert before[1].startswith("this CPU has no baseline yet: this run records commit abcdefg")
        assert after[0].startswith(f"1 cases of commit abcdefg recorded in {empty.path}: they gate")
        assert "`fluxfast baseline forget --gpu cpu`" in after[0]


def test_a_baseline_that_could_not_be_written_is_reported_after_the_table_and_fails(tmp_path):
    empty = baseline(tmp_path)
    judgement = judge_against_baseline(empty, {case().id: process()}, grows=True)
    why = FluxFastError("cannot write this file", got="x: no space", allowed="", remedy="")
    suite = suite_of(tmp_path, empty, judgement, unsaved=why, close=lambda: None, outcomes={})
    (line,) = printing._recorded_lines(suite)
    assert line.startswith("the results did not join the baseline: cannot write this file")
    for ended, status in ((0, 1), (2, 2)):
        session = SimpleNamespace(
            config=SimpleNamespace(stash={plugin.SUITE: suite}), exitstatus=ended
        )
        plugin.pytest_sessionfinish(session, ended)
        assert session.exitstatus == status


@pytest.mark.parametrize(
    ("card", "outcome", "against", "lines"),
    [
        ("GPU-b", Outcome.UNDECIDED, None, ["undecided cases have no process of this card"]),
        ("GPU-b", Outcome.SAME, None, ["`fluxfast baseline add-card` lets it join"]),
        ("GPU-b", Outcome.SLOWER, None, []),
        ("GPU-b", Outcome.UNDECIDED, "HEAD", []),  # both sides ran on it
        ("GPU-a", Outcome.UNDECIDED, None, []),
        ("GPU-a", Outcome.SAME, None, []),
    ],
)
def test_cases_on_a_card_outside_the_baseline_name_it(card, outcome, against, lines, tmp_path):
    now = process(environment={"gpu": {"uuid": card}})
    known = baseline(tmp_path, **{case().id: tuple(processes())})
    suite = SimpleNamespace(
        measured={case().id: now}, outcomes={case().id: outcome}, baseline=known,
        options=Options(baselines=tmp_path, against=against),
    )  # fmt: skip
    found = list(printing.unknown_card(suite))
    assert all(part in line for part, line in zip(lines, found, strict=True))
    assert all("GPU-b" in line for line in found)


@pytest.mark.parametrize(
    ("sampling", "power", "line"),
    [
        ({"ended": "noise 0.1%"}, {}, "3 images (noise 0.1%)"),
        ({"discarded": ["power brake"]}, {}, "1 discarded: power brake"),
    ],
)
def test_conditions_name_samples_and_throttling(sampling, power, line):
    result = replace(process(images=3), sampling=sampling, **power)
    suite = SimpleNamespace(measured={case().id: result}, sides={})
    assert line in printing.conditions(suite, SimpleNamespace(case=case()))


@pytest.mark.parametrize(
    ("now", "before", "text"),
    [
        (("a", "b"), ("a",), "gemm kernels: b in addition"),
        (("a",), ("a", "b"), "gemm kernels: b no longer runs"),
        (("a",), ("b",), "gemm kernels: a instead of b"),
    ],
)
def test_a_changed_kernel_is_named_by_what_happened(now, before, text):
    one, other = process(kernels={"gemm": now}), process(kernels={"gemm": before})
    assert list(map(str, step_changes(one, other))) == [text]
