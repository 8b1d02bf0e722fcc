"""Building, watching, proving and undoing a pipeline."""

import pytest
import torch
from diffusers import FluxPipeline
from torch._inductor import config as inductor

from fluxfast.bench.cases.planned import planned_case, situation_of
from fluxfast.bench.measurement.sampler import time_image
from fluxfast.hardware import detect
from fluxfast.models.weights import resolve
from fluxfast.optimizations.registry import optimizations
from fluxfast.pipeline.build import build
from fluxfast.pipeline.observe import Region, observed
from fluxfast.profiling.evidence import cached_steps, gather_evidence, proofs
from fluxfast.profiling.trace import write_trace

HERE = detect("cpu")
TINY = dict(height=32, width=48, num_inference_steps=2)


def built(names, model="dev", **changes):
    checkpoint = resolve(model, "mini", HERE)
    situation = situation_of(checkpoint, HERE, **{**TINY, **changes})
    return build(checkpoint, planned_case(names, checkpoint, situation).plan)


def draw(names, **changes):
    with built(names, **changes) as pipeline:
        return pipeline.generate(output_type="pt")


def test_what_changes_global_state_is_undone_and_the_next_case_sees_nothing_of_it():
    before_flags, before = inductor.save_config(), draw(())
    class_before = dict(vars(FluxPipeline))
    cached = draw(
        ("fused_projections", "sdpa", "channels_last", "dbcache", "int8"), num_inference_steps=8
    )
    assert cached.isfinite().all()
    with built(("inductor_flags", "regional")):
        assert inductor.coordinate_descent_tuning and not inductor.epilogue_fusion
    assert inductor.save_config() == before_flags
    assert dict(vars(FluxPipeline)) == class_before
    assert torch.equal(draw(()), before)


def test_two_pipelines_open_at_once_do_not_see_each_other():
    with built((), num_inference_steps=8) as eager:
        expected = eager.generate(output_type="pt")
        with built(("fused_projections", "dbcache"), num_inference_steps=8) as cached:
            cached.generate(output_type="pt")
            assert cached_steps(cached) > 0
            assert torch.equal(eager.generate(output_type="pt"), expected)


def test_an_error_on_the_way_undoes_what_was_done(monkeypatch):
    before = inductor.save_config()

    def fail(build):
        raise RuntimeError("no compiler today")

    monkeypatch.setitem(vars(optimizations()["regional"]), "apply", fail)
    with pytest.raises(RuntimeError, match="no compiler today"):
        built(("inductor_flags", "regional"))
    assert inductor.save_config() == before


ALONE = ("bf16", "fused_projections", "sdpa", "channels_last", "dbcache", "int8")


@pytest.mark.parametrize("name", ALONE)
def test_an_optimization_proves_that_it_is_in_force_and_its_absence_is_seen(name, monkeypatch):
    with built((name,), num_inference_steps=8) as pipeline:
        assert proofs(gather_evidence(pipeline))[name].is_active
    monkeypatch.setitem(vars(optimizations()[name]), "apply", lambda build: None)
    if name == "bf16":  # loading does the work there
        monkeypatch.setattr("fluxfast.pipeline.build.load_dtype", lambda plan: torch.float32)
    if name == "dbcache":
        monkeypatch.setattr("fluxfast.pipeline.build.cached_steps", lambda pipeline: 0)
    with built((name,), num_inference_steps=8) as pipeline:
        assert not proofs(gather_evidence(pipeline))[name].is_active


def test_a_compiler_that_compiles_nothing_is_seen(monkeypatch):
    monkeypatch.setitem(vars(optimizations()["regional"]), "apply", lambda build: None)
    with built(("inductor_flags", "regional")) as pipeline:
        inductor.epilogue_fusion = True
        seen = proofs(gather_evidence(pipeline))
    assert not seen["regional"].is_active and not seen["inductor_flags"].is_active


def test_separate_projections_are_dropped_when_they_are_fused():
    with built(("fused_projections",)) as pipeline:
        names = [name for name, _ in pipeline.pipeline.transformer.named_parameters()]
    assert any("to_added_qkv" in n for n in names)
    assert not any(part in n for n in names for part in ("to_q.", "add_k_proj"))


@pytest.mark.parametrize("model", ["schnell", "dev", "kontext"])
def test_a_batch_of_two_is_two_images(model):
    with built(("fused_projections", "sdpa"), model=model, batch_size=2) as pipeline:
        images = pipeline.generate(output_type="pt")
    assert images.shape == (2, 3, 32, 48)
    assert not torch.equal(images[0], images[1])


class Log:
    def __init__(self):
        self.lines = []

    def enter(self, region):
        self.lines.append(f"+{region.value}")

    def exit(self, region):
        self.lines.append(f"-{region.value}")


def test_every_region_of_a_call_is_told_once_and_steps_each():
    log = Log()
    with built(()) as pipeline:
        with observed(pipeline.pipeline, log):
            pipeline.generate()
        kept = [
            name for name in ("encode_prompt", "progress_bar") if name in vars(pipeline.pipeline)
        ]
    steps = ["+denoising_step", "-denoising_step"] * 2
    ends = ["+decoding", "-decoding", "+postprocessing", "+pil_conversion", "-pil_conversion"]
    assert log.lines == ["+prompt_encoding", "-prompt_encoding", *steps, *ends, "-postprocessing"]
    assert not kept


def test_stages_add_up_to_the_image():
    with built((), num_inference_steps=3) as pipeline:
        timing, images = time_image(pipeline)
    stages_ms = timing.encode_ms + timing.prepare_ms + sum(timing.step_ms) + timing.decode_ms
    assert len(timing.step_ms) == 3 and len(images) == 1
    assert 0.8 < (stages_ms + timing.postprocess_ms) / (timing.e2e_s * 1e3) <= 1.001


def test_a_trace_has_the_regions_of_flux_fast(tmp_path):
    path = tmp_path / "deep" / "trace.json"
    with built(()) as pipeline:
        write_trace(pipeline, path)
    text = path.read_text()
    assert all(f'"{region.value}"' in text for region in Region)
    assert list(path.parent.iterdir()) == [path]


def test_kontext_reads_its_image(tmp_path):
    from PIL import Image

    Image.new("RGB", (80, 40), "red").save(tmp_path / "red.png")
    card = draw((), model="kontext")
    red = draw((), model="kontext", image_path=tmp_path / "red.png")
    assert card.shape == red.shape == (1, 3, 32, 48)
    assert not torch.allclose(card, red, atol=1e-3)
