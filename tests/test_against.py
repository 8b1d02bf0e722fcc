"""Two revisions interleaved: the order, when it stops, and the worktree of the other one."""

import os
import random
import subprocess
from types import SimpleNamespace

import pytest

from fluxfast.bench.against import PAIRS, forget, interleaved, measure_in, worktree
from fluxfast.bench.compare import Outcome, settle
from fluxfast.bench.result import write_result
from fluxfast.errors import FluxFastError
from fluxfast.suite import Suite
from tests.results import case, result
from tests.test_verdict import process


def measured(factor, between):
    order, draw = [], random.Random(3)

    def measure(side, number):
        order.append(side)
        level = 100 * (factor if side == "B" else 1) * draw.gauss(1, between)
        return process(level, seed=len(order))

    return order, measure


def test_it_stops_when_it_is_sure_and_cancels_a_drift():
    order, measure = measured(1.05, 0.001)
    sides = interleaved(measure)
    assert "".join(order) == ("ABBA" * PAIRS)[: len(order)] and 1 < len(sides.ours) < PAIRS
    assert settle([sides.comparison], looks=PAIRS)[0].outcome is Outcome.SLOWER


def test_one_process_of_each_is_enough_where_nothing_changed():
    order, measure = measured(1.0, 0.0005)
    assert settle([interleaved(measure).comparison], looks=PAIRS)[0].outcome is Outcome.SAME
    assert order == ["A", "B"]


def test_it_ends_undecided_rather_than_never():
    order, measure = measured(1.01, 0.08)
    sides = interleaved(measure, pairs=6)
    assert len(order) == 12 and len(sides.theirs) == len(sides.ours) == 6
    assert settle([sides.comparison], looks=6)[0].outcome is Outcome.UNDECIDED


def test_the_unoptimized_pipeline_is_compared_only_where_nothing_is_beside_it():
    """It is diffusers' on both sides: beside optimized cases it is drawn once, for the pictures."""
    eager, all_on = case(optimizations=("bf16",)), case()
    elsewhere = case(optimizations=("bf16",), model="schnell")

    def suite(*cases, **options):
        made = Suite(config=SimpleNamespace(getoption=lambda name: options.get(name[2:])))
        made.selected = [SimpleNamespace(case=one) for one in cases]
        return made, [one.case for one in made.selected if made.is_reference(one)]

    made, references = suite(eager, all_on, elsewhere, against="main")
    assert references == [eager] and made.others == 1
    assert suite(eager, against="main")[1] == []
    assert suite(eager, all_on)[1] == []


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
    forget(case(), tmp_path)
    assert {path.name for path in tmp_path.glob("*/*.json")} == {f"{other.id}.json"}
    assert len(list(tmp_path.glob("*/*.json"))) == 3


def test_a_revision_that_measures_nothing_is_an_error_with_what_it_said(repository, tmp_path):
    with pytest.raises(FluxFastError, match="did not measure this case") as error:
        measure_in(repository, case(), ["--gpu=cpu"], tmp_path / "results")
    assert "exit status 4" in str(error.value)


def test_a_revision_finds_itself_first_and_then_the_libraries_of_this_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "libraries")
    monkeypatch.setattr(subprocess, "run", lambda *_, env, **__: pytest.fail(env["PYTHONPATH"]))
    with pytest.raises(pytest.fail.Exception, match=f"^{tmp_path}{os.pathsep}libraries$"):
        measure_in(tmp_path, case(), [], tmp_path)
