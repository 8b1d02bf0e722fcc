"""The files of the guide to several GPUs, without Slurm, Kubernetes and GitHub."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fluxfast.bench.results.shards import note_shard
from fluxfast.bench.results.store import read_results
from fluxfast.cli.main import main
from fluxfast.pytest_plugin.sharding import resolved_shard
from tests.support.collecting import collected
from tests.support.pages import REPOSITORY, YAML, commands
from tests.support.synthetic_results import ablation, write

pytestmark = pytest.mark.subprocess
GUIDE = (REPOSITORY / "docs" / "guides" / "several-gpus.md").read_text()
SBATCH, MERGE = re.findall(r"^```bash\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
JOB, WORKFLOW = YAML.findall(GUIDE)
NOTE = '#!/bin/bash\nprintf "%s\\n" "$@" > "$CALLED"\n'
SUBMIT = '#!/bin/bash\nprintf "%s\\n" "$@" >> "$CALLED"\necho 42\n'


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Run a script with stand-ins for pytest and sbatch; return the words of their calls."""
    programs, called = tmp_path / "programs", tmp_path / "called"
    programs.mkdir()
    for name, text in (("pytest", NOTE), ("sbatch", SUBMIT)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    path = f"{programs}:{os.environ['PATH']}"

    def run(script, **environ):
        called.unlink(missing_ok=True)
        known = os.environ | {"PATH": path, "CALLED": str(called)} | environ
        subprocess.run(["bash", "-c", script], env=known, cwd=tmp_path, check=True)
        return called.read_text().splitlines()

    return run


def check_parts(calls, monkeypatch):
    """Check that the calls measure each part once, into a folder each, with options that exist."""
    assert sorted(resolved_shard("auto", environ) for _, environ in calls) == [
        f"{number}/4" for number in range(1, 5)
    ]
    folders = [words[words.index("--results") + 1] for words, _ in calls]
    assert len(set(folders)) == 4
    for words, environ in calls[-1:]:
        assert words[words.index("--shard") + 1] == "auto"
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        assert collected(words, monkeypatch)


def test_a_slurm_array_measures_every_part_and_merges(execute, tmp_path, monkeypatch, capsys):
    (first, last) = map(int, re.findall(r"^#SBATCH --array=(\d+)-(\d+)$", SBATCH, re.M)[0])
    count = last - first + 1
    array = {"MIN": first, "MAX": last, "STEP": 1, "COUNT": count}
    calls = []
    for task in range(first, last + 1):
        values = {f"SLURM_ARRAY_TASK_{k}": str(v) for k, v in (array | {"ID": task}).items()}
        environ = values | {"SLURM_ARRAY_JOB_ID": "42", "SLURM_SUBMIT_DIR": str(tmp_path)}
        calls.append((execute(SBATCH, **environ), values))
    check_parts(calls, monkeypatch)

    monkeypatch.chdir(tmp_path)
    submitted = execute(MERGE)
    assert submitted[:3] == ["--parsable", "fleet.sbatch", "--dependency=afterany:42"]
    for number, folder in enumerate(write(ablation(processes=3), Path("shards/42")), 1):
        note_shard(folder, f"{number}/4")  # the fourth part is missing
    program, *words = shlex.split(submitted[3].removeprefix("--wrap="))
    assert program == "fluxfast"
    arguments = [str(p) for word in words for p in sorted(Path().glob(word)) or [word]]
    assert main(arguments) == 0 and "missing shards: 4/4" in capsys.readouterr().out
    assert len(read_results([Path("merged/42")])) == 54


def test_an_indexed_job_of_kubernetes_measures_every_part(execute, monkeypatch):
    spec = yaml.safe_load(JOB)["spec"]
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"] == 4
    (container,) = spec["template"]["spec"]["containers"]
    environ = {one["name"]: one["value"] for one in container["env"]}
    volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    bash, option, script = container["command"]
    assert (bash, option) == ("bash", "-c")
    pods = [environ | {"JOB_COMPLETION_INDEX": str(index)} for index in range(spec["completions"])]
    check_parts([(execute(script, **pod), pod) for pod in pods], monkeypatch)


def test_a_matrix_of_github_measures_every_part_and_merges(execute, monkeypatch, tmp_path):
    jobs = yaml.safe_load(WORKFLOW)["jobs"]
    measure, parts = jobs["measure"], jobs["measure"]["strategy"]["matrix"]["part"]
    lines = [step["run"] for step in measure["steps"] if "run" in step]
    *prepared, measuring = lines
    assert prepared == ["make runner", *(w for w in commands("read") if "[workers]" in w)]
    calls = []
    for index, part in enumerate(parts):
        context = {"strategy.job-index": str(index), "strategy.job-total": str(len(parts))}
        environ = {
            name: re.sub(r"\$\{\{ (.*?) \}\}", lambda found: context[found[1]], value)  # noqa: B023
            for name, value in measure["env"].items()
        }
        words = execute(measuring, **environ)
        folder = words.index("--results") + 1
        assert words[folder] == measure["steps"][-1]["with"]["path"]
        words[folder] += f"/shard-{part}"  # its own machine, and then its own artifact
        calls.append((words, environ))
    check_parts(calls, monkeypatch)
    assert jobs["merge"]["steps"][-2]["run"] == "fluxfast merge shards/* --output merged"
    workflow = tmp_path / ".github" / "workflows" / "fleet.yml"
    workflow.parent.mkdir(parents=True)
    workflow.write_text(WORKFLOW)
    zizmor = Path(sys.executable).with_name("zizmor")
    done = subprocess.run(
        [zizmor, "--offline", "--quiet", workflow], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("line", commands("collected before workers start"))
def test_a_command_with_workers_selects_cases(line, monkeypatch):
    assert collected(shlex.split(line)[1:], monkeypatch)
