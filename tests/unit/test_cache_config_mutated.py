"""Mutated cache files: each is refused with an error, or the cache works. Nothing else happens."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxfast.errors import FluxFastError
from fluxfast.optimizations.cache_config import RENAMED, read_cache_config
from fluxfast.optimizations.cache_settings import MASK_POLICIES, SETTINGS
from fluxfast.optimizations.caching._limits import why_not_with_blocks, why_not_with_steps

BLOCKS = 6
KEYS = (*SETTINGS, *RENAMED, "enable_separate_cfg", "quantize_config", 3, True, None)
WORDS = (*MASK_POLICIES, "static", "dynamic", "residual", "hidden_states", "DBCache", "1", "")
VALUES = st.one_of(
    st.integers(-2, 9),
    st.sampled_from([0.05, 0.5, 1.0, -0.1, float("nan"), float("inf"), 2**31, 16**5000]),
    st.booleans(),
    st.none(),
    st.sampled_from(WORDS),
    st.lists(st.sampled_from([0, 1]), max_size=12),
    st.sampled_from([[True, 0], [1.0, 0], [[1]], {}, {"n_derivatives": 2}, {"n_derivatives": -1}]),
)
PLAUSIBLE = st.sampled_from(
    [
        ("Fn_compute_blocks", 4),
        ("Bn_compute_blocks", 3),
        ("max_warmup_steps", 0),
        ("warmup_interval", 3),
        ("max_cached_steps", 1),
        ("max_continuous_cached_steps", 1),
        ("residual_diff_threshold", 1),
        ("max_accumulated_residual_diff_threshold", 0.5),
        ("enable_taylorseer", True),
        ("taylorseer_cache_type", "hidden_states"),
        ("taylorseer_order", 3),
        ("enable_dmd", True),
        ("enable_foca", True),
        ("calibrator_cache_type", "residual"),
        ("num_inference_steps", 12),
        ("steps_computation_mask", "ultra"),
        ("steps_computation_mask", [0, 1, 0, 1, 0]),
        ("steps_computation_policy", "dynamic"),
    ]
)
FILES = (
    {"Fn_compute_blocks": 1, "max_warmup_steps": 4, "residual_diff_threshold": 0.12},
    {
        "Fn_compute_blocks": 1,
        "steps_computation_mask": [1, 1, 1, 1, 0, 0, 1, 0],
        "steps_computation_policy": "static",
    },
    {
        "cache_type": "DBCache",
        "warmup_steps": 2,
        "max_cached_steps": -1,
        "Fn_compute_blocks": 2,
        "Bn_compute_blocks": 1,
        "enable_taylorseer": True,
        "enable_encoder_taylorseer": True,
        "taylorseer_kwargs": {"n_derivatives": 2},
    },
    {"Fn_compute_blocks": 1, "num_inference_steps": 28, "steps_computation_mask": "fast"},
    {
        "Fn_compute_blocks": 1,
        "steps_computation_mask": [1, 0, 1, 0, 1, 0, 1, 0, 1, 0],
        "steps_computation_policy": "static",
        "enable_dmd": True,
    },
    {
        "Fn_compute_blocks": 1,
        "steps_computation_mask": [1, 1, 0, 0, 1, 0],
        "steps_computation_policy": "static",
        "enable_foca": True,
    },
)


class Dumper(yaml.SafeDumper):
    """Writes integers in hexadecimal: Python refuses to write huge ones in decimal."""


Dumper.add_representer(
    int, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:int", hex(value))
)


@st.composite
def mutated_files(draw):
    """Change settings of a valid file, put it into sections, and damage its text."""
    mapping = dict(draw(st.sampled_from(FILES)))
    mapping.update(draw(st.lists(PLAUSIBLE, max_size=3)))
    if draw(st.booleans()):
        mapping[draw(st.sampled_from(KEYS))] = draw(VALUES)
    if draw(st.booleans()):
        others = st.sampled_from([{}, {}, {"parallelism_config": {}}])
        mapping = {"cache_config": mapping, **draw(others)}
    text = yaml.dump(mapping, Dumper=Dumper)
    if draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(st.sampled_from(["", "\n", ": ", "[", "'", "\0", "&a *a", text]))
    return text


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("mutated") / "cache.yaml"


@settings(max_examples=250, derandomize=True, deadline=None, database=None)
@given(text=mutated_files())
def test_a_mutated_file_is_refused_or_works(path, text):
    from fluxfast.optimizations.caching.dbcache import cached_steps
    from tests.support.toy_transformer import cached_pipeline, run

    path.write_text(text)
    try:
        config = read_cache_config(path)
    except FluxFastError:
        return
    mask = config.steps_mask
    steps = len(mask) if isinstance(mask, tuple) else config.num_inference_steps or 10
    if why_not_with_steps(config, steps) or why_not_with_blocks(config, BLOCKS):
        return
    with cached_pipeline(config, steps=steps) as pipeline:
        (values,) = run(pipeline, steps)
        assert values == [BLOCKS]  # each block added its 1, computed or cached
        assert cached_steps(pipeline) > 0
