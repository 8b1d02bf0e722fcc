"""Build a pipeline, observe it, prove its optimizations active, and undo them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from torch._inductor import config as inductor

from fluxfast.bench.cases.planned import planned_case, situation_of
from fluxfast.bench.measurement.stages import time_image
from fluxfast.errors import FluxFastError
from fluxfast.hardware import detect
from fluxfast.models.weights import resolve
from fluxfast.optimizations.registry import optimizations
from fluxfast.pipeline.build import build
from fluxfast.pipeline.observe import Region, observed
from fluxfast.profiling.evidence import cached_steps, gather_evidence, proofs
from fluxfast.profiling.trace import write_trace
from tests.support.pipelines import Log

HERE = detect("cpu")
STEPS = 8  # the fewest in which DBCache skips one
TINY = dict(height=32, width=48, num_inference_steps=STEPS)


def planned(names, model="dev", **changes):
    checkpoint = resolve(model, "mini", HERE)
    return planned_case(names, checkpoint, situation_of(checkpoint, HERE, **{**TINY, **changes}))


def built(names, model="dev", **changes):
    case = planned(names, model, **changes)
    return build(case.checkpoint, case.plan)


def generate(names, **changes):
    with built(names, **changes) as pipeline:
        return pipeline.generate(output_type="pt")


@pytest.fixture(scope="module")
def eager():
    """Yield an eager pipeline that tests share: none of them changes it."""
    with built(()) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def eager_evidence(eager):
    return gather_evidence(eager)


def test_global_settings_are_restored_and_the_next_case_is_unaffected(eager):
    before_flags, before = inductor.save_config(), eager.generate(output_type="pt")
    class_before = dict(vars(FluxPipeline))
    cached = generate(("fused_projections", "sdpa", "channels_last", "dbcache", "int8"))
    assert cached.isfinite().all()
    with built(("inductor_flags", "regional")):
        assert inductor.save_config() == before_flags  # options of this pipeline's code alone
    assert inductor.save_config() == before_flags
    assert dict(vars(FluxPipeline)) == class_before
    assert torch.equal(generate(()), before)


def test_two_open_pipelines_do_not_affect_each_other(eager):
    expected = eager.generate(output_type="pt")
    with built(("fused_projections", "dbcache")) as cached:
        cached.generate(output_type="pt")
        assert cached_steps(cached) > 0
        assert torch.equal(eager.generate(output_type="pt"), expected)


def test_an_error_while_building_restores_global_settings(monkeypatch):
    before = inductor.save_config()

    def fail(build):
        raise RuntimeError("no compiler today")

    monkeypatch.setitem(vars(optimizations()["regional"]), "apply", fail)
    with pytest.raises(RuntimeError, match="no compiler today"):
        built(("inductor_flags", "regional"))
    assert inductor.save_config() == before


ALONE = ("bf16", "fused_projections", "sdpa", "channels_last", "dbcache", "int8")


@pytest.mark.parametrize("name", ALONE)
def test_a_proof_shows_an_optimization_active_and_its_absence(name, eager_evidence):
    with built((name,)) as pipeline:
        assert proofs(gather_evidence(pipeline))[name].is_active
    not_applied = replace(eager_evidence, plan=planned((name,)).plan)
    assert not proofs(not_applied)[name].is_active


def test_a_compiler_that_compiles_nothing_is_not_proved_active(monkeypatch):
    monkeypatch.setitem(vars(optimizations()["regional"]), "apply", lambda build: None)
    with built(("inductor_flags", "regional")) as pipeline:
        found = proofs(gather_evidence(pipeline))
    assert not found["regional"].is_active and not found["inductor_flags"].is_active


def test_fused_projections_drop_the_separate_ones():
    with built(("fused_projections",)) as pipeline:
        names = [name for name, _ in pipeline.pipeline.transformer.named_parameters()]
    assert any("to_added_qkv" in n for n in names)
    assert not any(part in n for n in names for part in ("to_q.", "add_k_proj"))


@pytest.mark.parametrize("model", ["schnell", "dev", "kontext"])
def test_a_batch_of_two_is_two_images(model):
    with built(
        ("fused_projections", "sdpa"), model=model, batch_size=2, num_inference_steps=2
    ) as pipeline:
        images = pipeline.generate(output_type="pt")
    assert images.shape == (2, 3, 32, 48)
    assert not torch.equal(images[0], images[1])


def test_every_region_of_a_call_is_reported_once_and_each_step(eager):
    log = Log()
    with observed(eager.pipeline, log):
        eager.generate()
    kept = [name for name in ("encode_prompt", "progress_bar") if name in vars(eager.pipeline)]
    steps = ["+denoising_step", "-denoising_step"] * STEPS
    ends = ["+decoding", "-decoding", "+postprocessing", "+pil_conversion", "-pil_conversion"]
    assert log.lines == ["+prompt_encoding", "-prompt_encoding", *steps, *ends, "-postprocessing"]
    assert not kept


def test_stages_add_up_to_the_image(eager):
    shares = []
    for _ in range(3):
        timing, images = time_image(eager)
        stages_ms = timing.encode_ms + timing.prepare_ms + sum(timing.step_ms) + timing.decode_ms
        assert len(timing.step_ms) == STEPS and len(images) == 1
        shares.append((stages_ms + timing.postprocess_ms) / (timing.e2e_s * 1e3))
    # A process that waits for a core between two stages belongs to neither.
    assert 0.8 < max(shares) <= 1.001


def test_a_trace_has_the_regions_of_flux_fast(eager, tmp_path):
    path = tmp_path / "deep" / "trace.json"
    write_trace(eager, path)
    text = path.read_text()
    assert all(f'"{region.value}"' in text for region in Region)
    assert list(path.parent.iterdir()) == [path]


def test_a_trace_that_cannot_be_written_leaves_no_file(eager, tmp_path, monkeypatch):
    def fail(profiler, path):
        Path(path).write_text("half")
        raise RuntimeError("no room")

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", fail)
    with pytest.raises(FluxFastError, match="cannot write this file"):
        write_trace(eager, tmp_path / "trace.json.gz")
    assert not list(tmp_path.iterdir())


def test_kontext_reads_its_image(tmp_path):
    from PIL import Image

    Image.new("RGB", (80, 40), "red").save(tmp_path / "red.png")
    with built((), model="kontext") as pipeline:
        scene = pipeline.generate(output_type="pt")
        situation = pipeline.plan.situation
        request = replace(situation.request, image_path=tmp_path / "red.png")
        pipeline.plan = replace(pipeline.plan, situation=replace(situation, request=request))
        red = pipeline.generate(output_type="pt")
    assert scene.shape == red.shape == (1, 3, 32, 48)
    assert not torch.allclose(scene, red, atol=1e-3)
