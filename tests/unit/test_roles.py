"""The role of a case: planned, stored, and compared when the optimizations behind it change."""

import json
from dataclasses import replace

import pytest

from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.baselines.file import read_baseline, write_baseline
from fluxfast.bench.baselines.lookup import find_baseline
from fluxfast.bench.cases.own import planned_own_cases
from fluxfast.bench.cases.planned import planned_cases
from fluxfast.bench.cases.role import Role, difference
from fluxfast.bench.results.result import CaseResult
from fluxfast.errors import BaselineError
from tests.support.machines import CPU, H200
from tests.support.processes import processes
from tests.support.results import case, result

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
    in_ablation = [role for role in roles_of("ablation", H200) if role]
    assert sorted(in_ablation) == sorted([Role.EAGER, Role.DEFAULT, Role.CACHE])


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
