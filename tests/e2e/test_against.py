"""Two revisions interleaved: the order, when it stops, and the worktree of the other one."""

import os
import random
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from fluxfast.bench.ab.against import PAIRS, forget, interleaved, measure_in, worktree
from fluxfast.bench.results.result import result_path, write_result
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.verdict import decide
from fluxfast.errors import FluxFastError
from fluxfast.pytest_plugin.session import Suite
from perf_tests import test_latency
from tests.support.results import case, result
from tests.unit.test_verdict import process


def measured(factor, between):
    order, draw = [], random.Random(3)

    def measure(side, number, cases):
        order.append(side)
        level = 100 * (factor if side == "B" else 1) * draw.gauss(1, between)
        return {one.id: process(level, seed=len(order)) for one in cases}

    return order, measure


def sides_of(measure, pairs=PAIRS):
    sides, failed = interleaved(measure, [case()], pairs)
    assert not failed
    return sides[case().id]


def test_it_stops_when_it_is_sure_and_cancels_a_drift():
    order, measure = measured(1.05, 0.001)
    sides = sides_of(measure)
    assert "".join(order) == ("ABBA" * PAIRS)[: len(order)] and 1 < len(sides.ours) < PAIRS
    assert decide([sides.comparison], looks=PAIRS)[0].outcome is Outcome.SLOWER


def test_one_process_of_each_is_enough_where_nothing_changed():
    order, measure = measured(1.0, 0.0005)
    assert decide([sides_of(measure).comparison], looks=PAIRS)[0].outcome is Outcome.SAME
    assert order == ["A", "B"]


def test_it_ends_undecided_rather_than_never():
    order, measure = measured(1.01, 0.08)
    sides = sides_of(measure, pairs=6)
    assert len(order) == 12 and len(sides.theirs) == len(sides.ours) == 6
    assert decide([sides.comparison], looks=6)[0].outcome is Outcome.UNDECIDED


@pytest.mark.parametrize(("process_s", "pairs"), [(400.0, 2), (200.0, 4), (1.0, 12)])
def test_no_pair_begins_that_would_end_too_late(process_s, pairs):
    order, measure = measured(1.01, 0.08)
    interleaved(measure, [case()], clock=lambda: process_s * len(order))
    assert len(order) == 2 * pairs


def test_what_is_sure_is_not_measured_again_and_what_fails_does_not_stop_the_rest():
    quiet, noisy, gone = case(), case(model="schnell"), case(model="kontext")
    asked = []

    def measure(side, number, cases):
        asked.append([one.model for one in cases])
        level = {quiet.id: 100, noisy.id: 60 if len(asked) % 2 else 140}
        found = {one.id: process(level[one.id], seed=len(asked)) for one in cases if one != gone}
        return found | {
            one.id: FluxFastError("gone", got="", allowed="", remedy="")
            for one in cases
            if one == gone
        }

    sides, failed = interleaved(measure, [quiet, noisy, gone], pairs=3)
    assert asked == [["dev", "schnell", "kontext"], ["dev", "schnell"]] + [["schnell"]] * 4
    assert list(failed) == [gone.id] and sides.keys() == {quiet.id, noisy.id}
    asked.clear()
    sides, failed = interleaved(measure, [gone])
    assert not sides and list(failed) == [gone.id] and asked == [["kontext"]]


def canary(level):
    return {"gemm_ms": (level, level)}


@pytest.mark.parametrize(
    ("of_process", "outcome", "count"),
    [
        pytest.param(lambda n: 1.5 if n == 1 else 1.0, "same", 4, id="a neighbour, for a while"),
        pytest.param(lambda n: 1.5 if n in (1, 2, 5) else 1.0, "invalid runner", 6, id="one side"),
    ],
)
def test_a_process_on_a_disturbed_machine_is_left_out(of_process, outcome, count):
    order = []

    def measure(side, number, cases):
        found = process(100, seed=len(order), canaries=canary(of_process(len(order))))
        order.append(side)
        return {one.id: found for one in cases}

    sides = sides_of(measure)
    assert decide([sides.comparison], looks=PAIRS)[0].outcome.value == outcome
    assert len(order) == count
    assert sides.left_out == (1 if outcome == "same" else 0)


def test_a_change_is_not_sure_while_a_side_has_one_process_that_counts():
    order = []

    def measure(side, number, cases):
        disturbed = len(order) == 1
        order.append(side)
        found = process(
            105 if side == "B" else 100, seed=len(order), canaries=canary(1.5 if disturbed else 1)
        )
        return {one.id: found for one in cases}

    sides = sides_of(measure)
    assert len(order) == 6 and sides.left_out == 1
    assert decide([sides.comparison], looks=PAIRS)[0].outcome is Outcome.SLOWER


def test_the_unoptimized_pipeline_is_compared_only_where_nothing_is_beside_it():
    """It is diffusers' on both sides: beside optimized cases it is drawn once, for the pictures."""
    eager, all_on = case(optimizations=("bf16",)), case()
    elsewhere = case(optimizations=("bf16",), model="schnell")

    def suite(*cases, **options):
        made = Suite(config=SimpleNamespace(getoption=lambda name: options.get(name[2:])))
        made.selected = [SimpleNamespace(case=one) for one in cases]
        return made

    made = suite(eager, all_on, elsewhere, against="main")
    assert made.reference_ids == {eager.id} and made.others == 1
    assert not suite(eager, against="main").reference_ids
    assert not suite(eager, all_on).reference_ids


@pytest.fixture
def run(tmp_path):
    """A session with `--against` of two cases, one of them the unoptimized one of the other."""
    options = {"--against": "main", "--results": tmp_path}
    suite = Suite(config=SimpleNamespace(getoption=options.get))
    cases = [case(optimizations=("bf16",)), case()]
    suite.selected = [SimpleNamespace(case=one) for one in cases]
    return suite


def test_a_revision_that_cannot_be_brought_fails_each_case(run):
    def other_tree(name):
        raise FluxFastError("git cannot bring it", got="", allowed="", remedy="")

    for planned in run.selected:
        with pytest.raises(FluxFastError, match="git cannot bring it"):
            test_latency.compared(planned, run, SimpleNamespace(getfixturevalue=other_tree))
        assert planned.case.id in run.failed


def test_the_unoptimized_pipeline_is_drawn_by_this_revision_alone(run, monkeypatch):
    asked = []

    def measure(tree, cases, options, results, say):
        asked.append((results.name, [one.optimizations for one in cases], options[-1:]))
        return {one.id: process(seed=len(asked)) for one in cases}

    monkeypatch.setattr(test_latency, "measure_in", measure)
    request = SimpleNamespace(getfixturevalue=lambda name: Path("other"))
    for planned in run.selected:
        assert test_latency.compared(planned, run, request) == run.measured[planned.case.id]
    optimized, eager = [("bf16", "regional")], [("bf16",)]
    assert asked[:2] == [("A1", optimized, []), ("B1", optimized, [])]
    assert asked[2:] == [("B1", eager, ["--rounds=1"])]
    assert not run.failed and run.sides.keys() == {case().id}


@pytest.fixture
def repository(tmp_path):
    def git(*arguments):
        subprocess.run(
            ["git", "-c", "user.name=x", "-c", "user.email=x", *arguments],
            cwd=tmp_path / "repository",
            check=True,
            capture_output=True,
        )

    (tmp_path / "repository").mkdir()
    git("init")
    for version in ("one", "two"):
        (tmp_path / "repository" / "version").write_text(version)
        git("add", ".")
        git("commit", "-m", version)
    return tmp_path / "repository"


def test_the_other_revision_has_a_tree_of_its_own_and_leaves_nothing(repository, tmp_path):
    with worktree("HEAD~1", repository, tmp_path / "trees") as tree:
        assert (tree / "version").read_text() == "one"
        assert (repository / "version").read_text() == "two"
    assert not list((tmp_path / "trees").iterdir())
    with worktree("HEAD~1", repository, tmp_path / "trees"):  # and again
        pass
    with (
        pytest.raises(FluxFastError, match="git cannot bring"),
        worktree("nowhere", repository, tmp_path / "trees"),
    ):
        pass


def test_what_an_earlier_run_left_of_a_case_is_not_taken_for_this_ones(tmp_path):
    other = case(model="schnell")
    for folder in ("A1", "B1", "B3"):
        for one in (case(), other):
            write_result(tmp_path / folder, result(case=one))
    (tmp_path / "B4").mkdir()
    for folder in ("A1", "B4"):
        (tmp_path / folder / f"{case().id}.log").touch()
    forget(case(), tmp_path)
    assert not list(tmp_path.glob("*/*.log")) and not (tmp_path / "B4").exists()
    assert {path.name for path in tmp_path.glob("*/*.json")} == {f"{other.id}.json"}
    assert len(list(tmp_path.glob("*/*.json"))) == 3


def test_a_revision_that_measures_nothing_is_an_error_with_what_it_said(repository, tmp_path):
    found = measure_in(repository, [case()], ["--gpu=cpu"], tmp_path / "results")
    error = found[case().id]
    assert "did not measure this case" in str(error) and "exit status 4" in str(error)
    assert "unrecognized arguments: --gpu=cpu" in str(error) and str(tmp_path / "results") in str(
        error
    )


TREE = """
import sys
from pathlib import Path

tests = [word.partition("[")[2].rstrip("]") for word in sys.argv if "test_latency[" in word]
if "unknown" in " ".join(tests):
    sys.exit(4)
results = Path(next(word for word in sys.argv if "--results=" in word).partition("=")[2])
print("[1/1] a case: building\\n[1/1] a case: sampling\\n.")
for test in tests:
    (results / f"{test}.json").write_text((results / "known.json").read_text())
"""


def test_a_process_measures_all_cases_unless_one_is_unknown_to_its_revision(tmp_path, monkeypatch):
    """pytest runs nothing if it does not know one of the tests: then each has its own process."""
    (tmp_path / "pytest.py").write_text(TREE)
    monkeypatch.setenv("PYTHONPATH", "libraries")
    known = [case(), case(model="schnell")]
    write_result(tmp_path, result())
    result_path(tmp_path, case()).rename(tmp_path / "known.json")
    said = []
    found = measure_in(tmp_path, known, [], tmp_path, said.append)
    assert found == {one.id: result() for one in known}
    assert said == ["[1/1] a case: building", "[1/1] a case: sampling"]
    for one in known:
        result_path(tmp_path, one).unlink()
    found = measure_in(tmp_path, [*known, case(weights="unknown")], [], tmp_path)
    errors = [found.pop(case(weights="unknown").id)]
    assert isinstance(errors[0], FluxFastError) and found.keys() == {one.id for one in known}


def test_a_revision_finds_itself_first_and_then_the_libraries_of_this_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "libraries")
    monkeypatch.setattr(subprocess, "Popen", lambda *_, env, **__: pytest.fail(env["PYTHONPATH"]))
    with pytest.raises(pytest.fail.Exception, match=f"^{tmp_path}{os.pathsep}libraries$"):
        measure_in(tmp_path, [case()], [], tmp_path)
