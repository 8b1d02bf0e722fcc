"""cache-dit's YAML, nested and flat, and the errors for settings that cannot work."""

from dataclasses import replace
from pathlib import Path

import pytest

from fluxfast.errors import FluxFastError, PlanError
from fluxfast.models.spec import DEV, KONTEXT
from fluxfast.optimizations.cache_config import (
    CACHE_PRESETS,
    cache_config_from,
    cache_config_of,
    read_cache_config,
    steps_from_cache,
)
from fluxfast.optimizations.cache_settings import SETTINGS
from fluxfast.optimizations.caching._limits import steps_mask
from fluxfast.optimizations.registry import plan
from fluxfast.optimizations.situation import LoadedPipeline
from tests.support.machines import CPU, situation

ROOT = Path(__file__).parents[2]
FLUX_FAST = """
cache_type: DBCache
warmup_steps: 0
max_cached_steps: -1
Fn_compute_blocks: 1
Bn_compute_blocks: 0
residual_diff_threshold: 0.12
enable_taylorseer: true
enable_encoder_taylorseer: true
taylorseer_cache_type: residual
taylorseer_kwargs:
  n_derivatives: 2
"""
NESTED = """
cache_config:
  Fn_compute_blocks: 2
  steps_computation_mask: [1, 1, 0, 1]
  steps_computation_policy: static
  num_inference_steps: 4
"""
# An example of cache-dit's user guide.
WITH_A_POLICY = """
cache_config:
  max_warmup_steps: 8
  warmup_interval: 2
  max_cached_steps: -1
  max_continuous_cached_steps: 2
  Fn_compute_blocks: 1
  Bn_compute_blocks: 0
  residual_diff_threshold: 0.12
  enable_taylorseer: true
  taylorseer_order: 1
  num_inference_steps: 28
  steps_computation_mask: fast
"""


def read(tmp_path, text):
    path = tmp_path / "cache.yaml"
    path.write_text(text)
    return read_cache_config(path)


def test_the_flat_file_of_flux_fast_is_read_with_its_older_names(tmp_path):
    config = read(tmp_path, FLUX_FAST)
    assert config.dbcache == {
        "max_warmup_steps": 0,
        "max_cached_steps": -1,
        "Fn_compute_blocks": 1,
        "Bn_compute_blocks": 0,
        "residual_diff_threshold": 0.12,
    }
    assert config.calibrator.name == "taylorseer"
    assert config.calibrator.settings["taylorseer_order"] == 2
    assert config.steps_mask is None and not config.is_static


def test_the_nested_file_is_read(tmp_path):
    config = read(tmp_path, NESTED)
    assert config.steps_mask == (1, 1, 0, 1) and config.is_static
    assert config.num_inference_steps == 4 and config.calibrator is None


def test_a_policy_is_a_mask_by_name(tmp_path):
    config = read(tmp_path, WITH_A_POLICY)
    assert config.steps_mask == "fast" and not config.is_static
    assert plan(["dbcache"], situation(CPU, cache_config=config))


def test_presets_compute_the_fewer_steps_the_faster_they_are_called(tmp_path):
    count = {name: sum(steps_mask(cache_config_from(name), 28)) for name in CACHE_PRESETS}
    assert count == {"quality": 15, "balanced": 11, "fast": 8}
    for model in (DEV, KONTEXT):
        for config in CACHE_PRESETS.values():
            assert plan(["dbcache"], situation(CPU, model, cache_config=config))
    with pytest.raises(FluxFastError, match="quality, balanced, fast, or a YAML file"):
        cache_config_from("fastest")
    with pytest.raises(FluxFastError, match=r"fast\.yaml"):
        cache_config_from("fast.yaml")
    (tmp_path / "settings").write_text(NESTED)
    assert cache_config_from(tmp_path / "settings").is_static


def test_each_calibrator_has_its_own_settings():
    dmd = cache_config_of({"enable_dmd": True, "dmd_history": 5})
    assert dmd.calibrator.name == "dmd" and dmd.calibrator.settings == {
        "enable_encoder_calibrator": True,
        "calibrator_cache_type": "residual",
        "dmd_history": 5,
    }
    foca = cache_config_of({"enable_foca": True, "calibrator_cache_type": "hidden_states"})
    assert foca.calibrator.settings == {
        "enable_encoder_calibrator": False,
        "calibrator_cache_type": "hidden_states",
    }


STATIC = "steps_computation_policy: static\nsteps_computation_mask: "


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Fn_compute_block: 1", "unknown setting"),
        ("enable_separate_cfg: true", "unknown setting"),
        ("1: 2", "unknown setting"),
        ("Fn_compute_blocks: many", "wrong value"),
        ("Fn_compute_blocks: true", "wrong value"),
        ("Fn_compute_blocks: null", "wrong value"),
        ("Fn_compute_blocks: 0", "Fn_compute_blocks has a wrong value"),
        ("Bn_compute_blocks: -1", "wrong value"),
        ("residual_diff_threshold: .nan", "wrong value"),
        ("residual_diff_threshold: .inf", "wrong value"),
        ("residual_diff_threshold: 0", "wrong value"),
        ("residual_diff_threshold: true", "wrong value"),
        ("max_accumulated_residual_diff_threshold: -0.5", "wrong value"),
        ("max_warmup_steps: -1", "wrong value"),
        ("warmup_interval: 0", "wrong value"),
        ("max_cached_steps: 0", "wrong value"),
        ("max_continuous_cached_steps: -2", "wrong value"),
        ("num_inference_steps: 0", "wrong value"),
        ("steps_computation_policy: statc", "wrong value"),
        ("enable_taylorseer: 1", "wrong value"),
        ("enable_taylorseer: true\ntaylorseer_order: 0", "wrong value"),
        ("enable_taylorseer: true\ntaylorseer_cache_type: residuals", "wrong value"),
        ("enable_taylorseer: true\ntaylorseer_kwargs: {order: 1}", "wrong value"),
        ("enable_dmd: true\ndmd_history: 3", "dmd_history has a wrong value"),
        ("enable_dmd: true\ndmd_svd_precision: best", "wrong value"),
        ("enable_prony: true", "unknown setting"),
        ("enable_dmd: true\nenable_foca: true", "a cache has one calibrator"),
        ("dmd_rank: 2", "without effect: enable_dmd is not true"),
        ("enable_encoder_foca: true", "without effect: enable_foca is not true"),
        ("calibrator_cache_type: residual", "without effect: enable_dmd or enable_foca"),
        ("steps_computation_mask: [1, 2]", "wrong value"),
        ("steps_computation_mask: [true, false]", "wrong value"),
        ("steps_computation_mask: [1.0, 0]", "wrong value"),
        ("steps_computation_mask: []", "wrong value"),
        ("steps_computation_mask: quick", "wrong value"),
        ("steps_computation_mask: [[1], [0]]", "wrong value"),
        ("cache_type: DBPrune", "wrong value"),
        ("warmup_steps: 2\nmax_warmup_steps: 4", "a setting is given twice"),
        ("Fn_compute_blocks: 1\nFn_compute_blocks: 2", "'Fn_compute_blocks' is given twice"),
        ("steps_computation_policy: static", "static policy requires steps_computation_mask"),
        (STATIC + "[0, 1, 1, 1]", "does not compute the first step"),
        (STATIC + "[1, 1, 1]", "computes every step"),
        ("steps_computation_mask: [0, 1, 1]", "computes every step"),
        (STATIC + "[1, 0]\nnum_inference_steps: 3", "another length"),
        (STATIC + "[1, 0]\nresidual_diff_threshold: 0.1", "without effect: .*mask alone decides"),
        (STATIC + "[1, 0]\nenable_taylorseer: true", "TaylorSeer has no effect"),
        (STATIC + "[1, 1, 1, 0, 1, 0]\nenable_dmd: true", "DMD has no effect"),
        (STATIC + "[1, 0, 0, 1]\nenable_foca: true", "FoCa has no effect"),
        ("taylorseer_order: 2", "without effect: enable_taylorseer is not true"),
        (
            "enable_taylorseer: false\nenable_encoder_taylorseer: true",
            "without effect: enable_taylorseer is not true",
        ),
        (
            "cache_config: {Fn_compute_blocks: 1}\nquantize_config: {}\nattention_backend: x",
            "sections beside cache_config: quantize_config, attention_backend",
        ),
        ("quantize_config: {}", "unknown setting"),
        ("cache_config: 3", "holds no settings"),
        ("cache_config: {}", "holds no settings"),
        ("- a list", "holds no settings"),
        ("", "holds no settings"),
        ("a: [", "cannot be read"),
        ("a: 2026-99-99", "cannot be read"),
        ('a: !!int ""', "cannot be read"),
        ("a: !!timestamp x", "cannot be read"),
        ("[" * 400, "cannot be read"),
    ],
)
def test_an_invalid_setting_is_an_error(tmp_path, text, problem):
    with pytest.raises(FluxFastError, match=problem):
        read(tmp_path, text)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FluxFastError, match="cannot be read"):
        read_cache_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("settings", "facts", "reason"),
    [
        ({"Fn_compute_blocks": 1}, {"steps": 8}, "its warm-up computes all of 8 steps"),
        ({"max_warmup_steps": 0}, {"steps": 1}, "its warm-up computes all of 1 steps"),
        ({}, {"blocks": 6}, "no block is left to the cache: Fn_compute_blocks 8 .* of 6 blocks"),
        ({"Fn_compute_blocks": 4, "Bn_compute_blocks": 2}, {"blocks": 6}, "no block is left"),
        ({}, {"pipeline": "FluxControlNetPipeline"}, "adds its residuals between blocks"),
    ],
)
def test_a_cache_that_cannot_work_is_refused_before_loading(settings, facts, reason):
    pipeline_class = facts.get("pipeline", "FluxPipeline")
    asked = replace(
        situation(CPU, num_inference_steps=facts.get("steps")),
        cache_config=cache_config_of(settings),
        blocks=facts.get("blocks"),
        loaded=LoadedPipeline(pipeline_class=pipeline_class, dtype="float32"),
    )
    with pytest.raises(PlanError, match=reason):
        plan(["dbcache"], asked)


def test_a_cache_that_never_hit_is_reported():
    assert steps_from_cache(17, 28) == "17 of 28 steps came from the cache"
    assert steps_from_cache(0, 8).startswith("0 of 8 steps came from the cache: no step")


def test_the_reference_describes_each_setting():
    page = (ROOT / "docs/reference/files.md").read_text()
    section = page.partition("## Cache configuration")[2].partition("## ")[0]
    rows = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(SETTINGS)
