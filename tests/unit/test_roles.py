"""The role of a case: planned, stored, and compared when the optimizations behind it change."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from fluxfast.bench.ab.against import Sides
from fluxfast.bench.baselines.accept import history_rows, role_changes
from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.baselines.file import read_baseline, write_baseline
from fluxfast.bench.baselines.lookup import find_baseline
from fluxfast.bench.cases.own import planned_own_cases
from fluxfast.bench.cases.planned import planned_cases
from fluxfast.bench.cases.role import Role, difference
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.store import write_result
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.tables import why_not_faster
from fluxfast.errors import BaselineError
from fluxfast.pytest_plugin import printing
from fluxfast.pytest_plugin.judging import judge_against_baseline, judge_sides
from fluxfast.report.contents import report_json, report_of
from fluxfast.report.markdown import markdown
from tests.support.machines import CPU, H200
from tests.support.processes import process, processes
from tests.support.results import CANARIES, case, result

BEFORE, AFTER = ("bf16", "regional"), ("bf16", "sdpa", "regional")


def accepted(path, *results) -> Baseline:
    return replace(find_baseline("h200"), results={}, path=path).accept(results)


def roles_of(kind, hardware, model="dev"):
    return [one.role for one in planned_cases(kind, [model], "auto", hardware)[0]]


def test_the_tiers_have_roles_and_other_combinations_have_none():
    tiers = [Role.EAGER, Role.LOSSLESS, Role.DEFAULT, Role.CACHE]
    assert roles_of("tiers", H200) == tiers
    assert roles_of("tiers", H200, "schnell") == tiers[:3]
    assert roles_of("tiers", CPU) == [Role.EAGER, Role.DEFAULT, Role.CACHE]
    assert roles_of("memory", H200) == [Role.DEFAULT, Role.LOW_MEMORY]
    assert roles_of("memory", CPU) == [Role.DEFAULT]
    in_ablation = [role for role in roles_of("ablation", H200) if role]
    assert sorted(in_ablation) == sorted(set(Role) - {Role.LOSSLESS})


def test_own_cases_that_list_their_optimizations_have_no_role(tmp_path):
    file = tmp_path / "cases.yaml"
    file.write_text("cases: [{checkpoint: mini-dev}, {checkpoint: mini-schnell, preset: default}]")
    smoke, _ = planned_own_cases(file, "smoke", CPU, [])
    assert [one.role for one in smoke] == [Role.EAGER, Role.DEFAULT, Role.DEFAULT]
    names = json.dumps(smoke[1].case.optimizations)
    file.write_text(f"cases: [{{checkpoint: mini-dev, optimizations: {names}}}]")
    assert planned_own_cases(file, None, CPU, [])[0][0].role is None


def test_a_role_is_stored_once_for_each_case_and_may_be_missing(tmp_path):
    path = tmp_path / "nvidia-h200.json"
    baseline = accepted(path, *processes(role=Role.DEFAULT), result(case=case(model="schnell")))
    write_baseline(baseline)
    assert path.read_text().count('"role"') == 1
    again = read_baseline(path)
    assert [one.role for one in again.results[case().id]] == [Role.DEFAULT] * 3
    assert again.results[case(model="schnell").id][0].role is None
    write_baseline(again)
    assert read_baseline(path) == again
    written = result(role=Role.CACHE).to_json()
    assert CaseResult.from_json(json.loads(json.dumps(written)), "") == result(role=Role.CACHE)
    del written["role"]  # as older versions write it
    assert CaseResult.from_json(written, "") == result()
    with pytest.raises(BaselineError, match="fastest"):
        CaseResult.from_json(written | {"role": "fastest"}, "")


def test_a_difference_names_what_came_and_what_went():
    assert difference(AFTER, BEFORE) == "+ sdpa"
    assert difference(("bf16", "sdpa"), BEFORE) == "+ sdpa, − regional"


@pytest.mark.parametrize(
    ("gpu", "models"), [("h100", ["dev", "kontext"]), ("h200", ["dev", "kontext", "schnell"])]
)
def test_the_shipped_baselines_know_the_default_of_each_workload(gpu, models):
    stored = [of_case[0] for of_case in find_baseline(gpu).results.values()]
    found = [(one.case.model, one.role) for one in stored if one.role]
    assert sorted(model for model, role in found if role is Role.DEFAULT) == models
    assert len(found) == len(set(found))


DEFAULTS = {"role": Role.DEFAULT, "canaries": CANARIES}


def test_a_case_is_compared_with_what_was_accepted_last_in_its_role(tmp_path):
    before, after = case(optimizations=BEFORE), case(optimizations=AFTER)
    others = [
        *processes(case=case(optimizations=BEFORE, model="schnell"), **DEFAULTS),
        *processes(case=case(optimizations=("bf16",)), role=Role.EAGER),
        *processes(case=after),  # of an ablation, when it was not the default
    ]
    old = accepted(tmp_path / "b.json", *others, *processes(case=before, **DEFAULTS))
    assert old.counterpart(after, Role.DEFAULT) == before.id
    assert old.counterpart(after, Role.LOSSLESS) == old.counterpart(after, None) == after.id
    new = old.accept(processes(case=after, **DEFAULTS))
    for one in (before, after):  # a default that is taken back is a change, too
        assert new.counterpart(one, Role.DEFAULT) == after.id
    assert [r.role for r in new.results[before.id]] == [None] * 3
    again = new.accept(processes(case=before, **DEFAULTS))
    assert again.counterpart(after, Role.DEFAULT) == before.id
    schnell = case(optimizations=BEFORE, model="schnell")
    assert again.counterpart(schnell, Role.DEFAULT) == schnell.id


@pytest.mark.parametrize(
    ("step_ms", "outcome"),
    [(100.0, Outcome.CHANGED), (90.0, Outcome.CHANGED), (175.0, Outcome.SLOWER)],
)
def test_another_default_is_judged_by_the_clock(step_ms, outcome, tmp_path):
    """Against the default before, in a stored baseline and in another revision."""
    before = {
        "counters": {"launches_in_a_step": 700, "graph_breaks": 0},
        "kernels": {"gemm": ("a",)},
    }
    after = {"counters": {"launches_in_a_step": 900}, "kernels": {"gemm": ("b",)}}
    theirs = processes(**DEFAULTS, case=case(optimizations=BEFORE), **before)
    ours = processes(step_ms, seed=1, case=case(optimizations=AFTER), **DEFAULTS, **after)
    sides = Sides(theirs=tuple(theirs), ours=tuple(ours))
    new_id = ours[0].case.id
    for verdict in (
        accepted(tmp_path / "b.json", *theirs).judge(ours),
        judge_sides({new_id: sides}).verdicts[new_id],
    ):
        assert verdict.outcome is outcome and not verdict.worse_names
        assert verdict.reason.startswith("default: + sdpa; ")
        assert "700 → 900 launches in a step" in verdict.reason
        assert verdict.headline.startswith("default: + sdpa, 700 → 900 launches")
        assert verdict.passes is (outcome is Outcome.CHANGED)


def test_memory_beyond_its_tolerance_fails_another_default_too(tmp_path):
    theirs = processes(**DEFAULTS, case=case(optimizations=BEFORE), peak_memory_gib=25.0)
    ours = processes(case=case(optimizations=AFTER), peak_memory_gib=30.0, **DEFAULTS)
    verdict = accepted(tmp_path / "b.json", *theirs).judge(ours)
    assert verdict.outcome is Outcome.BROKEN and verdict.worse_names == ("peak_memory_gib",)


def test_another_default_joins_no_baseline_by_itself(tmp_path):
    before, after = case(optimizations=BEFORE), case(optimizations=AFTER)
    old = accepted(tmp_path / "b.json", *processes(**DEFAULTS, case=before))
    measured = process(case=after, provenance={"commit": "abc", "dirty": False}, **DEFAULTS)
    found = judge_against_baseline(old, {after.id: measured}, grows=True)
    assert found.verdicts[after.id].step_changes and not found.joining


def test_accepting_another_default_shows_what_it_replaces(tmp_path):
    before, after = case(optimizations=BEFORE), case(optimizations=AFTER)
    old = accepted(tmp_path / "b.json", *processes(**DEFAULTS, case=before))
    new = processes(110.0, case=after, **DEFAULTS)
    (line,) = role_changes(old, new)
    assert line == f"dev, default: + sdpa; before: {before.id}"
    row = next(row for row in history_rows(old, new) if row["figure"] == "step_ms")
    assert row["case"] == after.id and row["change"].startswith("+10.")
    assert not role_changes(old.accept(new), new)


def test_a_report_finds_the_other_side_by_its_role_and_warns_of_a_slow_default(tmp_path):
    before, after = case(optimizations=BEFORE), case(optimizations=AFTER)
    eager = result(1.6, case=case(optimizations=("bf16",)), role=Role.EAGER, compiles=False)
    write_result(tmp_path / "A1", result(2.0, case=before, **DEFAULTS))
    for one in (eager, result(2.1, case=after, **DEFAULTS)):
        write_result(tmp_path / "B1", one)
    report = report_of([tmp_path / "B1"], [tmp_path / "A1"])
    (row,) = (row for row in report.rows if row.case == after)
    assert row.other.case == before and row.before.e2e_s == 2.0
    warning = "dev (synthetic), 2 steps, 1024×1024: default is slower than eager: 1.31×"
    assert report.warnings == [warning] and report_json(report)["warnings"] == [warning]
    assert f"⚠️ **{warning}**" in markdown(report)


def test_a_report_knows_default_and_low_memory_by_their_roles(tmp_path):
    """Neither optimizations nor their order show which of two combinations is the default."""
    default, small = (*BEFORE, "fused_encoder"), (*BEFORE, "streamed_encoder")
    for names, role in ((default, Role.DEFAULT), (small, Role.LOW_MEMORY)):
        write_result(tmp_path / "1", result(case=case(optimizations=names), role=role))
    found = {row.label: row for row in report_of([tmp_path / "1"], []).rows}
    assert set(found) == {"default", "low memory"}
    assert "--matrix memory" in found["low memory"].command
    assert "--matrix full" in found["default"].command


def test_the_lead_of_a_report_names_a_role_once(tmp_path):
    few, many = ({"counters": {"launches_in_a_step": count}} for count in (700, 900))
    for number, one in enumerate(processes(case=case(optimizations=BEFORE), **DEFAULTS, **few)):
        write_result(tmp_path / f"A{number}", one)
    for number, one in enumerate(processes(case=case(optimizations=AFTER), **DEFAULTS, **many)):
        write_result(tmp_path / f"B{number}", one)
    ours, theirs = (sorted(tmp_path.glob(f"{side}*")) for side in "BA")
    (lead,) = report_of(ours, theirs).leads
    assert lead.startswith("dev, default: + sdpa, 700 → 900 launches in a step")


@pytest.mark.parametrize(
    ("role", "speedup", "warning"),
    [
        (Role.DEFAULT, 1 / 1.31, "default is slower than eager: 1.31×"),
        (Role.CACHE, 0.5, "cache is slower than eager: 2.00×"),
        (Role.DEFAULT, 1 / 1.004, None),
        (Role.DEFAULT, None, None),
        (Role.EAGER, 0.9, None),
        (None, 0.5, None),
    ],
)
def test_a_preset_that_is_slower_than_eager_is_named(role, speedup, warning):
    assert why_not_faster(role, speedup) == warning
    planned = SimpleNamespace(case=case(), role=role)
    of_cpu = result(1.0, reference_e2e_s=(speedup or 1.0,) * 3)
    suite = SimpleNamespace(measured={case().id: of_cpu}, sides={}, outcomes={}, hardware=CPU)
    lines = list(printing._warnings(suite, [planned]))
    assert lines == ([f"WARNING: dev: {warning}"] if warning else [])
