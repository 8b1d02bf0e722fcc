"""The documentation: it builds without a warning, and its commands are commands.

What needs no GPU and no published checkpoint is run for real, on made results where it reads some;
`pytest perf_tests` and `correctness_tests` on a CPU have tests of their own. The others are read by
the parsers that would read them, and run no further.
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
from importlib.util import find_spec
from pathlib import Path

import pytest

from fluxfast.bench.matrix import MATRICES
from fluxfast.cli import main, parser
from tests.made_results import ablation, write

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
LOOP = re.compile(r"^for \w+ in [\w ]+; do (.*); done$")
FETCHED = re.compile(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)')
PASSED_ON = ("git", "source", "hf")  # other people's

REAL = (
    "fluxfast doctor",
    "fluxfast matrix --gpu h200",
    "fluxfast matrix --gpu mi300x",
    "fluxfast baseline show --gpu h200",
    "fluxfast report ",
    "fluxfast history ",
    "fluxfast merge ",
    "python -m tests.made_history ",
    "git diff --stat baselines/",
)
DRAWING = ("fluxfast generate --ckpt mini-schnell", "fluxfast roofline schnell-mini")


def commands():
    found = {}
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            for line in block.splitlines():
                line = line.partition("  #")[0].strip()
                if line:
                    found[LOOP.sub(r"\1", line)] = page.name
    return found


COMMANDS = commands()


@pytest.fixture(scope="module")
def whole_parser():
    return parser()


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: f"{COMMANDS[line]}: {line[:60]}")
def test_a_command_is_read_by_what_would_run_it(line, whole_parser):
    words = shlex.split(line)
    if words[:3] == ["python", "-m", "pytest"]:
        words = words[2:]
    program, *arguments = words
    if program == "fluxfast":
        whole_parser.parse_args(arguments)
    elif program == "pytest":
        parse_as_pytest(arguments)
    elif program == "make":
        targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert {a for a in arguments if "=" not in a} <= set(targets)
    elif program == "pip":
        extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
        asked = re.findall(r"\.\[(.*?)\]", line)
        assert {e for a in asked for e in a.split(",")} <= set(extras["optional-dependencies"])
        assert all((REPOSITORY / a).exists() for a in arguments if a.startswith("constraints"))
    elif words[:2] == ["python", "-m"]:
        assert find_spec(words[2]) is not None
    else:
        assert program in PASSED_ON, line


def parse_as_pytest(arguments):
    """As pytest reads it, with the plugin's options; nothing is collected or run."""
    from _pytest.config import _prepareconfig

    with_plugin = [a for a in arguments if not a.startswith("tests.sabotage") and a != "-p"]
    config = _prepareconfig([*with_plugin, f"--rootdir={REPOSITORY}"])
    try:
        assert config.getoption("--matrix") in (None, *MATRICES)
        assert (REPOSITORY / with_plugin[0]).is_dir()
    finally:
        config._ensure_unconfigure()


def test_the_cheap_commands_run(tmp_path, monkeypatch, capsys):
    """In the order of the pages, in a folder with made results of three processes."""
    folders = write(ablation(), tmp_path / "made")
    results = tmp_path / "results"
    for number, folder in enumerate(folders, 1):
        for name in (str(number), f"A{number}", f"B{number}"):
            (results / name).mkdir(parents=True)
            for path in folder.glob("*.json"):
                (results / name / path.name).write_text(path.read_text())
    for path in folders[0].glob("*.json"):
        (results / path.name).write_text(path.read_text())
    for number in (1, 2):
        (tmp_path / "shards").mkdir(exist_ok=True)
        (tmp_path / "shards" / str(number)).symlink_to(folders[number - 1])
    (tmp_path / "baselines").symlink_to(REPOSITORY / "baselines")
    monkeypatch.chdir(tmp_path)
    # The page itself has tests of its own: what it draws with takes seconds to put together.
    monkeypatch.setattr("fluxfast.commands.report.page", lambda report: "<!doctype html>")
    ran = 0
    for line in COMMANDS:
        if not line.startswith(REAL):
            continue
        if "merged" in line and Path("merged").exists():
            continue
        words = [str(p) for word in shlex.split(line) for p in sorted(Path().glob(word)) or [word]]
        if words[0] == "python":
            run([sys.executable, *words[1:]], REPOSITORY)
        elif words[0] == "git":
            subprocess.run(words, cwd=REPOSITORY, check=True, capture_output=True)
        else:
            assert main(words[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
        ran += 1
    assert ran >= 17 and Path("page.html").exists() and Path("made.sqlite3").exists()


def run(words, package, folder=None):
    environment = os.environ | {"PYTHONPATH": str(package)}
    done = subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stderr}"


def test_the_commands_that_accept_run_on_a_copy_of_the_project(tmp_path):
    for name in ("fluxfast", "baselines"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    folders = write(ablation(), tmp_path / "made")
    assert main(["merge", *map(str, folders), "--output", str(tmp_path / "merged")]) == 0
    for name in ("results", "r"):
        (tmp_path / name).mkdir()
        for number in range(5):
            (tmp_path / name / str(number + 1)).symlink_to(folders[number % len(folders)])
    accepting = [line for line in COMMANDS if line.startswith("fluxfast baseline accept")]
    for line in accepting:
        measured = ablation()[0].case.id
        words = [measured if word == "ID" else word for word in shlex.split(line)[1:]]
        run([sys.executable, "-m", "fluxfast.cli", *words], tmp_path, tmp_path)
        known = json.loads((tmp_path / "baselines" / "nvidia-h200.json").read_text())["cases"]
        assert ablation()[0].case.to_json() in [case["case"] for case in known], line
        shutil.copyfile(REPOSITORY / "baselines" / "nvidia-h200.json",
                        tmp_path / "baselines" / "nvidia-h200.json")  # fmt: skip
    assert len(accepting) >= 4


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith(DRAWING)])
def test_a_command_that_draws_or_times_runs_on_a_cpu(line, tmp_path):
    times = tmp_path / "results" / "kernels" / "schnell-mini-256x256-b1-s4-eager.json"
    times.parent.mkdir(parents=True)
    times.write_text('{"GEMM": 10.0, "attention": 2.0}')  # made: what a run leaves there
    run([sys.executable, "-m", "fluxfast.cli", *shlex.split(line)[1:]], REPOSITORY, tmp_path)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file() and path != times}
    assert left == ({"circle.png"} if "generate" in line else {times.name})


def test_every_option_is_described(whole_parser):
    text = (REPOSITORY / "docs" / "options.md").read_text()
    (commands,) = (a for a in whole_parser._actions if isinstance(a, argparse._SubParsersAction))
    missing = {
        option
        for name in (
            "report",
            "history",
            "merge",
            "matrix",
            "doctor",
            "generate",
            "bench",
            "roofline",
        )
        for action in commands.choices[name]._actions
        for option in action.option_strings
        if option.startswith("--") and option != "--help" and option not in text
    }
    assert not missing


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
