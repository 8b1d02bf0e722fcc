"""Two environments: how sides are described, checked and compared, without another environment."""

import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from fluxfast.bench.ab import environment
from fluxfast.bench.ab.against import PAIRS, Sides
from fluxfast.bench.ab.environment import (
    REQUIRED,
    Environment,
    check_same_device,
    checked_environment,
    described_sides,
)
from fluxfast.bench.ab.installation import Installation
from fluxfast.bench.results.sides import FOLDER, read_sides, write_sides
from fluxfast.bench.results.store import write_result
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.verdict import decide
from fluxfast.errors import BaselineError, FluxFastError
from fluxfast.pytest_plugin.comparing import ProcessSettings
from fluxfast.report.contents import report_of
from tests.support.machines import CPU, H200
from tests.support.processes import process
from tests.support.synthetic_sides import two_environments

REPOSITORY = Path(__file__).parents[2]
HOT = {"sampling": {"held_back": ["hardware thermal slowdown"] * 4}}
ON_CPU = {"environment": {"hardware": CPU.to_json()}, "pace_ms": (50.0,) * 8}


def report(**versions):
    """Return what `fluxfast doctor --json` prints with these versions."""
    stack = {"torch": "2.11.0", "diffusers": "0.42.0"} | versions
    more = {"numpy": "2.1" if versions else "2.0", "pip": "26" if versions else "25"}
    return {"hardware": {"packages": stack}, "python": "3.11.7", "packages": stack | more}


def described(theirs, ours, interpreter="/env/bin/python", revision=None, **limits):
    installations = {
        "A": Installation(tree=REPOSITORY, interpreter=Path(interpreter)),
        "B": Installation(tree=REPOSITORY),
    }
    return described_sides(installations, {"A": theirs, "B": ours}, revision, limits)


def test_both_sides_survive_the_results_folder_and_name_what_differs(tmp_path):
    sides = described(report(), report(torch="2.12.0"), seconds=5.0)
    write_sides(tmp_path, sides)
    assert read_sides(tmp_path) == sides
    assert sides.across_environments and not sides.across_revisions
    assert sides.change == "torch 2.11.0 → 2.12.0, and 1 other package"
    assert read_sides(tmp_path / "elsewhere") is None
    (tmp_path / FOLDER / "B.json").write_text("{}")
    with pytest.raises(BaselineError, match="does not describe a side"):
        read_sides(tmp_path)


def test_limits_are_those_that_the_command_stated(tmp_path):
    stated = {"results": tmp_path, "device": "cpu", "roles": {}, "report": print}
    settings = ProcessSettings(installations={}, revision=None, rounds=None, seconds=5.0, **stated)
    assert settings.limits == {"seconds": 5.0}
    assert replace(settings, rounds=3, seconds=30.0).limits == {"rounds": 3}


@pytest.mark.parametrize("limits", [{"seconds": "5; reboot"}, {"seconds": -1.0}, {"matrix": 2}])
def test_limits_that_no_command_states_are_refused(tmp_path, limits):
    write_sides(tmp_path, described(report(), report(), **limits))
    with pytest.raises(BaselineError, match="does not describe a side"):
        read_sides(tmp_path)


def test_a_revision_is_named_with_its_commit(tmp_path):
    sides = described(report(), report(), interpreter=sys.executable, revision="main")
    assert not sides.across_environments and sides.change.startswith(f"main ({sides.a.commit[:12]}")
    sides = described(report(), report(cuda="13"), revision="main")
    assert sides.change.startswith("cuda absent → 13, and 1 other package; main (")


def test_the_modules_that_are_checked_are_the_dependencies_of_the_project():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    names = {entry.partition(">")[0].strip() for entry in project["dependencies"]}
    assert set(REQUIRED.values()) == names - {"pytest", "pytest-benchmark"}


def test_an_interpreter_finds_the_tree_first_and_no_library_of_this_one(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "libraries")
    monkeypatch.setenv("PYTHONHOME", "elsewhere")
    own = Installation(tree=Path("tree")).variables
    other = Installation(tree=Path("tree"), interpreter=Path("/env/bin/python")).variables
    assert own["PYTHONPATH"] == "tree:libraries" and own["PYTHONHOME"] == "elsewhere"
    assert other["PYTHONPATH"] == "tree" and "PYTHONHOME" not in other


def program(tmp_path, body):
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("exit 3", r"no Python interpreter that can be run(.|\n)*exit status 3"),
        ('echo "a line"; echo "oh no" >&2; exit 1', r"python: oh no"),
        (
            'echo "{mark}{{\\"python\\": [3, 9, 1]}}"',
            r"does not support(.|\n)*Python 3\.9\.1",
        ),
    ],
)
def test_a_program_that_cannot_measure_is_refused_with_what_it_printed(tmp_path, body, message):
    path = program(tmp_path, body.format(mark=environment.MARK) if "mark" in body else body)
    with pytest.raises(FluxFastError, match=message):
        checked_environment(path)


def test_paths_that_are_no_interpreter_are_refused(tmp_path):
    with pytest.raises(FluxFastError, match="No such file"):
        checked_environment(tmp_path / "nothing")
    with pytest.raises(FluxFastError, match=f"name {tmp_path}/bin/python"):
        checked_environment(tmp_path)


@pytest.mark.subprocess
def test_missing_and_broken_modules_are_named_all_at_once(monkeypatch, tmp_path):
    (tmp_path / "broken.py").write_text("raise OSError('libcuda.so.1: cannot open')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(environment, "REQUIRED", {"json": "a", "absent": "b", "broken": "c-d"})
    with pytest.raises(FluxFastError) as refused:
        checked_environment(Path(sys.executable))
    assert refused.value.problem == "the other environment cannot measure without absent, broken"
    assert "broken: OSError: libcuda.so.1: cannot open" in str(refused.value)
    assert refused.value.remedy == f"{sys.executable} -m pip install b c-d"
    monkeypatch.setattr(environment, "REQUIRED", {"json": "a"})
    assert checked_environment(Path(sys.executable)).gpu == ""


def test_both_environments_use_the_same_gpu():
    other = Environment(interpreter=Path("/env/bin/python"), gpu="NVIDIA H100")
    check_same_device(other, "NVIDIA H100")
    check_same_device(other, "")  # this session measures on the CPU
    with pytest.raises(FluxFastError, match="NVIDIA H100"):
        check_same_device(other, "NVIDIA H200")


def outcome(theirs, ours):
    sides = Sides(theirs=tuple(theirs), ours=tuple(ours), across_environments=True)
    return decide([sides.comparison], PAIRS)[0]


@pytest.mark.parametrize(("factor", "expected"), [(1.0, Outcome.SAME), (1.2, Outcome.SLOWER)])
def test_on_a_cpu_a_slower_library_does_not_cancel_with_the_eager_image(factor, expected):
    """A slower diffusers makes the eager image slower, too: its ratio would stay the same."""
    theirs = [process(seed=n, reference_e2e_s=(3.0,) * 8, **ON_CPU) for n in range(2)]
    slow = {"reference_e2e_s": (3.0 * factor,) * 8, **ON_CPU}
    ours = [process(100 * factor, seed=n + 5, **slow) for n in range(2)]
    found = outcome(theirs, ours)
    assert found.outcome is expected
    names = {change.metric.name for change in found.changes}
    assert names >= {"image_pace", "step_pace"} and "eager_ratio" not in names


def test_canaries_of_pytorch_do_not_make_another_environment_another_machine():
    def canaries(gemm, copy=0.26):
        return {"canaries": {"gemm_ms": (gemm, gemm), "copy_ms": (copy, copy)}}

    theirs = [process(seed=n, **canaries(0.52)) for n in range(2)]
    faster_gemm = [process(seed=n + 5, **canaries(0.40)) for n in range(2)]
    assert outcome(theirs, faster_gemm).outcome is Outcome.SAME
    slower_memory = [process(seed=n + 5, **canaries(0.40, copy=0.35)) for n in range(2)]
    assert outcome(theirs, slower_memory).outcome is Outcome.INVALID_RUNNER


def test_a_report_judges_two_environments_without_a_wrong_stack(tmp_path):
    """The run's own verdicts do not cover a part of its processes, so they are judged again."""
    write_sides(tmp_path, two_environments("2.11.0", "2.12.0"))
    for number in range(2):
        for side, torch in (("A", "2.11.0"), ("B", "2.12.0")):
            hardware = replace(H200, packages={**H200.packages, "torch": torch})
            slower = 1.05 if side == "B" else 1.0
            one = process(100 * slower, seed=number, environment={"hardware": hardware.to_json()})
            origin = {"commit": "0123", "dirty": False, "process": number}
            write_result(tmp_path / f"{side}{number + 1}", replace(one, provenance=origin))
    [row] = report_of([tmp_path]).rows
    assert row.verdict.outcome is Outcome.SLOWER, row.verdict.reason


@pytest.mark.parametrize("pairs", [1, 2])
def test_a_reference_that_was_always_throttled_hides_no_slowdown(pairs):
    theirs = tuple(process(110.0, seed=n, **HOT) for n in range(pairs))
    ours = tuple(process(110.0, seed=n + 5) for n in range(pairs))
    (found,) = decide([Sides(theirs=theirs, ours=ours).comparison], PAIRS)
    assert found.outcome is Outcome.INVALID_RUNNER
