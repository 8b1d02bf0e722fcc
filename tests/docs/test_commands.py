"""Every command of the documentation is run; `tests/support/pages.py` lists the ways."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from fluxfast.bench.baselines.file import read_baseline, write_baseline
from fluxfast.bench.baselines.lookup import baseline_for, find_baseline, own_baseline
from fluxfast.bench.results.store import write_result
from fluxfast.cli.main import main
from fluxfast.errors import FluxFastError
from fluxfast.hardware import detect
from fluxfast.mini import WEIGHTS
from tests.support.collecting import collected
from tests.support.forked import run_module
from tests.support.pages import COMMANDS, JSON, REPOSITORY, WAYS, YAML, commands, way_of
from tests.support.processes import ONE_CARD, processes
from tests.support.rehearsal import rehearse_commands, run_pytest
from tests.support.results import CANARIES, result
from tests.support.synthetic_results import ablation, write

TINY = "dev-mini-32x32-b1-s1-eager"  # stands for CASE
OWN_CASES = "my-cases.yaml"
NO_GPU = "PyTorch finds no GPU on this machine"
each_of = partial(pytest.mark.parametrize, "line", ids=lambda line: f"{COMMANDS[line]}: {line:.60}")


def test_there_is_a_way_to_run_every_command():
    assert [line for line in COMMANDS if way_of(line) is None] == []
    assert all(map(commands, WAYS)) and len(COMMANDS) > 50


def run(words, folder=None):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.slow
@pytest.mark.subprocess
def test_a_command_that_needs_no_gpu_runs_unchanged(tmp_path, monkeypatch, capsys):
    """Run them in the order of the pages, in a folder with synthetic results of three processes."""
    folders = write(ablation(), tmp_path / "synthetic")
    results = tmp_path / "results"
    for number, folder in enumerate(folders, 1):
        for name in (str(number), f"A{number}", f"B{number}"):
            shutil.copytree(folder, results / name)
        (tmp_path / "shards").mkdir(exist_ok=True)
        (tmp_path / "shards" / str(number)).symlink_to(folder)
    (tmp_path / "upgrade").symlink_to(results)
    (tmp_path / "baselines").symlink_to(REPOSITORY / "baselines")
    run([sys.executable, "-m", "venv", "--without-pip", ".venv"], folder=tmp_path)
    monkeypatch.chdir(tmp_path)
    # The page has tests of its own, and its charts take seconds to compute.
    monkeypatch.setattr("fluxfast.cli.report.page", lambda report: "<!doctype html>")
    for line in commands("unchanged"):
        if line.startswith("fluxfast profile --diff"):
            shutil.copyfile("b.json.gz", "a.json.gz")
        words = [str(p) for word in shlex.split(line) for p in sorted(Path().glob(word)) or [word]]
        words = [TINY if word == "CASE" else word for word in words]
        match words:
            case ["fluxfast", *arguments]:
                assert main(arguments) == 0, f"{line}\n{capsys.readouterr().err}"
            case ["python", *arguments]:
                run([sys.executable, *arguments])
            case ["git", *_]:
                run(words, folder=REPOSITORY)
            case ["source", *_]:
                where = run(["bash", "-ec", f"{line}; command -v python"]).stdout.strip()
                assert where == str(tmp_path / ".venv" / "bin" / "python")
    left = ("page.html", "summary.md", "report.json", "made.sqlite3", "merged", "b.json.gz")
    assert all(Path(name).exists() for name in left)


def new_gpu(baselines):
    """Write the baseline file that the guide shows."""
    (text,) = JSON.findall((REPOSITORY / "docs/guides/add-a-gpu.md").read_text())
    (baselines / "nvidia-b200.json").write_text(text)


def test_a_baseline_is_accepted_in_a_copy_of_the_project(tmp_path, monkeypatch, capsys):
    """The copy has the new GPU of the guide, and synthetic results of an H200."""
    shutil.copytree(REPOSITORY / "baselines", tmp_path / "baselines")
    new_gpu(tmp_path / "baselines")
    monkeypatch.setattr("fluxfast.files.checkout", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    folders = write(ablation(processes=5), tmp_path / "synthetic")
    assert main(["merge", *map(str, folders), "--output", "merged"]) == 0
    for name in ("results", "r"):
        (tmp_path / name).mkdir()
        for number in range(5):
            (tmp_path / name / str(number + 1)).symlink_to(folders[number % len(folders)])
    baseline = tmp_path / "baselines" / "nvidia-h200.json"
    measured = ablation()[0].case
    for line in commands("accepted"):
        words = [measured.id if word == "ID" else word for word in shlex.split(line)[1:]]
        assert main(words) == 0, line
        output = capsys.readouterr().out
        known = [case["case"] for case in json.loads(baseline.read_text())["cases"]]
        if line.startswith("fluxfast matrix"):
            assert "cases on NVIDIA B200 (sm_100)" in output
        else:
            assert measured.to_json() in known, line
        shutil.copyfile(REPOSITORY / "baselines" / baseline.name, baseline)


@each_of(commands("accepted into an own baseline"))
def test_results_of_own_cases_are_accepted(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my-cases.yaml").touch()
    own = [replace(one, case=replace(one.case, weights="my_flux_dev_0a1b2c")) for one in ablation()]
    for number, folder in enumerate(write(own, tmp_path / "synthetic"), 1):
        target = tmp_path / "results" / str(number)
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(folder)
    assert main(shlex.split(line)[1:]) == 0
    assert len(read_baseline(Path("my-cases.nvidia-h200.json")).results) == len(own) / 3


@each_of(commands("added"))
def test_a_card_is_added_in_the_name_of_whom_git_knows(line, tmp_path, monkeypatch, capsys):
    lookup = "fluxfast.bench.baselines.lookup.shipped_baselines"
    monkeypatch.setattr(lookup, lambda: tmp_path)
    for name, value in dict(COUNT="1", KEY_0="user.name", VALUE_0="Ada").items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    monkeypatch.chdir(tmp_path)
    known = processes(canaries=CANARIES, clock_mhz=1500)
    empty = replace(find_baseline("h200", REPOSITORY / "baselines"), results={})
    write_baseline(replace(empty, path=tmp_path / empty.path.name).accept(known))
    of_another = {**ONE_CARD, "gpu": {"uuid": "GPU-b"}}
    for number, one in enumerate(processes(canaries=CANARIES, clock_mhz=1500, seed=1), 1):
        write_result(tmp_path / "results" / str(number), replace(one, environment=of_another))
    assert main(shlex.split(line)[1:]) == 0
    assert "added 3 processes of GPU-b" in capsys.readouterr().out
    added = read_baseline(tmp_path / empty.path.name).results[known[0].case.id][len(known) :]
    assert [one.provenance["added_by"] for one in added] == ["Ada"] * 3


@each_of(commands("forgotten"))
def test_a_baseline_is_begun_again(line, tmp_path, monkeypatch):
    words, here = shlex.split(line), detect("cpu")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fluxfast.bench.baselines.lookup.local_baselines", lambda: tmp_path)
    baseline = baseline_for("cpu", here)
    if "--cases" in words:
        baseline = own_baseline(Path(words[-1]), "auto", here)
    write_baseline(baseline.accept([result(hardware=here, reference_e2e_s=(1.0,) * 3)]))
    assert main(words[1:]) == 0 and not baseline.path.exists()


@pytest.mark.slow
@each_of(commands("on mini weights"))
def test_a_mini_model_is_generated_and_measured_on_this_cpu(line, tmp_path, monkeypatch):
    """The blocks are traced, and not compiled: other tests do that, and it takes half a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    times = tmp_path / "results" / "kernels" / "schnell-mini-256x256-b1-s4-eager.json"
    times.parent.mkdir(parents=True)
    times.write_text('{"GEMM": 10.0, "attention": 2.0}')  # synthetic: what a run writes there
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)[1:]) == 0
    left = {path.name for path in tmp_path.rglob("*") if path.is_file() and path != times}
    assert left == ({"circle.png"} if "generate" in line else {times.name})


def test_a_command_that_generates_on_a_gpu_is_rehearsed(tmp_path, monkeypatch, capsys):
    """Run them in the order of the pages: one generates the image that another edits."""
    (tmp_path / "my-flux-dev").symlink_to(WEIGHTS / "mini-dev")
    monkeypatch.chdir(tmp_path)
    for line in commands("rehearsed"):
        rehearse_commands("mi300x" if "aiter" in line else "h200", monkeypatch)
        shutil.rmtree(".fluxfast", ignore_errors=True)  # a self-test continues from one in it
        assert main(shlex.split(line)[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
        output = capsys.readouterr()
        assert "AMD" in output.err if "aiter" in line else "MI300X" not in output.err
    assert Path("output.png").exists() and Path("cat.png").exists()


def own_cases(folder):
    """Write the file of cases that the guide shows, and its checkpoint."""
    (cases,) = YAML.findall((REPOSITORY / "docs/guides/gate-your-own-model.md").read_text())
    (folder / OWN_CASES).write_text(cases)
    (folder / "my-flux-dev").symlink_to(WEIGHTS / "mini-dev")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a folder with `perf_tests` and `baselines` in which runs may write."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(REPOSITORY / "baselines", folder / "baselines")
    new_gpu(folder / "baselines")
    own_cases(folder)
    (folder / "conftest.py").write_text((REPOSITORY / "conftest.py").read_text())
    (folder / "perf_tests").mkdir()
    for name in ("conftest.py", "test_latency.py"):
        shutil.copyfile(REPOSITORY / "perf_tests" / name, folder / "perf_tests" / name)
    return folder


@each_of(commands("rehearsed by pytest"))
def test_a_measurement_is_rehearsed(line, project, monkeypatch):
    """The run passes, or reports for each case that the baseline does not contain it."""
    monkeypatch.chdir(project)
    for left in ("results", "r"):
        shutil.rmtree(left, ignore_errors=True)
    words = shlex.split(line)[1:]
    status, rehearsal = run_pytest(words, monkeypatch)
    assert rehearsal.selected and all("NEW: " in text for text in rehearsal.failures), line
    assert status == (1 if rehearsal.failures else 0)
    if "--results" in words:
        folder = Path(words[words.index("--results") + 1])
        cases = {path.name for path in folder.rglob("*-b1-s*.json") if path.parent != "verdicts"}
        assert 2 * len(cases) == rehearsal.selected  # measured, then judged or skipped
    assert not ("--record" in words and rehearsal.failures)


@each_of([line for line in commands("collected") if "sdpa_flash" not in line])
def test_a_command_that_takes_minutes_is_collected(line, tmp_path, monkeypatch):
    """The lines of `sdpa_flash` are collected by test_snippets.py, which adds it."""
    own_cases(tmp_path)
    words = [str(tmp_path / w) if w == OWN_CASES else w for w in shlex.split(line)]
    assert collected(words[1:], monkeypatch)


@pytest.mark.slow
@pytest.mark.subprocess
@each_of(commands("collected with a fault"))
def test_a_command_with_a_fault_is_collected_in_a_process_of_its_own(line):
    """The fault changes the package; tests/e2e/test_plugin.py runs such a command completely."""
    module, *words = shlex.split(line.removeprefix("python -m "))
    quiet = ["--collect-only", "-q", "-p", "no:cacheprovider"]
    output = run_module(module, [*words, *quiet], REPOSITORY).outlines
    assert any(re.match(r"[1-9]\d*(/\d+)? tests? collected", one) for one in output), output


NOTING = '#!/bin/sh\necho "$(basename "$0") $*" >> "$CALLS"\n'
MAKES_AN_ENVIRONMENT = (
    'case "$2" in venv) for folder; do :; done; mkdir -p "$folder/bin"; '
    "for name in python pip pytest ruff mypy zizmor lint-imports; "
    'do cp "$0" "$folder/bin/$name"; done;; esac\n'
)
# The last program that each target of make calls.
LAST_CALL = {
    "perf": "pytest perf_tests --gpu cpu --matrix smoke",
    "quick": r"pytest .*tests/unit -m .*not \(slow",
    "check": "(lint-imports|mypy) ",
    "test": "pytest .*correctness_tests tests ",
    "site": "python -m mkdocs build --strict",
    "nightly": "pytest perf_tests --gpu h200 --matrix ablation --shard 1/2 --record --results "
    "results/5 --junitxml results/5/junit.xml",
    "upgrade": "pytest perf_tests --gpu h200 --matrix tiers --against-env python3 --results ",
    "base-environment": r"pip install .*/base/constraints-h200.txt -e ./.fluxfast/base\[cuda,fa3\]",
}


@pytest.mark.subprocess
@each_of(commands("make"))
def test_make_calls_what_the_pages_promise(line, tmp_path, monkeypatch):
    """make and the Makefile are the real ones; stand-ins write down what is called."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(REPOSITORY / name, tmp_path / name)
    programs, calls = tmp_path / "programs", tmp_path / "calls"
    programs.mkdir()
    for name in ("python3", "pytest"):
        (programs / name).write_text(NOTING + MAKES_AN_ENVIRONMENT)
    (programs / "npm").write_text("#!/bin/sh\nexit 1\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(calls))
    for words in (
        "init --quiet",
        "add .",
        "commit --quiet -m x",
        "update-ref refs/remotes/origin/main HEAD",
    ):
        run(["git", "-c", "user.name=x", "-c", "user.email=x", *words.split()], folder=tmp_path)
    run(shlex.split(line), folder=tmp_path)
    last = calls.read_text().splitlines()[-1]
    assert re.match(LAST_CALL[line.split()[1]], last), last


@pytest.mark.slow
@each_of(commands("refused without a GPU"))
def test_a_benchmark_of_a_gpu_reports_that_there_is_none(line, tmp_path, monkeypatch, capsys):
    module, *arguments = shlex.split(line)[2:]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises((SystemExit, FluxFastError)) as stopped:
        runpy.run_module(module, run_name="__main__")
    assert NO_GPU in f"{stopped.value}{capsys.readouterr().err}"
    assert getattr(stopped.value, "code", 1) not in (0, None)


@each_of(commands("parsed by torchrun"))
def test_a_launcher_takes_its_options(line):
    from torch.distributed.run import parse_args

    options = parse_args(shlex.split(line)[1:])
    assert options.nproc_per_node == "2" and options.training_script == "script.py"


@each_of(commands("read"))
def test_what_is_installed_or_selected_exists(line):
    if line.startswith("pytest "):
        assert all((REPOSITORY / folder).is_dir() for folder in shlex.split(line)[1:])
        return
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"\.\[(.*?)\]", line)
    assert set(extras.split(",")) <= set(declared["optional-dependencies"])
    files = [word for word in shlex.split(line) if word.startswith("constraints")]
    assert all((REPOSITORY / name).exists() for name in files)
