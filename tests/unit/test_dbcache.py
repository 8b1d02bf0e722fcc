"""DBCache on the calls that pipelines make: true CFG, other sizes and step counts, and its undo."""

from types import SimpleNamespace

import pytest
from PIL import Image

from fluxfast.errors import FluxFastError
from fluxfast.optimizations.cache_config import CACHE_PRESETS, cache_config_of
from fluxfast.optimizations.caching.dbcache import OPTIMIZATION, cached_steps
from tests.support.toy_transformer import cached_pipeline, run, toy_pipeline

MASKED = {"Fn_compute_blocks": 1, "steps_computation_policy": "static"}


def calls(pipeline):
    transformer = pipeline.transformer
    return [
        block.calls
        for blocks in (transformer.transformer_blocks, transformer.single_transformer_blocks)
        for block in blocks
    ]


def test_both_passes_of_true_cfg_have_a_cache_of_their_own():
    config = cache_config_of({**MASKED, "steps_computation_mask": [1, 0, 1, 0]})
    with cached_pipeline(config, steps=4) as pipeline:
        assert run(pipeline, 4, passes=2) == [[6.0], [6.0]]
        assert cached_steps(pipeline) == 2
        assert calls(pipeline) == [8, 4, 4, 4, 4, 4]
        run(pipeline, 4)  # without true CFG again
        assert cached_steps(pipeline) == 2
        assert calls(pipeline) == [12, 6, 6, 6, 6, 6]


def test_each_run_begins_with_an_empty_cache_of_its_own_size_and_steps():
    with cached_pipeline() as pipeline:
        run(pipeline, 8)
        assert cached_steps(pipeline) == 3
        assert run(pipeline, 28, tokens=16) == [[6.0]]
        assert cached_steps(pipeline) == 17
        run(pipeline, 12, tokens=2, begin_index=4)  # image to image: the last 8 of 12 steps
        assert cached_steps(pipeline) == 3


@pytest.mark.parametrize(
    ("calibrator", "mask", "kind"),
    [
        ("taylorseer", [1, 1, 1, 1, 0, 1, 0, 0], "TaylorSeerCalibrator"),
        ("dmd", [1, 1, 1, 1, 0, 1, 0, 0], "DMDCalibrator"),
        ("foca", [1, 1, 0, 0, 1, 0, 0, 0], "FoCaCalibrator"),
    ],
)
def test_each_calibrator_extrapolates_the_cached_steps(calibrator, mask, kind, monkeypatch):
    from cache_dit.caching.cache_contexts import calibrators

    extrapolated, approximate = [], getattr(calibrators, kind).approximate
    monkeypatch.setattr(
        getattr(calibrators, kind),
        "approximate",
        lambda self, name: extrapolated.append(name) or approximate(self, name=name),
    )
    enabled = {f"enable_{calibrator}": True, f"enable_encoder_{calibrator}": False}
    config = cache_config_of({**MASKED, "steps_computation_mask": mask, **enabled})
    with cached_pipeline(config, steps=8) as pipeline:
        assert run(pipeline, 8) == [[6.0]]
        assert cached_steps(pipeline) == len(extrapolated) == mask.count(0)


@pytest.mark.parametrize(("preset", "cached"), [("quality", 13), ("balanced", 17), ("fast", 20)])
def test_a_preset_caches_the_steps_of_its_mask(preset, cached):
    with cached_pipeline(CACHE_PRESETS[preset]) as pipeline:
        assert run(pipeline, 28) == [[6.0]]
        assert cached_steps(pipeline) == cached


def test_another_scheduler_computes_each_step():
    with cached_pipeline() as pipeline:
        run(pipeline, 8)
        other = toy_pipeline()
        other.transformer = pipeline.transformer
        assert run(other, 8) == [[6.0]]
        assert cached_steps(pipeline) == 0


@pytest.mark.parametrize(
    ("settings", "steps", "reason"),
    [
        ({}, 8, "its warm-up computes all of 8 steps"),
        ({**MASKED, "steps_computation_mask": "fast"}, 7, "requires 8 steps or more, not 7"),
        (
            {**MASKED, "steps_computation_mask": [1, 0, 1]},
            4,
            "configured for 3 steps, the request has 4",
        ),
    ],
)
def test_a_call_with_steps_that_the_cache_is_not_for_is_refused(settings, steps, reason):
    config = cache_config_of({"Fn_compute_blocks": 1, **settings})
    for_steps = len(config.steps_mask) if isinstance(config.steps_mask, tuple) else 28
    with cached_pipeline(config, steps=for_steps) as pipeline:
        with pytest.raises(FluxFastError, match=reason):
            run(pipeline, steps)
        run(pipeline, for_steps)
        assert cached_steps(pipeline) > 0


def test_a_controlnet_is_refused():
    with cached_pipeline() as pipeline, pytest.raises(FluxFastError, match="ControlNet"):
        run(pipeline, 8, controlnet_block_samples=[])


def test_undo_leaves_nothing_behind():
    before = set(vars(toy_pipeline().transformer))
    with cached_pipeline() as pipeline:
        run(pipeline, 8)
        cached = calls(pipeline)
    assert set(vars(pipeline.transformer)) == before
    assert not pipeline.transformer._forward_pre_hooks
    run(pipeline, 8)
    assert calls(pipeline) == [count + 8 for count in cached]


def test_the_command_line_reports_the_cached_steps_and_refuses_a_blank_image():
    from fluxfast.cli.finish import finish

    lines = list[str]()
    console = SimpleNamespace(print=lines.append)
    with cached_pipeline() as pipeline:
        run(pipeline, 8)
        plan = SimpleNamespace(on=lambda axis: OPTIMIZATION, optimizations=(OPTIMIZATION,))
        request = SimpleNamespace(num_inference_steps=8)
        built = SimpleNamespace(pipeline=pipeline, plan=plan, request=request)
        with pytest.raises(FluxFastError, match="blank image"):
            finish([Image.new("RGB", (8, 8))], built, console)
    assert lines == ["3 of 8 steps came from the cache"]
