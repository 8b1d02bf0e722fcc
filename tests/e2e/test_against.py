"""Two revisions interleaved: the order, when it stops, and the processes of each revision."""

import json
import os
import random
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from fluxfast.bench.ab import child
from fluxfast.bench.ab.against import PAIRS, Sides, forget, interleaved
from fluxfast.bench.ab.installation import Installation
from fluxfast.bench.ab.process import log_path, measure_in
from fluxfast.bench.ab.request import Event, Request, parse_event
from fluxfast.bench.ab.revision import comparable_commit, worktree
from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.planned import planned_from_id
from fluxfast.bench.cases.role import Role
from fluxfast.bench.results.artifacts import image_path
from fluxfast.bench.results.store import write_result
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.tables import verdict_table
from fluxfast.bench.verdicts.verdict import decide
from fluxfast.errors import FluxFastError
from fluxfast.pytest_plugin import comparing, printing
from fluxfast.pytest_plugin import session as session_module
from fluxfast.pytest_plugin.options import Options
from fluxfast.pytest_plugin.planning import reference_ids
from fluxfast.pytest_plugin.session import Suite
from fluxfast.report.contents import report_of
from fluxfast.report.markdown import markdown
from tests.support.machines import CPU
from tests.support.processes import process
from tests.support.results import CANARIES, case, result

REPOSITORY = Path(__file__).parents[2]


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


def test_pairs_stop_when_the_verdict_is_sure():
    order, measure = measured(1.05, 0.001)
    sides = sides_of(measure)
    assert "".join(order) == ("ABBA" * PAIRS)[: len(order)] and 1 < len(sides.ours) < PAIRS
    assert decide([sides.comparison], PAIRS)[0].outcome is Outcome.SLOWER


def test_one_process_of_each_side_is_enough_where_nothing_changed():
    order, measure = measured(1.0, 0.0005)
    assert decide([sides_of(measure).comparison], PAIRS)[0].outcome is Outcome.SAME
    assert order == ["A", "B"]


def test_pairs_end_undecided_rather_than_never():
    order, measure = measured(1.01, 0.08)
    sides = sides_of(measure, pairs=6)
    assert len(order) == 12 and len(sides.theirs) == len(sides.ours) == 6
    assert decide([sides.comparison], 6)[0].outcome is Outcome.UNDECIDED


@pytest.mark.parametrize(("process_s", "pairs"), [(400.0, 2), (200.0, 4), (1.0, 12)])
def test_no_pair_begins_that_would_end_too_late(process_s, pairs):
    order, measure = measured(1.01, 0.08)
    interleaved(measure, [case()], clock=lambda: process_s * len(order))
    assert len(order) == 2 * pairs


def test_a_sure_case_is_not_measured_again_and_a_failing_one_does_not_stop_the_rest():
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


def test_sides_with_different_synthetic_weights_are_not_compared():
    profiles = {"A": "normal-1", "B": "trained-1"}

    def measure(side, number, cases):
        return {one.id: process(100, weights_profile=profiles[side]) for one in cases}

    sides, failed = interleaved(measure, [case()])
    assert not sides and "normal-1 → trained-1" in str(failed[case().id])


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
    assert decide([sides.comparison], PAIRS)[0].outcome.value == outcome
    assert len(order) == count
    assert sides.left_out == (1 if outcome == "same" else 0)


def test_a_machine_that_is_mostly_disturbed_is_an_invalid_runner():
    """The few processes that remain would be the same as each other, whatever the code does."""

    def side(step_ms, levels, seed):
        return tuple(
            process(step_ms, seed=seed + n, canaries=canary(level))
            for n, level in enumerate(levels)
        )

    sides = Sides(
        theirs=side(100, (1.0, 1.5, 2.0, 0.5), 0), ours=side(100, (1.0, 1.5, 0.5, 1.02), 10)
    )
    verdict = decide([sides.comparison], PAIRS)[0]
    assert sides.left_out == 5 and verdict.outcome is Outcome.INVALID_RUNNER
    assert "in 5 of 8 processes the canaries differ" in verdict.reason


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
    assert decide([sides.comparison], PAIRS)[0].outcome is Outcome.SLOWER


def test_the_unoptimized_pipeline_is_compared_only_where_it_stands_alone():
    """It is diffusers' on both sides: next to optimized cases it is measured once, for images."""
    eager, default = case(optimizations=("bf16",)), case()
    elsewhere = case(optimizations=("bf16",), model="schnell")
    assert reference_ids([eager, default, elsewhere]) == {eager.id}
    assert not reference_ids([eager])


@pytest.fixture
def session(tmp_path, monkeypatch):
    """Return a session with `--against` and two cases, one the unoptimized one of the other."""
    monkeypatch.setattr(comparing.ProcessSettings, "describe", lambda settings: None)
    lines = []
    options = Options(against="main", results=tmp_path, seconds=5.0, rounds=7, baselines=tmp_path)
    suite = Suite(config=SimpleNamespace(rootpath=tmp_path), options=options)
    suite.progress = SimpleNamespace(line=lines.append, lines=lines)
    cases = [case(optimizations=("bf16",)), case()]
    roles = (Role.EAGER, Role.DEFAULT)
    suite.selected = tuple(
        SimpleNamespace(case=one, role=role, label=str(role))
        for one, role in zip(cases, roles, strict=True)
    )
    return suite


def test_cases_without_another_case_of_their_workload_are_judged_together(session):
    assert session.reference_ids == {case(optimizations=("bf16",)).id} and session.others == 0


def test_a_revision_that_git_cannot_check_out_fails_each_case(session):
    def other():
        raise FluxFastError("git cannot find it", got="", allowed="", remedy="")

    for planned in session.selected:
        session.compare(other)
        with pytest.raises(FluxFastError, match="git cannot find it"):
            session.result_of(planned, measure=None)
        assert planned.case.id in session.failed


def test_rounds_and_seconds_reach_the_processes_and_eager_is_measured_once(session, monkeypatch):
    requests = []

    def measure(installation, request, report):
        requests.append(request)
        report("a line")
        cases = [Case.from_id(case_id) for case_id in request.cases]
        return {one.id: process(seed=len(requests), case=one) for one in cases}

    monkeypatch.setattr(comparing, "measure_in", measure)
    session.compare(lambda: Path("other"))
    session.compare(lambda: pytest.fail("measured twice"))
    for planned in session.selected:
        assert session.result_of(planned, measure=None).case == planned.case
    eager, default = (planned.case.id for planned in session.selected)
    asked = [(request.results.name, request.cases, request.rounds) for request in requests]
    assert asked == [("A1", (default,), 7), ("B1", (default,), 7), ("B1", (eager,), 1)]
    assert {request.seconds for request in requests} == {5.0}
    assert [request.roles for request in requests] == [{default: Role.DEFAULT}, {}, {}]
    assert session.progress.lines[0] == "process A1: a line"
    assert not session.failed and session.sides.keys() == {default}


def test_another_default_is_judged_against_the_default_of_the_other_revision(session, monkeypatch):
    """The run, and the report of its folder, which knows no case by the id of this revision."""
    before = case(optimizations=("bf16", "sdpa", "regional"))
    numbers = iter(range(100))

    def measure(installation, request, report):
        in_a = bool(request.roles)
        slower = dict.fromkeys(request.cases, 100.0 if in_a else 175.0)
        measured = {
            case_id: process(
                step_ms,
                case=before if in_a else Case.from_id(case_id),
                role=Role.DEFAULT if "regional" in case_id else Role.EAGER,
                seed=(seed := next(numbers)),
                canaries=CANARIES,
                provenance={"commit": "a" if in_a else "b", "dirty": False, "process": seed},
            )
            for case_id, step_ms in slower.items()
        }
        for one in measured.values():
            write_result(request.results, one)
        return measured

    monkeypatch.setattr(comparing, "measure_in", measure)
    session.compare(lambda: Path("other"))
    verdict = session.judge(session.selected[1])
    assert verdict.outcome is Outcome.SLOWER and not session.failed
    assert verdict.reason.startswith("default: − sdpa; ")
    (row,) = (row for row in report_of([session.results_folder]).rows if row.case == case())
    assert row.verdict.reason == verdict.reason and row.other.case == before


def test_verdicts_are_computed_once_for_a_session(session, monkeypatch):
    count = []
    monkeypatch.setattr(
        comparing, "measure_in", lambda _, request, report: {i: process() for i in request.cases}
    )
    judging = session_module.judging
    judge_sides = judging.judge_sides
    monkeypatch.setattr(judging, "judge_sides", lambda sides: count.append(1) or judge_sides(sides))
    session.compare(lambda: Path("other"))
    for _ in range(3):
        session.judge(session.selected[1])
        assert session.outcomes == {case().id: Outcome.SAME}
    assert count == [1]


def test_console_and_page_show_the_same_figures_of_a_case(session, monkeypatch):
    """The last of the processes is the slowest, and the table shows their median."""
    step_ms = {"A1": 100.0, "B1": 102.0, "B2": 108.0, "A2": 101.0}

    def measure(installation, request, report):
        name = request.results.name
        origin = {"commit": name[0], "dirty": False, "process": name}
        one = process(step_ms[name], case=Case.from_id(request.cases[0]), provenance=origin)
        write_result(request.results, one)
        return {request.cases[0]: one}

    monkeypatch.setattr(comparing, "measure_in", measure)
    monkeypatch.setattr(comparing, "interleaved", partial(interleaved, pairs=2))
    session.compare(lambda: Path("other"))
    default = session.selected[1]
    assert len(session.sides[case().id].ours) == 2
    session.judge(default)
    _, shown, _ = printing.row(session, default)
    (row,) = (row for row in report_of([session.results_folder]).rows if row.case == case())
    assert shown == row.summary and 103.0 < shown.step_ms < 107.0
    assert next(printing.conditions(session, default)) == "medians of 2 processes"


def test_a_fusion_passes_and_leads_the_console_and_the_summary(session, monkeypatch, tmp_path):
    """865 → 703 launches and 14% faster: the change that a gate on speed is for."""
    sides = {"A": (865, 100.0), "B": (703, 86.0)}

    def measure(tree, request, report):
        launches, step_ms = sides[request.results.name[0]]
        seed = int(request.results.name[1:])
        found = {}
        for one in map(Case.from_id, request.cases):
            found[one.id] = process(
                step_ms,
                seed=seed,
                case=one,
                counters={"launches_in_a_step": launches},
                provenance={"commit": request.results.name[0], "dirty": False, "process": seed},
            )
            write_result(request.results, found[one.id])
        return found

    monkeypatch.setattr(comparing, "measure_in", measure)
    session.compare(lambda: Path("other"))
    fused = session.selected[1]
    verdict = session.judge(fused)
    assert verdict.outcome is Outcome.CHANGED and verdict.passes
    assert len(session.sides[case().id].ours) == 2  # one process does not show how much faster
    text = printing.remark(session, fused)
    assert "changed: 865 → 703 launches in a step; " in text and "nightly run proposes" in text

    folders = {side: sorted(tmp_path.glob(f"{side}[0-9]")) for side in sides}
    report = report_of(folders["B"], folders["A"])
    passed, _, lead, table, *_ = markdown(report).split("\n\n")
    assert passed.startswith("### ✅ 2 cases") and "1 changed" in passed
    assert "1 recorded" in passed
    assert "recorded" in verdict_table([printing.row(session, session.selected[0])])
    headline = "865 → 703 launches in a step, denoising step -14.0%"
    assert headline in lead and "| changed |" in table
    assert "nightly run proposes" in report.remedies[0]


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
        pytest.raises(FluxFastError, match="git cannot find"),
        worktree("nowhere", repository, tmp_path / "trees"),
    ):
        pass


def test_two_runs_have_a_tree_each(repository, tmp_path):
    with worktree("HEAD", repository, tmp_path / "trees") as first:
        with worktree("HEAD", repository, tmp_path / "trees") as second:
            assert first != second and (second / "version").read_text() == "two"
        assert (first / "version").read_text() == "two"


KILLED = """
import os, sys
from pathlib import Path
from fluxfast.bench.ab import revision

repository, folder, at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
calls, git = [], revision._git

def killed(*arguments):
    calls.append(arguments)
    if len(calls) == at:
        os._exit(9)
    return git(*arguments)

revision._git = killed
with revision.worktree("HEAD", repository, folder) as tree:
    if at == 0:
        os._exit(9)
    revision.shutil.rmtree = lambda *_, **__: os._exit(9)
"""


@pytest.mark.subprocess
def test_a_run_that_is_killed_leaves_nothing_that_stops_the_next(repository, tmp_path):
    folder = tmp_path / "trees"
    clean = subprocess.check_output(["git", "-C", repository, "worktree", "list"])
    for at in (0, 4, 5, 99):  # in use, before init, before the checkout, while it is removed
        words = [sys.executable, "-c", KILLED, repository, folder, str(at)]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        assert subprocess.run(words, env=environment).returncode == 9
        assert list(folder.glob("*")), at
        with worktree("HEAD", repository, folder) as tree:
            assert (tree / "version").read_text() == "two"
            assert {path.name for path in folder.iterdir()} == {tree.name, f"{tree.name}.lock"}
        assert not list(folder.iterdir())
    assert subprocess.check_output(["git", "-C", repository, "worktree", "list"]) == clean


def test_the_files_that_an_earlier_run_left_of_a_case_are_removed(tmp_path):
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


def test_what_stood_for_a_role_in_an_earlier_run_is_removed(tmp_path):
    before, others = case(optimizations=("bf16",)), case(model="schnell")
    for one in (before, others):
        write_result(tmp_path / "A1", result(case=one, role=Role.DEFAULT))
    write_result(tmp_path / "A2", result(case=before))
    forget(case(), tmp_path)
    assert len(list(tmp_path.glob("A*/*.json"))) == 3
    forget(case(), tmp_path, Role.DEFAULT)
    assert {path.name for path in tmp_path.glob("A*/*.json")} == {f"{others.id}.json"}


def request_for(results, *cases, **changes):
    return Request(
        cases=tuple(one.id for one in cases),
        results=results,
        device="cpu",
        rounds=2,
        seconds=5.0,
        **changes,
    )


def test_a_revision_without_the_measuring_process_is_too_old(repository, tmp_path):
    with pytest.raises(FluxFastError, match="too old to compare with"):
        comparable_commit("HEAD", repository)
    with pytest.raises(FluxFastError, match="git cannot find the other revision"):
        comparable_commit("nosuchref", repository)
    found = measure_in(Installation(tree=repository), request_for(tmp_path / "results", case()))
    assert "too old to compare with" in str(found[case().id])


CHILD = """
import json, sys
from pathlib import Path

request = json.load(sys.stdin)
print("a library's line")
for case in request["cases"]:
    if "unknown" in case:
        print(json.dumps({"event": "failed", "case": case, "text": "unknown weights"}))
        continue
    print(json.dumps({"event": "progress", "case": case, "text": "[1/1] a case: sampling"}))
    folder = Path(request["results"])
    (folder / f"{case}.json").write_text((folder / "known" / f"{case}.json").read_text())
    print(json.dumps({"event": "measured", "case": case, "text": ""}))
"""


@pytest.fixture
def tree(tmp_path):
    """Return the tree of a revision whose measuring process copies a known result."""
    package = tmp_path / "tree" / "fluxfast" / "bench" / "ab"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "child.py").write_text(CHILD)
    for model in ("dev", "schnell"):
        write_result(tmp_path / "known", result(case=case(model=model)))
    return tmp_path / "tree"


def test_a_process_measures_all_cases_and_one_that_fails_does_not_stop_the_others(
    tree, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", "libraries")
    known = [case(), case(model="schnell")]
    lines = []
    request = request_for(tmp_path, *known, case(weights="unknown"))
    found = dict(measure_in(Installation(tree=tree), request, lines.append))
    error = found.pop(case(weights="unknown").id)
    assert isinstance(error, FluxFastError) and "unknown weights" in str(error)
    assert found == {one.id: result(case=one) for one in known}
    assert lines == ["[1/1] a case: sampling"] * 2
    assert "a library's line" in log_path(tmp_path, known[0].id).read_text()


@pytest.mark.subprocess
@pytest.mark.parametrize("knows_roles", [False, True])
def test_a_tree_measures_what_stands_for_a_role_there(knows_roles, tree, tmp_path):
    """A tree that knows a role reports another case; an older one is not asked for the role."""
    package, other = tree / "fluxfast" / "bench" / "ab", case(optimizations=("bf16",))
    write_result(tmp_path, result(case=other, role=Role.DEFAULT))
    (package / "child.py").write_text(
        CHILD.replace('"text": ""', f'"text": "{other.id}" if "roles" in request else ""')
    )
    if knows_roles:
        (package / "request.py").write_text("ROLES_SCHEMA = 2\n")
        (package.parent / "cases").mkdir()
        (package.parent / "cases" / "role.py").write_text('DEFAULT = "default"\n')
    for role, is_known in ((Role.DEFAULT, knows_roles), (Role.LOW_MEMORY, False)):
        request = request_for(tmp_path, case(), roles={case().id: role})
        found = measure_in(Installation(tree=tree), request)
        assert found[case().id].case == (other if is_known else case())


def test_a_case_is_planned_by_its_role_on_the_machine_that_measures():
    asked = "schnell-mini-64x64-b1-s4-sdpa"
    assert planned_from_id(asked, CPU).case.id == asked
    planned = planned_from_id(asked, CPU, Role.DEFAULT)
    assert planned.role is Role.DEFAULT and planned.label == "default"
    assert planned.case.workload == Case.from_id(asked).workload
    with pytest.raises(FluxFastError, match="dbcache"):  # schnell has too few steps
        planned_from_id(asked, CPU, Role.CACHE)


def test_a_process_that_fails_leaves_its_last_lines_in_the_error(tree, tmp_path):
    child = tree / "fluxfast" / "bench" / "ab" / "child.py"
    child.write_text("raise SystemExit('out of memory')")
    error = measure_in(Installation(tree=tree), request_for(tmp_path, case()))[case().id]
    assert "out of memory" in str(error) and "exit status 1" in str(error)


def test_a_revision_finds_its_own_code_first_and_then_the_libraries(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "libraries")
    monkeypatch.setattr(subprocess, "Popen", lambda *_, env, **__: pytest.fail(env["PYTHONPATH"]))
    with pytest.raises(pytest.fail.Exception, match=f"^{tree}{os.pathsep}libraries$"):
        measure_in(Installation(tree=tree), request_for(tmp_path, case()))


def test_a_request_survives_json_and_another_schema_is_refused(tmp_path):
    request = request_for(tmp_path, case())
    in_role = request_for(tmp_path, case(), roles={case().id: Role.DEFAULT})
    for one in (request, in_role):
        assert Request.from_json(one.to_json()) == one
    assert "roles" not in json.loads(request.to_json())  # older revisions know none
    with pytest.raises(FluxFastError, match="measuring processes differ"):
        Request.from_json(request.to_json().replace('"schema": 1', '"schema": 3'))
    event = Event(kind="progress", case=case().id, text="sampling")
    assert parse_event(event.to_json()) == event
    assert parse_event('{"event": 1') is None and parse_event("a line") is None


def test_rounds_and_seconds_limit_the_sampling_of_a_process(tmp_path, monkeypatch):
    limits, events = [], []
    paired = "fluxfast.bench.measurement.paired"
    references = SimpleNamespace(of=lambda planned: None, progress=None)
    monkeypatch.setattr(f"{paired}.one_thread_on_a_cpu", lambda _: nullcontext())
    monkeypatch.setattr(f"{paired}.paired_references", lambda: nullcontext(references))
    monkeypatch.setattr(child, "measure_case", lambda _, **given: limits.append(given["limits"]))
    monkeypatch.setattr(child, "record", lambda *_: None)
    small = case(model="schnell", weights="mini", optimizations=(), height=64, width=64)
    child.measure_all(request_for(tmp_path, small), events.append)
    assert [event.kind for event in events] == ["measured"], events
    assert [(found.rounds, found.sampling_s) for found in limits] == [(2, 5.0)]


@pytest.mark.subprocess
def test_a_measuring_process_writes_results_and_reports_what_fails(tmp_path):
    eager = {"model": "schnell", "weights": "mini", "optimizations": (), "height": 64, "width": 64}
    small = case(**eager, num_inference_steps=4)
    unknown = case(**{**eager, "optimizations": ("nosuch",)}, num_inference_steps=4)
    lines = []
    here = Installation(tree=REPOSITORY)
    found = measure_in(here, request_for(tmp_path, small, unknown), lines.append)
    assert len(found[small.id].images) == 2 and image_path(tmp_path, small).exists()
    assert "unknown optimization" in str(found[unknown.id])
    assert lines[-1] == "[1/2] schnell, eager: sampling: 2 images"
