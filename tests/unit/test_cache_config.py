"""cache-dit's YAML, nested and flat, and the errors for invalid settings."""

import pytest

from fluxfast.errors import FluxFastError
from fluxfast.optimizations.cache_config import read_cache_config

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
    assert config.taylorseer["taylorseer_order"] == 2
    assert config.steps_mask is None and not config.is_static


def test_the_nested_file_is_read(tmp_path):
    config = read(tmp_path, NESTED)
    assert config.steps_mask == (1, 1, 0, 1) and config.is_static
    assert config.num_inference_steps == 4 and config.taylorseer is None


def test_a_policy_is_a_mask_by_name(tmp_path):
    assert read(tmp_path, "steps_computation_mask: fast").steps_mask == "fast"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Fn_compute_block: 1", "unknown setting"),
        ("Fn_compute_blocks: many", "wrong value"),
        ("Fn_compute_blocks: true", "wrong value"),
        ("steps_computation_mask: [1, 2]", "neither a mask nor a policy"),
        ("steps_computation_mask: quick", "neither a mask nor a policy"),
        ("steps_computation_mask: [[1], [0]]", "neither a mask nor a policy"),
        ("Fn_compute_blocks: null", "wrong value"),
        ("cache_type: DBPrune", "unsupported cache_type"),
        ("- a list", "holds no settings"),
        ("", "holds no settings"),
        ("a: [", "cannot be read"),
    ],
)
def test_an_invalid_setting_is_an_error(tmp_path, text, problem):
    with pytest.raises(FluxFastError, match=problem):
        read(tmp_path, text)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FluxFastError, match="cannot be read"):
        read_cache_config(tmp_path / "none.yaml")
