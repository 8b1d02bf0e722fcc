"""The documentation: it builds without a warning, and each of its commands is run.

As it stands, on made results where it reads some, what needs neither a GPU nor minutes. What needs
a GPU runs on one that is described, where all is real but the pipeline and the clock
(`rehearsed.py`): whether the figures come out there is for a GPU to say. Of what takes a CPU
minutes all is run but the drawing: cases are planned and collected (the fault that the tutorial
puts in is put in whole by test_plugin.py), `make` calls stand-ins; cpu.yml calls it whole. Only
`pip install` is read and not run.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import pytest

from fluxfast.bench.cases.matrix import matrix
from fluxfast.cli.main import main, parser
from fluxfast.mini import WEIGHTS
from fluxfast.models.spec import MODELS
from tests.support.machines import H200
from tests.support.rehearsal import rehearse_commands, run_pytest
from tests.support.synthetic_results import ablation, write
from tests.unit.test_registry import situation

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
NEW_GPU = re.compile(r"^```json\n(.*?)^```", re.MULTILINE | re.DOTALL)
LOOP = re.compile(r"^for (\w+) in (\w+)[\w ]*; do (.*); done$")
TINY = "dev-mini-32x32-b1-s1-eager"  # stands for CASE

# How a command is run, by how it begins; the first that fits.
WAYS = {
    "accepted": ("fluxfast baseline accept", "fluxfast matrix --gpu b200"),
    "as it stands": (
        "fluxfast doctor",
        "fluxfast matrix",
        "fluxfast baseline show",
        "fluxfast report ",
        "fluxfast history ",
        "fluxfast merge ",
        "fluxfast profile",
        "python -m tests.support.synthetic_history ",
        "git diff --stat baselines/",
        "source .venv/bin/activate",
    ),
    "drawn": ("fluxfast generate --ckpt mini-schnell", "fluxfast roofline schnell-mini"),
    "rehearsed": (
        "fluxfast generate",
        "fluxfast bench",
        "fluxfast roofline --time",
        "fluxfast selftest --gpu h200",
    ),
    "rehearsed by pytest": ("pytest perf_tests",),
    "collected": (
        "pytest correctness_tests --gpu cpu",
        "python -m pytest -p tests.support.sabotage.",
    ),
    "made": ("make ",),
    "refused without a GPU": tuple(
        f"python -m benchmarks.{name}" for name in ("epilogues", "fusions", "start", "vae")
    ),
    "read": ("pip install ",),
}


def commands():
    """By line the page, of the console blocks; a loop is its first round."""
    found = {}
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            for line in block.splitlines():
                line = line.partition("  #")[0].strip()
                if loop := LOOP.match(line):
                    line = loop[3].replace(f"${loop[1]}", loop[2])
                if line:
                    found[line] = page.name
    return found


COMMANDS = commands()


def way_of(line):
    return next((way for way, begins in WAYS.items() if line.startswith(begins)), None)


def lines_of(way):
    return [line for line in COMMANDS if way_of(line) == way]


each_of = partial(pytest.mark.parametrize, "line", ids=lambda line: f"{COMMANDS[line]}: {line:.60}")


def test_there_is_a_way_to_run_every_command():
    assert [line for line in COMMANDS if way_of(line) is None] == []
    assert all(map(lines_of, WAYS)) and len(COMMANDS) > 50


def run(words, package=REPOSITORY, folder=None, status=0):
    environment = os.environ | {"PYTHONPATH": str(package)}
    done = subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == status, f"{words}\n{done.stdout}\n{done.stderr}"
    return done


def test_what_needs_no_gpu_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    """In the order of the pages, in a folder with made results of three processes."""
    folders = write(ablation(), tmp_path / "made")
    results = tmp_path / "results"
    for number, folder in enumerate(folders, 1):
        for name in (str(number), f"A{number}", f"B{number}"):
            shutil.copytree(folder, results / name)
        (tmp_path / "shards").mkdir(exist_ok=True)
        (tmp_path / "shards" / str(number)).symlink_to(folder)
    shutil.copytree(folders[0], results, dirs_exist_ok=True)
    (tmp_path / "baselines").symlink_to(REPOSITORY / "baselines")
    run([sys.executable, "-m", "venv", "--without-pip", ".venv"], folder=tmp_path)
    monkeypatch.chdir(tmp_path)
    # The page itself has tests of its own: what it draws with takes seconds to put together.
    monkeypatch.setattr("fluxfast.cli.report.page", lambda report: "<!doctype html>")
    for line in lines_of("as it stands"):
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


def test_what_is_accepted_is_in_a_copy_of_the_project(tmp_path):
    """With the new GPU of the pages in it, and made results of an H200."""
    for name in ("fluxfast", "baselines"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    new_gpu(tmp_path / "baselines")
    folders = write(ablation(processes=5), tmp_path / "made")
    assert main(["merge", *map(str, folders), "--output", str(tmp_path / "merged")]) == 0
    for name in ("results", "r"):
        (tmp_path / name).mkdir()
        for number in range(5):
            (tmp_path / name / str(number + 1)).symlink_to(folders[number % len(folders)])
    baseline = tmp_path / "baselines" / "nvidia-h200.json"
    measured = ablation()[0].case
    for line in lines_of("accepted"):
        words = [measured.id if word == "ID" else word for word in shlex.split(line)[1:]]
        told = run([sys.executable, "-m", "fluxfast.cli.main", *words], tmp_path, tmp_path).stdout
        known = [case["case"] for case in json.loads(baseline.read_text())["cases"]]
        if line.startswith("fluxfast matrix"):
            assert "cases on NVIDIA B200 (sm_100)" in told
        else:
            assert measured.to_json() in known, line
        shutil.copyfile(REPOSITORY / "baselines" / baseline.name, baseline)


def new_gpu(baselines):
    """The file that the pages say to write, which both have alike."""
    pages = (REPOSITORY / "README.md", REPOSITORY / "docs" / "add-a-gpu.md")
    (text,) = {file for page in pages for file in NEW_GPU.findall(page.read_text())}
    (baselines / "nvidia-b200.json").write_text(text)


@each_of(lines_of("drawn"))
def test_a_mini_model_is_drawn_and_measured_on_this_cpu(line, tmp_path):
    times = tmp_path / "results" / "kernels" / "schnell-mini-256x256-b1-s4-eager.json"
    times.parent.mkdir(parents=True)
    times.write_text('{"GEMM": 10.0, "attention": 2.0}')  # made: what a run leaves there
    run([sys.executable, "-m", "fluxfast.cli.main", *shlex.split(line)[1:]], folder=tmp_path)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file() and path != times}
    assert left == ({"circle.png"} if "generate" in line else {times.name})


def test_what_draws_on_a_gpu_is_rehearsed(tmp_path, monkeypatch, capsys):
    """In the order of the pages: one draws the picture that another edits."""
    (tmp_path / "my-flux-dev").symlink_to(WEIGHTS / "mini-dev")
    monkeypatch.chdir(tmp_path)
    for line in lines_of("rehearsed"):
        rehearse_commands("mi300x" if "aiter" in line else "h200", monkeypatch)
        shutil.rmtree(".fluxfast", ignore_errors=True)  # a self-test goes on from one of its second
        assert main(shlex.split(line)[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
        told = capsys.readouterr()
        assert "AMD" in told.err if "aiter" in line else "MI300X" not in told.err
    assert Path("output.png").exists() and Path("cat.png").exists()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """`perf_tests` and `baselines` in a folder of their own, which the runs may write in."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(REPOSITORY / "baselines", folder / "baselines")
    new_gpu(folder / "baselines")
    (folder / "conftest.py").write_text((REPOSITORY / "conftest.py").read_text())
    (folder / "perf_tests").mkdir()
    for name in ("conftest.py", "test_latency.py"):
        shutil.copyfile(REPOSITORY / "perf_tests" / name, folder / "perf_tests" / name)
    return folder


@each_of(lines_of("rehearsed by pytest"))
def test_what_measures_is_rehearsed(line, project, monkeypatch):
    """It ends well, or says of each case that the baseline has none of it."""
    monkeypatch.chdir(project)
    for left in ("results", "r"):
        shutil.rmtree(left, ignore_errors=True)
    words = shlex.split(line)[1:]
    status, rehearsal = run_pytest(words, monkeypatch)
    assert rehearsal.selected and all("NEW: " in told for told in rehearsal.failures), line
    assert status == (1 if rehearsal.failures else 0)
    if "--results" in words:
        folder = Path(words[words.index("--results") + 1])
        cases = {path.name for path in folder.rglob("*-b1-s*.json") if path.parent != "verdicts"}
        assert 2 * len(cases) == rehearsal.selected  # it is measured, then judged or skipped
    assert not ("--record" in words and rehearsal.failures)


@each_of(lines_of("collected"))
def test_what_takes_a_cpu_minutes_is_planned_and_collected(line):
    words = shlex.split(line)
    words = words[words.index("pytest") + 1 :]
    told = run([sys.executable, "-m", "pytest", *words, "--collect-only", "-q",
                "-p", "no:cacheprovider"], folder=REPOSITORY).stdout  # fmt: skip
    assert re.search(r"^[1-9]\d*(/\d+)? tests? collected", told, re.MULTILINE), told


NOTING = '#!/bin/sh\necho "$(basename "$0") $*" >> "$CALLS"\n'
MAKES_AN_ENVIRONMENT = (
    'case "$2" in venv) mkdir -p .venv/bin; '
    'for name in pip pytest ruff mypy zizmor; do cp "$0" .venv/bin/$name; done;; esac\n'
)


@each_of(lines_of("made"))
def test_make_calls_what_the_pages_say(line, tmp_path, monkeypatch):
    """The real make and Makefile; what it calls is written down."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(REPOSITORY / name, tmp_path / name)
    programs, calls = tmp_path / "programs", tmp_path / "calls"
    programs.mkdir()
    for name in ("python3", "pytest"):
        (programs / name).write_text(NOTING + MAKES_AN_ENVIRONMENT)
        (programs / name).chmod(0o755)
    (programs / "npm").write_text("#!/bin/sh\nexit 1\n")
    (programs / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(calls))
    run(shlex.split(line), folder=tmp_path)
    expected = {
        "perf": "pytest perf_tests --gpu cpu --matrix smoke",
        "test": "pytest tests correctness_tests",
        "nightly": "pytest perf_tests --gpu h200 --matrix ablation --shard 1/2 --record --results "
        "results/4 --junitxml results/4/junit.xml",
    }
    assert calls.read_text().splitlines()[-1] == expected[line.split()[1]]


@each_of(lines_of("refused without a GPU"))
def test_a_benchmark_of_a_gpu_says_that_there_is_none(line, tmp_path):
    words = [sys.executable, *shlex.split(line)[1:]]
    told = run(words, folder=tmp_path, status=1).stderr
    assert "there is no GPU that PyTorch can use here" in told


@each_of(lines_of("read"))
def test_what_is_to_be_installed_is_there(line):
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"\.\[(.*?)\]", line)
    assert set(extras.split(",")) <= set(declared["optional-dependencies"])
    files = [word for word in shlex.split(line) if word.startswith("constraints")]
    assert all((REPOSITORY / name).exists() for name in files)


def test_every_option_is_described():
    text = (REPOSITORY / "docs" / "options.md").read_text()
    plugin = (REPOSITORY / "fluxfast" / "pytest_plugin.py").read_text()
    options = set(re.findall(r'addoption\(\s*"(--[a-z-]+)"', plugin)) | options_of(parser())
    assert len(options) > 50
    assert not {option for option in options if not re.search(rf"{option}(?![\w-])", text)}


def options_of(one):
    """Of a parser and the commands in it; not those that are hidden."""
    shown = [action for action in one._actions if action.help != argparse.SUPPRESS]
    nested = [a for a in shown if isinstance(a, argparse._SubParsersAction)]
    found = {option for action in shown for option in action.option_strings}
    found |= {
        o for action in nested for inner in action.choices.values() for o in options_of(inner)
    }
    return {option for option in found if option.startswith("--")} - {"--help"}


def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=REPOSITORY, capture_output=True, text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    errors = (tmp_path / "errors" / "index.html").read_text()
    assert errors.count("<tr>") > 40 and "there is no GPU that PyTorch can use here" in errors
    for page in tmp_path.rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)', page.read_text()
        )
        assert not fetched, (page, fetched)


# The columns of the tables of tiers, by the names of `fluxfast baseline show --json`.
TIERS_OF = {
    "README.md": ("## What it gets", "e2e_s step_ms speedup compile_s peak_memory_gib processes"),
    "docs/h200.md": (
        "## Tiers, as they are now",
        "e2e_s step_ms decode_ms compile_s peak_memory_gib speedup processes",
    ),
}
TIER = re.compile(r"\| (schnell|dev|Kontext),(?: \d+,)? (unoptimized|all on)([^|]*) \|(.*)\|")


@pytest.mark.parametrize("page", TIERS_OF)
def test_the_tiers_that_a_page_tells_are_those_of_the_baseline(page, capsys):
    assert main(["baseline", "show", "--gpu", "h200", "--json"]) == 0
    shown = {
        (of["model"], tuple(of["optimizations"])): of for of in json.loads(capsys.readouterr().out)
    }
    title, columns = TIERS_OF[page]
    section = (REPOSITORY / page).read_text().partition(title)[2].partition("\n## ")[0]
    rows = TIER.findall(section)
    assert len(rows) >= 8
    for model, tier, more, cells in rows:
        of_model = matrix("tiers", situation(H200, MODELS[model.lower()]))
        number = (
            0 if tier == "unoptimized" else 1 if "lossless" in more else 3 if "+" in more else 2
        )
        figures = shown[model.lower(), of_model[number]]
        for name, cell in zip(columns.split(), cells.split("|"), strict=True):
            told = cell.strip(" *")
            if found := re.match(r"\d+(\.\d+)?", told):
                digits = len(found[1] or ".") - 1
                assert found[0] == f"{figures[name]:.{digits}f}", f"{model} {tier}{more}: {name}"
            else:
                assert told == "" or figures[name] is None, f"{model} {tier}{more}: {name}"
