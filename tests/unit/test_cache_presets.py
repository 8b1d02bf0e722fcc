"""The preset of a cache's settings: in the matrix, in the case's id, and in all that stores ids."""

import json
import shlex
from dataclasses import replace

import pytest

from fluxfast.bench.baselines.file import read_baseline, write_baseline
from fluxfast.bench.baselines.lookup import find_baseline
from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.matrix import matrix
from fluxfast.bench.cases.planned import planned_cases, planned_from_id
from fluxfast.bench.cases.role import Role
from fluxfast.bench.results.store import read_results, write_result
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.cli.main import main
from fluxfast.errors import BaselineError, FluxFastError
from fluxfast.history.database import append, measurement_of, opened
from fluxfast.history.queries import known_cases
from fluxfast.optimizations.cache_config import CACHE_PRESETS
from fluxfast.pytest_plugin.options import Options
from fluxfast.pytest_plugin.planning import plan_session
from fluxfast.report.ablation import ablation_steps
from fluxfast.report.contents import report_of
from fluxfast.report.effects import effects
from tests.support.collecting import collected
from tests.support.machines import CPU, H200, situation
from tests.support.pages import REPOSITORY
from tests.support.processes import processes
from tests.support.results import CANARIES, case, result

CACHED = ("bf16", "dbcache", "regional")
FAST = case(optimizations=CACHED, cache="fast")


def of_matrix(hardware, model="dev", weights="synthetic"):
    return planned_cases("cache", [model], weights, hardware)[0]


@pytest.mark.parametrize("hardware", [CPU, H200], ids=lambda machine: machine.name)
@pytest.mark.parametrize("model", ["dev", "kontext"])
def test_the_matrix_has_the_cache_as_it_is_and_with_each_preset(hardware, model):
    default, cached, *presets = of_matrix(hardware, model)
    assert [default.role, cached.role] == [Role.DEFAULT, Role.CACHE]
    assert [default.case.cache, cached.case.cache] == [None, None]
    assert [one.case.cache for one in presets] == list(CACHE_PRESETS)
    for one in presets:
        assert one.role is None and one.case.optimizations == cached.case.optimizations
        assert one.case.workload == default.case.workload
        assert one.plan.situation.cache_config == CACHE_PRESETS[one.case.cache]
        assert one.label == f"default + dbcache ({one.case.cache})"
    assert default.plan.situation.cache_config is cached.plan.situation.cache_config is None


def test_a_model_without_a_cache_has_no_case_and_the_reason():
    cases, left_out = planned_cases("cache", ["schnell", "dev"], "synthetic", H200)
    assert {one.case.model for one in cases} == {"dev"}
    (why,) = (one.reason for one in left_out["schnell"] if one.name == "dbcache")
    assert "no steps to reuse" in why
    assert matrix("cache", situation(H200, num_inference_steps=4)) == []


@pytest.mark.parametrize(
    "asked", [{"models": ("schnell",)}, {"models": ("dev",), "num_inference_steps": 4}]
)
def test_a_session_without_a_case_is_refused(asked):
    options = Options(baselines=REPOSITORY / "baselines", weights="mini", **asked)
    with pytest.raises(FluxFastError, match=r"(?s)no case here.*cache of .*such as dev"):
        plan_session(options, CPU, "cache", None)


def test_a_file_of_cases_without_a_case_is_refused(tmp_path):
    file = tmp_path / "cases.yaml"
    file.write_text("cases: [{checkpoint: mini-schnell}]")
    options = Options(baselines=REPOSITORY / "baselines", cases=file, matrix="cache")
    with pytest.raises(FluxFastError, match=r"(?s)no case here.*cases\.yaml"):
        plan_session(options, CPU, "cache", None)


def test_the_preset_is_part_of_the_id_and_the_id_gives_the_case_back():
    for one in of_matrix(H200):
        found = one.case
        assert Case.from_id(found.id) == found == Case.from_json(found.to_json(), "here")
        planned = planned_from_id(found.id, H200)
        assert planned.case == found and planned.label == one.label
        assert planned.plan.situation.cache_config == one.plan.situation.cache_config
        assert ("cache" in found.to_json()) is ("-cache_" in found.id) is (found.cache is not None)
    assert FAST.id == "dev-synthetic-1024x1024-b1-s2-cache_fast-bf16+dbcache+regional"
    shared = case(optimizations=CACHED, cache="fast", gpus=2)
    assert "-s2-g2-cache_fast-bf16" in shared.id and Case.from_id(shared.id) == shared


def test_ids_of_the_shipped_baselines_have_no_preset():
    for gpu in ("h100", "h200"):
        for case_id in find_baseline(gpu).results:
            assert Case.from_id(case_id).id == case_id and Case.from_id(case_id).cache is None


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("cache_fastest-sdpa+dbcache", r"(?s)no such preset.*quality, balanced, fast"),
        ("cache_fast-sdpa", r"(?s)a preset of the cache without one.*dbcache"),
    ],
)
def test_an_id_with_a_preset_that_cannot_be_is_refused(part, message):
    with pytest.raises(FluxFastError, match=message):
        planned_from_id(f"dev-mini-64x64-b1-s28-{part}", CPU)


@pytest.mark.parametrize("cache", ["", "a-b", 1, ["fast"]])
def test_a_preset_of_a_wrong_type_is_refused(cache):
    with pytest.raises(BaselineError, match="the description of a case is wrong"):
        Case.from_json(FAST.to_json() | {"cache": cache}, "here")


def test_results_baselines_and_history_tell_presets_apart(tmp_path):
    cases = [case(optimizations=CACHED, cache=preset) for preset in (None, *CACHE_PRESETS)]
    provenance = {"commit": "abc", "dirty": False, "date": "2026-12-01T02:00:00+00:00"}
    results = [result(2.0 + i, case=one, provenance=provenance) for i, one in enumerate(cases)]
    for one in results:
        write_result(tmp_path / "results", one)
    assert {one.case: one for one in read_results([tmp_path / "results"])} == dict(
        zip(cases, results, strict=True)
    )
    with opened(tmp_path / "history.sqlite3", new=True) as connection:
        append(connection, [measurement_of(one) for one in results])
        assert [of for _, of in known_cases(connection)] == sorted(one.id for one in cases)


def test_a_preset_is_judged_against_itself(tmp_path):
    stored = replace(find_baseline("h200"), results={}, path=tmp_path / "nvidia-h200.json")
    as_it_is = processes(60.0, case=case(optimizations=CACHED), role=Role.CACHE, canaries=CANARIES)
    fast = processes(40.0, case=FAST, canaries=CANARIES)
    write_baseline(stored.accept([*as_it_is, *fast]))
    baseline = read_baseline(tmp_path / "nvidia-h200.json")
    assert baseline.counterpart(FAST, None) == FAST.id
    for step_ms, outcome in ((40.0, Outcome.SAME), (60.0, Outcome.SLOWER)):
        again = processes(step_ms, seed=1, case=FAST, canaries=CANARIES)
        assert baseline.judge(again).outcome is outcome
    other = processes(40.0, case=case(optimizations=CACHED, cache="quality"), canaries=CANARIES)
    assert baseline.judge(other).outcome is Outcome.NEW


def test_a_report_tells_presets_apart(tmp_path):
    default = ("bf16", "regional")
    write_result(tmp_path, result(4.0, case=case(optimizations=default), role=Role.DEFAULT))
    write_result(tmp_path, result(2.0, case=case(optimizations=CACHED), role=Role.CACHE))
    write_result(tmp_path, result(1.0, case=FAST))
    rows = report_of([tmp_path]).rows
    labels = {"default", "default + dbcache", "default + dbcache (fast)"}
    assert {row.label for row in rows} == {step.name for step in ablation_steps(rows)} == labels
    speeds = {effect.name: effect.speed for effect in effects(rows)}
    assert speeds == pytest.approx({"dbcache": 2.0, "dbcache (fast)": 4.0})
    (command,) = (row.command for row in rows if row.case == FAST)
    assert "--matrix cache" in command


@pytest.mark.parametrize("caches", [(None, "fast"), ("fast",), ("quality", "fast")])
def test_a_report_without_the_default_takes_the_cache_as_it_is_for_it(tmp_path, caches):
    for cache in caches:
        write_result(tmp_path, result(case=case(optimizations=CACHED, cache=cache)))
    rows = report_of([tmp_path]).rows
    assert {row.default for row in rows} <= {row.case.combination for row in rows}
    if None in caches:
        assert {row.default for row in rows} == {CACHED}
    assert len(ablation_steps(rows)) == len(caches)


def test_the_command_of_a_report_measures_the_preset_alone(tmp_path, monkeypatch):
    found = of_matrix(CPU, weights="mini")[-1].case
    write_result(tmp_path, result(case=found, hardware=CPU, reference_e2e_s=(3.0, 3.0, 3.0)))
    command = report_of([tmp_path]).rows[0].command
    assert collected(shlex.split(command)[1:], monkeypatch) == (f"test_latency[{found.id}]",)


def test_matrix_and_baseline_show_the_preset(capsys, monkeypatch):
    assert main(["matrix", "--gpu", "h200", "--matrix", "cache", "--model", "dev"]) == 0
    assert "default + dbcache (balanced)" in capsys.readouterr().out
    shown = replace(find_baseline("h200"), results={FAST.id: tuple(processes(case=FAST))})
    monkeypatch.setattr("fluxfast.cli.baseline.find_baseline", lambda gpu: shown)
    assert main(["baseline", "show", "--gpu", "h200"]) == 0
    assert "(fast)" in capsys.readouterr().out
    assert main(["baseline", "show", "--gpu", "h200", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["cache"] == "fast"


def test_images_of_each_preset_are_compared_on_a_cpu(monkeypatch):
    words = ["correctness_tests", "--gpu", "cpu", "--matrix", "cache", "-k", "quality_is_within"]
    names = collected(words, monkeypatch)
    assert all(sum(f"-cache_{preset}-" in name for name in names) == 2 for preset in CACHE_PRESETS)
