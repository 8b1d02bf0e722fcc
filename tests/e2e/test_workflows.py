"""The workflows: pinned actions, minimal permissions, and every `run:` line executed as written.

`fluxfast`, `python3 -m fluxfast.ci` and `git` are real. GitHub, GPUs and registries are simulated:
`gh`, `pytest`, `pip` and `make` are programs that print how they were called; `pytest` checks its
options and writes synthetic results, `gh` answers from a file. Python finds no package in jobs with
a token that can write.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.ci import nights, pulls
from fluxfast.ci.labels import GATING_LABEL, accepting_reason
from fluxfast.ci.nights import accepted, first_measured
from fluxfast.ci.proposals import BASELINE_BRANCH, propose, worth_proposing
from fluxfast.ci.pulls import COMMENT_MARK, gate_of, is_wanted, rerun_of
from fluxfast.ci.slowdowns import issue_actions
from fluxfast.ci.upgrades import BASE_PYTHON, Upgrade, action_on, requirements, upgrade_of
from fluxfast.errors import BaselineError
from fluxfast.history.database import acceptances, opened

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / ".github" / "workflows"
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in FOLDER.glob("*.yml")}
STEPS = [
    (name, job, step)
    for name, workflow in WORKFLOWS.items()
    for job, body in workflow["jobs"].items()
    for step in body["steps"]
]
LINES = {(name, job, step["run"]) for name, job, step in STEPS if "run" in step}

FAKE_PYTEST = """
import pathlib, re, sys
from tests.support.synthetic_results import ablation
from tests.support.synthetic_sides import two_environments
from fluxfast.bench.results.sides import write_sides
from fluxfast.bench.results.store import write_result
texts = [path.read_text() for path in pathlib.Path({plugin!r}).glob("*.py")]
known = re.findall(r'"(--[a-z-]+)"', "".join(texts))
known += ["--junitxml", "--against"]
options = [word.partition("=")[0] for word in sys.argv[1:] if word.startswith("--")]
assert sys.argv[1] == "perf_tests" and set(options) <= set(known), options
results = pathlib.Path(sys.argv[sys.argv.index("--results") + 1])
slower = {slower!r}
upgraded = "--against-env" in sys.argv and "--against" not in sys.argv
if {{"--against", "--against-env"}} & set(sys.argv):
    for side, found in (("A", ablation(seed=1)), ("B", ablation(slower, seed=2))):
        for one in found:
            if side == "B" and upgraded:
                one.environment["hardware"]["packages"]["torch"] = "2.99.0"
            write_result(results / f"{{side}}{{one.provenance['process'] + 1}}", one)
    if upgraded:
        write_sides(results, two_environments("1", "2.99.0"))
else:
    process = int(results.name)
    part, count = map(int, sys.argv[sys.argv.index("--shard") + 1].split("/"))
    # There are three synthetic processes; the fourth repeats the first, which a merge drops.
    found = [r for r in ablation(slower, seed=2) if r.provenance["process"] == (process - 1) % 3]
    for one in found:
        if hash(one.case.model) % count == part - 1 or count == 1:
            write_result(results, one)
junit = pathlib.Path(sys.argv[sys.argv.index("--junitxml") + 1])
junit.parent.mkdir(parents=True, exist_ok=True)
failed = 10 if slower else 0
junit.write_text(f'<testsuites><testsuite failures="{{failed}}" errors="0"/></testsuites>')
sys.exit(1 if slower else 0)
"""

FAKE_GH = """
import json, pathlib, sys
state_file = pathlib.Path({state!r})
state, words = json.loads(state_file.read_text()), sys.argv[1:]
def after(name): return words[words.index(name) + 1]
def body(): return pathlib.Path(after("-F").removeprefix("body=@")).read_text()
state["calls"].append(words)
if words[:2] == ["run", "list"]:
    print(json.dumps([{{"databaseId": 5}}] if state["jobs"] else []))
elif words[:2] == ["run", "view"]:
    print(json.dumps({{"jobs": state["jobs"]}}))
elif words[:2] == ["pr", "view"]:
    print(json.dumps(state["pull"]))
elif words[:2] == ["pr", "list"]:
    print(json.dumps(state["merged"] if "merged" in words else state["pulls"]))
elif words[:2] == ["pr", "create"]:
    text = pathlib.Path(after("--body-file")).read_text()
    state["pulls"].append({{"number": 77, "title": after("--title"), "body": text}})
elif words[:2] == ["issue", "list"]:
    print(json.dumps(state["issues"]))
elif words[:2] == ["issue", "create"]:
    number = len(state["issues"]) + 1
    text = after("--body") if "--body" in words else pathlib.Path(after("--body-file")).read_text()
    state["issues"].append({{"number": number, "state": "OPEN", "body": text}})
elif words[:2] == ["issue", "edit"]:
    state["issues"][int(words[2]) - 1]["title"] = after("--title")
elif words[:2] == ["issue", "close"]:
    state["issues"][int(words[2]) - 1]["state"] = "CLOSED"
elif words[0] == "api" and "POST" in words:
    state["comments"].append(body())
elif words[0] == "api" and "PATCH" in words:
    state["comments"][int(words[3].rpartition("/")[2])] = body()
elif words[0] == "api":
    marked = after("--jq").split('"')[1]
    own = [n for n in range(len(state["comments"])) if n not in state["foreign"]]
    if ".viewerDidAuthor and" not in after("--jq"): own = range(len(state["comments"]))
    print(*[n for n in own if state["comments"][n].startswith(marked)])
elif words[:2] not in (["pr", "edit"], ["auth", "setup-git"], ["run", "rerun"]):
    sys.exit(f"gh {{words}} is not known here")
state_file.write_text(json.dumps(state))
"""
# Installs nothing, makes environments without packages, and finds none where the job may write.
FAKE_PYTHON = """
import os, pathlib, shutil, sys
words = sys.argv[1:]
if words[:3] == ["-m", "pip", "install"]:
    print("simulated:", *words)
elif words[:3] == ["-I", "-m", "venv"]:
    pathlib.Path(words[3], "bin").mkdir(parents=True)
    shutil.copy(__file__, pathlib.Path(words[3], "bin", "python"))
else:
    alone = ["-S"] if "WITHOUT_PACKAGES" in os.environ else []
    os.execv({python!r}, [{python!r}, *alone, *words])
"""
# The page has tests of its own, and the nightly's is real; its charts take seconds to compute.
WITHOUT_CHARTS = """
import sys
from fluxfast.cli import main, report
report.page = lambda report: "<!doctype html>"
sys.exit(main.main())
"""
PRINT_ARGUMENTS = "import sys; print('simulated:', *sys.argv[1:])"


# Of the checkout: what git ignores, and the weights, which take most of the time and are not used.
NOT_COPIED = (
    ".git",
    ".venv",
    ".fluxfast",
    ".whl",
    "__pycache__",
    ".*_cache",
    "*.egg-info",
    "weights",
)


class Rehearsal:
    """A clone of the repository, with simulated programs first on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder / "clone", folder / "bin"
        self.state = folder / "github.json"
        self.bin.mkdir()
        subprocess.run(["git", "init", "--quiet", "--bare", str(folder / "origin")], check=True)
        shutil.copytree(
            REPOSITORY, self.folder, symlinks=True,
            ignore=shutil.ignore_patterns(*NOT_COPIED),
        )  # fmt: skip
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "tests")
        self.git("config", "user.email", "tests@example.org")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "main")
        self.git("remote", "add", "origin", str(folder / "origin"))
        self.git("push", "--quiet", "origin", "main")
        self.set_github()
        self.program("gh", FAKE_GH.format(state=str(self.state)))
        self.set_slower({})
        self.program("make", PRINT_ARGUMENTS)
        self.program("fluxfast", "import sys; from fluxfast.cli.main import main; sys.exit(main())")
        self.program("python3", FAKE_PYTHON.format(python=sys.executable))

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(f"#!{sys.executable}\n{text}")
        path.chmod(0o755)

    def set_slower(self, slower: dict) -> None:
        plugin = str(REPOSITORY / "fluxfast" / "pytest_plugin")
        self.program("pytest", FAKE_PYTEST.format(plugin=plugin, slower=slower))

    def set_github(self, **changes) -> None:
        start = {"pull": {"labels": [], "body": ""}, "merged": [], "pulls": [], "issues": [],
                 "comments": [], "foreign": [], "calls": [], "jobs": []}  # fmt: skip
        self.state.write_text(json.dumps(start | changes))

    def github(self) -> dict:
        return json.loads(self.state.read_text())

    def git(self, *words: str) -> None:
        subprocess.run(["git", *words], cwd=self.folder, check=True, stdout=subprocess.DEVNULL)

    def run(self, line: str, **variables: str) -> subprocess.CompletedProcess:
        # `make test WORKERS=4` hands its variables to every make below it.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "WORKERS"))}
        environment = inherited | {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "GITHUB_OUTPUT": str(self.folder / "output.txt"),
            "GITHUB_STEP_SUMMARY": str(self.folder / "step-summary.md"),
            "GITHUB_ENV": str(self.folder.parent / "variables"),
            "GITHUB_PATH": str(self.folder.parent / "path"),
            "RUNNER_TEMP": str(self.folder.parent / "temp"),
            "BASE": "origin/main",
            "PULL": "12",
            "MEASURED": "success",
            "COMMIT": "abc",
            "GPU": "h200",
            "SHARD": "1/1",
            **variables,
        }
        return subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", line],
            cwd=self.folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip

    def job(self, name: str, job: str, **variables: str) -> dict[str, int]:
        """Return the exit status of each line; all but `continue-on-error` have to be 0."""
        statuses, body = {}, WORKFLOWS[name]["jobs"][job]
        if "write" in body.get("permissions", {}).values():
            variables["WITHOUT_PACKAGES"] = "1"
        for step in body["steps"]:
            if "run" in step:
                done = self.run(step["run"], **variables)
                allowed = step.get("continue-on-error") or "fluxfast.ci gate" in step["run"]
                assert done.returncode == 0 or allowed, f"{step['run']}\n{done.stderr}"
                statuses[step["run"]] = done.returncode
        return statuses


@pytest.fixture(scope="module")
def shared_rehearsal(tmp_path_factory):
    """A rehearsal for tests that change nothing but the answers of GitHub and one program."""
    return Rehearsal(tmp_path_factory.mktemp("rehearsal"))


@pytest.fixture
def rehearsal(tmp_path):
    return Rehearsal(tmp_path)


def test_actions_are_pinned_and_permissions_are_minimal():
    for name, workflow in WORKFLOWS.items():
        triggers = workflow[True]  # YAML parses `on` as a boolean
        assert "pull_request_target" not in triggers and "workflow_run" not in triggers
        assert set(workflow["permissions"] or {}) <= {"contents"}
        assert "write" not in (workflow["permissions"] or {}).values()
        jobs = workflow["jobs"].values()
        assert "concurrency" in workflow or all("concurrency" in job for job in jobs)
        for job, body in workflow["jobs"].items():
            rights = body.get("permissions", workflow["permissions"])
            writes = [right for right, level in rights.items() if level == "write"]
            assert not writes or (name, job) in {
                ("perf-gate", "gate"), ("perf-label", "again"), ("nightly", "keep"),
                ("nightly", "issues"), ("nightly", "propose"), ("nightly", "pages"),
                ("upgrade", "announce"),
            }  # fmt: skip
            assert not (writes and "self-hosted" in body["runs-on"])
            assert body["timeout-minutes"]
    for _, _, step in STEPS:
        if "uses" in step:
            assert re.search(r"@[0-9a-f]{40}$", step["uses"])
            if "checkout" in step["uses"]:
                assert step["with"]["persist-credentials"] is False


SAFE_ACTIONS = ("actions/checkout@", "actions/download-artifact@", "actions/deploy-pages@")


def risks(job: dict) -> list[str]:
    """Return what else than the programs of the checkout could use the token of a job."""
    found = [f"{name} in all steps" for name in job.get("env", {}) if "TOKEN" in name]
    if "write" not in job.get("permissions", {"unset": "write"}).values():
        return found
    for step in job["steps"]:
        run, uses = step.get("run", ""), step.get("uses", "")
        if run and not re.fullmatch(r"python3 -m fluxfast\.ci [a-z]+( --[a-z]+ [\w./\"$-]+)+", run):
            found.append(f"runs {run}")
        if uses and not uses.startswith(SAFE_ACTIONS):
            found.append(f"uses {uses}")
        if "download-artifact" in uses:
            folder = step["with"].get("path", ".")
            if (REPOSITORY / folder).exists() or "merge-multiple" in step["with"]:
                found.append(f"writes an artifact into {folder}, from where Python imports")
    return found


def test_no_package_runs_next_to_a_token_that_can_write():
    for name, workflow in WORKFLOWS.items():
        for job, body in workflow["jobs"].items():
            assert not risks({"permissions": workflow["permissions"], **body}), (name, job)
    installing = {"permissions": {"issues": "write"}, "steps": [{"run": "make reporting"}]}
    unset = {"steps": [{"run": "python3 -m fluxfast.ci gate --report x && pip install x"}]}
    token = {"permissions": {}, "env": {"GH_TOKEN": "x"}, "steps": [{"run": "make test"}]}
    action = {"permissions": {"contents": "write"}, "steps": [{"uses": "actions/setup-python@1"}]}
    into_checkout = {"permissions": {"contents": "write"}, "steps": [
        {"uses": "actions/download-artifact@1", "with": {"name": "night"}}]}  # fmt: skip
    for job in (installing, unset, token, action, into_checkout):
        assert len(risks(job)) == 1, job


def test_a_job_on_a_gpu_runner_has_an_environment_of_its_own():
    for name, workflow in WORKFLOWS.items():
        for job, body in workflow["jobs"].items():
            runs = [step["run"] for step in body["steps"] if "run" in step]
            if "self-hosted" in body["runs-on"]:
                assert runs[0] == "make runner" and "defaults" not in body, (name, job)


def test_a_fork_reaches_neither_a_gpu_nor_a_writing_token():
    jobs = WORKFLOWS["perf-gate"]["jobs"] | WORKFLOWS["perf-label"]["jobs"]
    same_repository = "github.event.pull_request.head.repo.full_name == github.repository"
    for job, body in jobs.items():
        assert same_repository in body["if"], job
        if "write" in body["permissions"].values():
            checkout = body["steps"][0]["with"]["ref"]
            assert checkout == "${{ github.event.pull_request.base.sha }}"
    assert "always()" in jobs["gate"]["if"]  # not skipped where `measure` failed or was cancelled
    for name, _, step in STEPS:  # names that others choose are never pasted into a command
        assert "${{" not in step.get("run", ""), (name, step)


def test_every_line_calls_a_known_program():
    programs = ("fluxfast ", "pytest ", "make ", "python3 -m fluxfast.ci ")
    assert len(LINES) >= 20 and all(line.startswith(programs) for _, _, line in LINES)


def test_every_job_with_a_line_is_run_here():
    """`Rehearsal.job` runs all lines of one."""
    rehearsed = re.findall(r'rehearsal\.job\("([\w-]+)", "(\w+)"', Path(__file__).read_text())
    assert {(name, job) for name, job, _ in LINES} == set(rehearsed)


@pytest.mark.parametrize("name", ["../fluxfast/__init__.py", "HISTORY.md", "nvidia-x.json"])
def test_a_proposal_changes_baselines_of_known_gpus_only(name, tmp_path):
    """Another job wrote it, with packages that are not pinned."""
    proposal = tmp_path / "proposal.json"
    proposal.write_text(json.dumps({"title": "x", "body": "", "files": {name: "x"}}))
    with pytest.raises(BaselineError, match="changes other files") as error:
        propose(Namespace(proposal=proposal, base="main"))
    assert error.value.got == name


@pytest.mark.subprocess
def test_a_machine_without_a_gpu_lints_tests_and_times(rehearsal):
    (rehearsal.bin / "make").unlink()  # the real one; what it calls is written down
    rehearsal.program("npm", "import sys; sys.exit(1)")
    workers = "numprocesses auto --timeout 300"
    fast = "not (slow or subprocess or further or compile or browser or gpu)"
    tools, calls = rehearsal.folder / ".venv" / "bin", rehearsal.folder / "calls"
    tools.mkdir(parents=True)
    for name in ("pytest", "ruff", "mypy", "lint-imports", "zizmor"):
        (tools / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {calls}\n')
        (tools / name).chmod(0o755)
    for stamp in ("installed", "developing", "imported"):
        (tools.parent / stamp).touch()
    rehearsal.job("cpu", "quick")
    rehearsal.job("cpu", "test")
    found = calls.read_text().splitlines()
    assert found[:3] == [
        "ruff check .",
        "ruff format --check .",
        f"pytest --{workers} tests/unit -m {fast}",
    ]
    assert sorted(found[3:8]) == [  # `make test` runs two linters at a time
        "lint-imports ",
        "mypy ",
        "ruff check .",
        "ruff format --check .",
        "zizmor --offline --quiet .github/workflows",
    ]
    assert found[8:] == [
        f"pytest --{workers} correctness_tests tests -m not further",
        f"pytest --{workers} correctness_tests tests -m further",
        "pytest perf_tests --gpu cpu --matrix smoke",
    ]


@pytest.mark.subprocess
def test_the_gate_from_end_to_end(rehearsal):
    """Not wanted; wanted by path or label; slower; accepted; the comment is updated."""
    rehearsal.job("perf-gate", "wanted")
    rehearsal.git("switch", "--quiet", "--create", "topic")
    with (rehearsal.folder / "fluxfast" / "hardware.py").open("a") as source:
        source.write("# slower\n")
    rehearsal.git("commit", "--quiet", "--all", "--message", "slower")
    rehearsal.job("perf-gate", "wanted")
    rehearsal.git("switch", "--quiet", "main")
    rehearsal.set_github(pull={"labels": [{"name": GATING_LABEL}], "body": ""})
    rehearsal.job("perf-gate", "wanted")
    wanted = (rehearsal.folder / "output.txt").read_text()
    assert wanted == "run=false\nrun=true\nrun=true\n"
    rehearsal.set_github()
    rehearsal.git("switch", "--quiet", "topic")

    gate, comment_line = (
        next(line for _, job, line in LINES if job == "gate" and f"fluxfast.ci {command}" in line)
        for command in ("gate", "comment")
    )
    (pytest_line,) = (line for _, _, line in LINES if '--against "$(git merge-base' in line)
    forged = f"{COMMENT_MARK}\nby somebody else"
    rehearsal.set_github(comments=[forged], foreign=[0])
    rehearsal.program("fluxfast", WITHOUT_CHARTS)
    rehearsal.set_slower({"fp8_per_row": 1.3})
    output = rehearsal.folder / "output.txt"
    output.unlink()
    assert rehearsal.job("perf-gate", "measure")[pytest_line] == 1
    assert output.read_text() == "python=\n"
    with (rehearsal.folder / "constraints-h200.txt").open("a") as constraints:
        constraints.write("peft==0.21.2\n")
    rehearsal.git("commit", "--quiet", "--all", "--message", "pins")
    rehearsal.job("perf-gate", "measure", BASE_PYTHON=BASE_PYTHON)
    assert output.read_text() == f"python=\npython={BASE_PYTHON}\n"
    assert "❌" in (rehearsal.folder / "step-summary.md").read_text()
    assert rehearsal.job("perf-gate", "gate")[gate] == 1
    unchanged, comment = rehearsal.github()["comments"]
    assert unchanged == forged
    assert "fp8_per_row: speedup 1.43× → 1.10×" in comment and "```mermaid" in comment

    measured = next(line for _, job, line in LINES if "fluxfast.ci measured" in line)
    for result in ("failure", "cancelled", "skipped", ""):
        assert rehearsal.run(measured, MEASURED=result).returncode == 1

    comments = [comment]
    for body, status in (("text", 1), ("Why:\nperf-ok: float32 norms, see #9\n", 0)):
        pull = {"labels": [{"name": "perf-ok"}], "body": body}
        rehearsal.set_github(pull=pull, comments=comments)
        assert rehearsal.run(gate).returncode == status
        assert rehearsal.run(comment_line).returncode == 0
        (text,) = rehearsal.github()["comments"]
        assert ("accepted: float32 norms" in text.partition("❌")[0]) == (status == 0)

    shutil.rmtree(rehearsal.folder / "results")
    rehearsal.set_slower({})
    rehearsal.set_github(comments=comments)
    rehearsal.job("perf-gate", "measure")
    assert rehearsal.job("perf-gate", "gate")[gate] == 0
    (comment,) = rehearsal.github()["comments"]
    assert "✅" in comment and "No case changed." in comment


MAKE_UPGRADE = """
import os, sys
if sys.argv[1] == "upgrade":
    words = "--gpu h200 --against-env python3 --results results --junitxml report/junit.xml"
    os.execvp("pytest", ["pytest", "perf_tests", *words.split()])
"""


@pytest.mark.subprocess
def test_the_newest_versions_from_end_to_end(shared_rehearsal):
    """One issue has the verdict of each night; it is updated."""
    rehearsal = shared_rehearsal
    rehearsal.set_github()
    rehearsal.program("make", MAKE_UPGRADE)
    rehearsal.program("fluxfast", WITHOUT_CHARTS)
    rehearsal.set_slower({"fp8_per_row": 1.3})
    assert rehearsal.job("upgrade", "measure")["make upgrade GPU=h200"] == 1
    rehearsal.job("upgrade", "announce")
    rehearsal.job("upgrade", "announce")
    [issue] = rehearsal.github()["issues"]
    assert "torch 1 → 2.99.0" in issue["body"] and "fp8_per_row" in issue["body"]
    assert "torch 1 → 2.99.0" in issue["title"] and "slower" in issue["title"].lower()


def test_there_is_one_issue_about_an_upgrade_and_a_closed_one_stays_closed():
    new = Upgrade(change="torch 2.11.0 → 2.12.0", verdict="Passed", summary="table")

    def issue(state, body=new.body):
        return {"number": 4, "state": state, "body": body}

    older = issue("CLOSED", replace(new, change="torch 2.10.0 → 2.11.0").body)
    assert action_on(new, []) == action_on(new, [older]) == ("create", 0)
    assert action_on(new, [issue("OPEN", older["body"])]) == ("edit", 4)
    assert action_on(new, [issue("CLOSED")]) == ("nothing", 4)
    assert action_on(None, [issue("OPEN")]) == ("close", 4)
    assert action_on(None, [issue("CLOSED")]) == ("nothing", 0)
    others = {"comparisons": [{"environment": "no package of the stack differs"}]}
    assert upgrade_of(others, "") is None


def test_what_runner_installs_decides_whether_the_base_needs_its_own_environment():
    project = '[project]\ndependencies = ["torch>=2.11"]\n'
    extras = '[project.optional-dependencies]\ncuda = ["triton"]\ndocs = ["mkdocs"]\n'
    before = requirements(project + extras, "# why\ntorch==2.11.0\n")
    assert before == {"torch>=2.11", "triton", "torch==2.11.0"}
    assert requirements(project + extras, "torch==2.11.0  # why\n\n") == before
    assert requirements(project + extras, "torch==2.12.0") != before
    assert requirements(project + extras.replace("mkdocs", "sphinx"), "torch==2.11.0") == before


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("labels", "measured", "asked_for"),
    [
        ("perf", "skipped", ["run", "rerun", "5"]),  # benchmarked, because it was not
        ("perf,perf-ok", "success", ["run", "rerun", "--job", "8"]),
        ("", "success", ["run", "rerun", "--job", "8"]),  # perf-ok was removed
        ("perf-ok", "skipped", None),
        ("perf", "failure", ["run", "rerun", "5"]),
        ("perf-ok", "cancelled", None),
        ("perf", "in_progress", None),
    ],
)
def test_a_later_label_reruns_the_part_that_it_concerns(
    shared_rehearsal, labels, measured, asked_for
):
    done = measured != "in_progress"
    jobs = [
        {"name": name, "databaseId": number, "conclusion": conclusion if done else "",
         "status": "completed" if done else measured}
        for name, number, conclusion in (
            ("wanted", 6, "success"), ("measure", 7, measured), ("gate", 8, "failure")
        )
    ]  # fmt: skip
    named = [{"name": label} for label in labels.split(",") if label]
    pull = {"labels": named, "body": "", "headRefOid": "abc", "headRefName": "topic"}
    shared_rehearsal.set_github(jobs=jobs, pull=pull)
    shared_rehearsal.job("perf-label", "again")
    rerun = [call for call in shared_rehearsal.github()["calls"] if call[:2] == ["run", "rerun"]]
    assert rerun == ([asked_for] if asked_for else [])


@pytest.mark.subprocess
def test_a_label_does_nothing_for_a_commit_that_is_not_the_newest(shared_rehearsal):
    pull = {"labels": [{"name": "perf"}], "body": "", "headRefOid": "def", "headRefName": "topic"}
    shared_rehearsal.set_github(pull=pull)
    shared_rehearsal.job("perf-label", "again")
    assert {call[0] for call in shared_rehearsal.github()["calls"]} == {"pr"}


def test_a_run_that_has_not_started_is_polled(monkeypatch):
    answers = [[], [{"databaseId": 5}]]
    done = [{"name": name, "databaseId": 8, "status": "completed", "conclusion": "skipped"}
            for name in ("measure", "gate")]  # fmt: skip
    calls = []

    def gh(*words):
        calls.append(words[:2])
        if words[0] == "pr":
            return {"labels": [{"name": "perf"}], "headRefOid": "abc", "headRefName": "topic"}
        return answers.pop(0) if words[1] == "list" else {"jobs": done}

    monkeypatch.setattr(pulls, "gh", gh)
    monkeypatch.setattr(pulls, "POLL_EVERY_S", 0.0)
    assert pulls.again(Namespace(pull="12", commit="abc")) == 0 and calls[-1] == ("run", "rerun")
    answers += [[]] * pulls.POLLS
    assert pulls.again(Namespace(pull="12", commit="abc")) == 1


@pytest.mark.subprocess
def test_an_accepted_merge_is_first_measured_by_the_commit_that_contains_it(tmp_path, monkeypatch):
    def git(*words):
        done = subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x", *words],
                              cwd=tmp_path, check=True, capture_output=True, text=True)  # fmt: skip
        return done.stdout.strip()

    git("init", "--quiet")
    found = []
    for number in range(4):
        git("commit", "--quiet", "--allow-empty", "--message", str(number))
        found.append(git("rev-parse", "HEAD"))
    monkeypatch.chdir(tmp_path)
    # The second night began before the merge and ended after it.
    nights = [(found[0], "2026-11-01T02"), (found[0], "2026-11-02T03"), ("0" * 40, "2026-11-02T04"),
              (found[3] + "+dirty", "2026-11-03T02")]  # fmt: skip
    assert first_measured(found[2], "2026-11-02T02", nights) == "2026-11-03T02"
    assert first_measured(found[2], "2026-11-02T02", nights[:3]) == ""
    assert first_measured("1" * 40, "2026-11-02T02", nights) == ""  # the merge is gone


@pytest.mark.subprocess
def test_an_acceptance_whose_merge_is_gone_is_named_and_passed_over(tmp_path, monkeypatch):
    """Other acceptances of the same night are recorded."""
    pulls_merged = [
        {"number": number, "body": f"perf-ok: reason {number}", "mergedBy": None,
         "mergedAt": "2026-11-01T00:00:00Z", "mergeCommit": {"oid": commit}}
        for number, commit in ((1, "1" * 40), (2, "HEAD"))
    ]  # fmt: skip
    for words in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message", "m"]):
        identity = ["-c", "user.name=x", "-c", "user.email=x"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True)
    notes = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nights, "gh", lambda *_: pulls_merged)
    monkeypatch.setattr(nights, "note", notes.append)
    database = tmp_path / "history.sqlite3"
    with opened(database, new=True):
        pass
    assert accepted(Namespace(database=database)) == 0
    with opened(database) as connection:
        assert [one.pull for one in acceptances(connection)] == ["#2"]
    assert len(notes) == 1 and "#1" in notes[0] and "1" * 40 in notes[0]


def test_a_run_that_has_not_reached_measuring_is_waited_for():
    def job(status, conclusion=""):
        return {"databaseId": 8, "status": status, "conclusion": conclusion}

    done = {"wanted": job("completed", "success"), "measure": job("completed", "skipped")}
    for jobs in ({}, {"wanted": job("queued")}, done | {"gate": job("in_progress")}):
        assert rerun_of(jobs, is_labelled=True).waits
    assert not rerun_of(done | {"measure": job("queued")}, is_labelled=True).waits


def test_only_accepted_slowdowns_are_proposed_as_baselines():
    def one(name, outcome, gpu="NVIDIA H200", processes=3, worse=(), cards=("a",)):
        return {
            "gpu": gpu, "case": name, "outcome": outcome, "processes": processes, "worse": worse,
            "before": {"measured_at": "2026-11-01T00:00:00+00:00", "cards": ["a", "b"]},
            "cards": cards,
            "measured_at": "2026-11-09T02:17:00+00:00",
        }  # fmt: skip

    def changed(name, *changes):
        return {"gpu": "NVIDIA H200", "case": name, "changes": [
            {"relative": relative, "still_slower": still, "accepted": [{"pull": p} for p in pulls]}
            for relative, still, pulls in changes
        ]}  # fmt: skip

    report = {"cases": [
        one("a", "slower"), one("b", "slower"), one("c", "slower"), one("d", "same"),
        one("e", "faster"), one("a", "slower", gpu="NVIDIA H100"), one("f", "broken"),
        one("g", "faster", processes=1),  # from the ablation, once a night
        one("h", "same", cards=["c"]), one("i", "same", cards=["b", "c"]),
        one("j", "same", cards=()), one("k", "undecided", cards=["c"]),
    ]}  # fmt: skip
    history = [
        changed("a", (-0.1, False, ["#1"]), (0.05, False, ["#2", "#3"])),
        changed("b", (0.05, True, [])),
        changed("c", (0.05, False, ["#2"]), (0.04, True, [])),  # with another, open slowdown
        changed("d", (0.05, False, ["#2"])),
    ]
    assert worth_proposing(report, history) == {
        ("NVIDIA H200", "a"): "slower as accepted in #2, #3",
        ("NVIDIA H200", "e"): "faster",
        ("NVIDIA H200", "h"): "another card",
    }
    report = {"cases": [
        one("a", "changed"),
        one("b", "broken", worse=["graph_breaks"]),
        one("c", "broken", worse=["graph_breaks", "launches_in_a_step"]),
        one("d", "broken", worse=["launches_in_a_step"]),
        one("e", "broken", worse=["unique_graphs"]),
        one("f", "broken", worse=["cached_steps"]),
    ]}  # fmt: skip
    merged = [
        {"number": number, "mergedAt": f"2026-{date}T10:00:00Z", "body": f"perf-ok: {name}, why"}
        for number, date, name in (
            (5, "11-05", "graph_breaks"),
            (6, "10-30", "unique_graphs"),  # the baseline is newer
            (7, "11-06", "launches_in_a_step"),
            (8, "11-10", "cached_steps"),  # merged after the night
        )
    ]
    assert worth_proposing(report, history, merged) == {
        ("NVIDIA H200", "a"): "changed",
        ("NVIDIA H200", "b"): "broken as accepted in #5",
        ("NVIDIA H200", "c"): "broken as accepted in #5, #7",
        ("NVIDIA H200", "d"): "broken as accepted in #7",
    }


@pytest.mark.subprocess
def test_the_nightly_from_end_to_end(rehearsal):
    """The history is pushed, the page is written, and baselines are proposed."""
    rehearsal.git("switch", "--quiet", "--orphan", "perf-history")
    rehearsal.git("commit", "--quiet", "--allow-empty", "--message", "history")
    rehearsal.git("push", "--quiet", "--set-upstream", "origin", "perf-history")
    rehearsal.git("switch", "--quiet", "main")
    origin = str(rehearsal.folder.parent / "origin")
    rehearsal.git("clone", "--quiet", "--branch", "perf-history", origin, "history")

    # The real make; pytest and pip, which it calls, are simulated.
    (rehearsal.bin / "make").unlink()
    for part in ("1", "2"):
        rehearsal.job("nightly", "measure", GPU="h200", SHARD=f"{part}/2", PYTHONHASHSEED="0")
        shutil.move(rehearsal.folder / "results", rehearsal.folder / "shards" / part)
    rehearsal.program("make", PRINT_ARGUMENTS)
    rehearsal.job("nightly", "merge")
    rehearsal.set_github(merged=[{"number": 12, "body": "perf-ok: why", "mergedAt":
        "2026-11-01T00:00:00Z", "mergedBy": None, "mergeCommit": {"oid": "HEAD"}}])  # fmt: skip
    rehearsal.program("fluxfast", FAKE_ACCEPT)
    rehearsal.job("nightly", "evaluate")
    assert (rehearsal.folder / "site" / "report" / "index.html").stat().st_size > 500_000
    rehearsal.git("checkout", "--quiet", "baselines")  # the other jobs have checkouts of their own
    for artifact, files in (
        ("newest", ["history/history.sqlite3"]), ("night", ["history.json", "proposal.json"]),
    ):  # fmt: skip
        (rehearsal.folder / artifact).mkdir()
        for path in files:
            shutil.move(rehearsal.folder / path, rehearsal.folder / artifact)
    rehearsal.job("nightly", "keep")
    rehearsal.job("nightly", "issues")
    rehearsal.job("nightly", "propose", BASE="main")
    log = subprocess.run(["git", "-C", origin, "log", "--format=%s", "perf-history"],
                         capture_output=True, text=True).stdout  # fmt: skip
    assert log.splitlines() == ["Add the results of the night", "history"]
    (proposed,) = rehearsal.github()["pulls"]
    assert proposed["title"] == "New baselines: new, wrong stack"
    assert proposed["body"].startswith("- ") and "too few processes" in proposed["body"]
    assert "too few processes" in (rehearsal.folder / "step-summary.md").read_text()
    changed = subprocess.run(["git", "-C", origin, "diff", "--name-only", "main",
                              BASELINE_BRANCH], capture_output=True, text=True)  # fmt: skip
    assert changed.stdout.split() == ["baselines/nvidia-h200.json"]


# All commands are real except `baseline accept`; its own tests cover what it refuses.
FAKE_ACCEPT = """
import pathlib, sys
if sys.argv[1:3] == ["baseline", "accept"]:
    if sys.argv[4].endswith("dbcache+fp8_per_row+regional"):
        sys.exit("fluxfast: too few processes measured this case")
    path = pathlib.Path("baselines/nvidia-h200.json")
    path.write_text(path.read_text() + "\\n")
else:
    from fluxfast.cli.main import main
    sys.exit(main())
"""


def test_an_issue_is_opened_once_and_closed_on_recovery():
    days = [day for day in range(1, 31) if day not in (20, 21, 22)]  # a runner was down

    def history(still_slower, commits=("a", "b"), day=19, cases=(1, 2), begins=1):
        change = {"date": f"2026-10-{day:02}T02:00", "relative": 0.06, "cause": "code",
                  "detail": "a → b", "still_slower": still_slower,
                  "last_good_date": f"2026-10-{day - 1:02}T02:00",
                  "last_good_commit": commits[0], "first_changed_commit": commits[1]}  # fmt: skip
        nights = [{"measured_at": f"2026-10-{day:02}T02:00"} for day in days if day >= begins]
        return [{"gpu": "NVIDIA H200", "case": f"case {n}", "changes": [change], "nights": nights}
                for n in cases]  # fmt: skip

    (slowdown,) = issue_actions(history(True), []).to_open
    assert slowdown.title == "NVIDIA H200: 2 cases slower since 2026-10-19"
    issue = {"number": 5, "state": "OPEN", "body": slowdown.body}
    closed = issue | {"state": "CLOSED"}

    same = issue_actions(history(True), [issue])
    assert (same.to_open, same.to_close, same.to_edit) == ([], [], {})
    # The change point moved by a night; another case turned out to be slower, too.
    for moved in (history(True, ("b", "c"), 23), history(True, cases=(1, 2, 3))):
        done = issue_actions(moved, [issue])
        assert (done.to_open, done.to_close) == ([], []) and list(done.to_edit) == [5]
    # Another slowdown, which begins where the first one was first seen.
    other = issue_actions(history(True, ("b", "c"), 27), [issue])
    assert len(other.to_open) == 1 and other.to_close == [5]
    assert issue_actions(history(True, cases=(3,)), [issue]).to_open
    # The slowdown recovered; the history no longer covers it; somebody closed the issue.
    assert issue_actions(history(False), [issue]).to_close == [5]
    assert issue_actions(history(False, begins=25), [issue]).to_close == []
    for now in (True, False):
        done = issue_actions(history(now), [closed])
        assert (done.to_open, done.to_close, done.to_edit) == ([], [], {})


def test_one_slowdown_of_cases_on_two_cards_is_one_issue_and_another_card_is_none():
    def series(name, commit, day, still_slower=True):
        change = {"date": "2026-10-19T02:00", "relative": 0.06, "cause": "code", "detail": "",
                  "still_slower": still_slower, "last_good_date": f"2026-10-{day}T02:00",
                  "last_good_commit": commit, "first_changed_commit": "c"}  # fmt: skip
        nights = [{"measured_at": "2026-10-01T02:00"}, {"measured_at": "2026-10-19T02:00"}]
        return {"gpu": "NVIDIA H200", "case": name, "changes": [change], "nights": nights}

    found = [series("x", "b", 18), series("y", "a", 15), series("z", "b", 18, still_slower=False)]
    (slowdown,) = issue_actions(found, []).to_open
    assert slowdown.commits == ("a", "c") and list(slowdown.cases) == ["x", "y"]


def test_changes_of_timed_code_are_benchmarked_without_a_label():
    timed = ("kernels/vae.py", "models/spec.py", "optimizations/base.py", "pipeline/build.py",
             "profiling/trace.py", "bench/measurement/sampler.py", "pytest_plugin/plugin.py",
             "hardware.py")  # fmt: skip
    for path in (*(f"fluxfast/{one}" for one in timed), "perf_tests/test_latency.py"):
        assert is_wanted([], ["README.md", path]), path
        assert (REPOSITORY / path).exists(), path
    untimed = ("ci/pulls.py", "cli/report.py", "history/series.py", "mini/world.py",
               "quality/metrics.py", "report/page.css")  # fmt: skip
    others = ("docs/index.md", "training/README.md", "tests/e2e/test_cli.py")
    for path in (*(f"fluxfast/{one}" for one in untimed), *others):
        assert not is_wanted([], [path]), path
        assert is_wanted(["perf"], [path])


def case(outcome):
    worse = ["launches_in_a_step"] if outcome == "broken" else []
    return {"outcome": outcome, "passes": Outcome(outcome).is_pass, "worse": worse}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("Why:\r\n  perf-ok: float32 norms, see #9 \r\nmore", "float32 norms, see #9"),
        ("perf-ok:\r\nCloses #12", None),
        ("perf-ok:\n\n## Checklist", None),
        ("<!--\nperf-ok: say why\n-->", None),
        ("about perf-ok: nothing", None),
    ],
)
def test_only_a_written_reason_accepts_a_slowdown(body, reason):
    assert accepting_reason(body) == reason


@pytest.mark.parametrize(
    ("outcomes", "failed", "reason", "status"),
    [
        (["same", "faster"], 0, None, 0),
        (["same"], 1, None, 1),  # a test failed without a verdict
        (["same", "slower"], 1, None, 1),
        (["same", "slower"], 1, "a reason", 0),
        (["slower", "broken"], 2, "a reason", 1),  # it does not name what is broken
        (["slower", "broken"], 2, "launches_in_a_step: a reason", 0),
        (["broken"], 2, "launches_in_a_step: a reason", 1),  # the other is a proof
        (["broken", "new"], 2, "launches_in_a_step: a reason", 1),
        (["same", "changed"], 0, None, 0),
        (["undecided"], 0, None, 6),
        (["undecided"], 1, None, 1),  # the case is skipped, so another test failed
        (["slower", "undecided"], 2, "a reason", 1),
        (["slower", "undecided"], 1, "a reason", 6),  # no acceptance covers what was not judged
        (["slower", "invalid runner"], 1, "a reason", 6),
        (["invalid runner", "slower"], 1, None, 1),
        ([], 0, None, 1),  # nothing was measured
        (["new"], 1, "a reason", 1),
    ],
)
def test_the_status_of_the_gate_is_that_of_its_verdicts(outcomes, failed, reason, status):
    report = {"cases": [case(outcome) for outcome in outcomes], "verdict_line": "…"}
    assert gate_of(report, failed, reason).status == status


@pytest.mark.subprocess
def test_zizmor_finds_nothing():
    zizmor = shutil.which("zizmor") or str(Path(sys.executable).parent / "zizmor")
    if not Path(zizmor).exists():
        pytest.skip("zizmor is not installed: pip install zizmor")
    done = subprocess.run([zizmor, "--offline", str(FOLDER)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
