"""What is faster outside of the denoising steps, as far as a CPU can tell."""

import functools
from types import SimpleNamespace

import pytest
import torch
from diffusers import FluxPipeline
from diffusers.hooks import group_offloading
from diffusers.pipelines.flux import pipeline_flux
from diffusers.utils.torch_utils import get_module_execution_device
from torch.utils import _pytree as pytree
from transformers.utils import import_utils

from fluxfast.bench.cases.planned import situation_of
from fluxfast.bench.measurement.faults import block_twice
from fluxfast.hardware import detect
from fluxfast.models.arguments import input_image
from fluxfast.models.weights import resolve
from fluxfast.optimizations.base import Plan
from fluxfast.optimizations.graphs._replay import GraphReplay
from fluxfast.optimizations.host import known_device
from fluxfast.optimizations.registry import optimizations
from fluxfast.pipeline.build import build
from fluxfast.pipeline.observe import Region, observed
from fluxfast.profiling.evidence import gather_evidence, proofs
from tests.e2e.test_pipeline import Log

HERE = detect("cpu")


def built(*names, model="schnell", num_inference_steps=1):
    """Not checked: what a CPU has no use for is refused there."""
    checkpoint = resolve(model, "mini", HERE)
    steps = num_inference_steps
    situation = situation_of(checkpoint, HERE, height=32, width=16, num_inference_steps=steps)
    chosen = tuple(o for o in optimizations().values() if o.name in names)
    return build(checkpoint, Plan(optimizations=chosen, situation=situation))


def test_images_made_on_the_device_are_the_same_bytes():
    log = Log()
    with built() as eager, built("device_images") as pipeline:
        with observed(pipeline.pipeline, log):
            drawn = pipeline.generate()
        assert [i.tobytes() for i in drawn] == [i.tobytes() for i in eager.generate()]
        assert drawn[0].size == (16, 32)
        for kind in ("pt", "np", "latent"):
            assert (pipeline.generate(output_type=kind) == eager.generate(output_type=kind)).all()
        assert proofs(gather_evidence(pipeline))["device_images"].is_active
    assert log.lines.count(f"+{Region.PIL_CONVERSION.value}") == 1


def test_a_picture_that_is_read_on_the_device_has_the_same_values(monkeypatch):
    picture = input_image(None, 40, 24)
    with built(model="kontext") as eager, built("device_images", model="kontext") as pipeline:
        ours, theirs = (b.pipeline.image_processor for b in (pipeline, eager))
        for asked in (picture, [picture, picture], picture.convert("L"), [picture.convert("RGBA")]):
            for size in ((16, 32), (None, None)):
                read, expected = (p.preprocess(asked, *size) for p in (ours, theirs))
                assert torch.equal(read, expected) and read.dtype is expected.dtype
        monkeypatch.setattr(ours, "pil_to_numpy", lambda images: pytest.fail("read on the host"))
        assert torch.equal(ours.preprocess(picture, 16, 32), theirs.preprocess(picture, 16, 32))
        assert pipeline.generate()[0].tobytes() == eager.generate()[0].tobytes()
        assert proofs(gather_evidence(pipeline))["device_images"].is_active
        monkeypatch.undo()
        del ours.preprocess
        assert not proofs(gather_evidence(pipeline))["device_images"].is_active


def test_the_compiled_decoder_is_seen(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    with built("compiled_decoder") as pipeline:
        pipeline.generate()
        assert proofs(gather_evidence(pipeline))["compiled_decoder"].is_active
        del pipeline.pipeline.vae.decode
        assert not proofs(gather_evidence(pipeline))["compiled_decoder"].is_active


@pytest.mark.parametrize("name", ["transformer", "text_encoder_2"])
def test_what_a_graph_replays_has_tensors_alone_for_inputs_and_outputs(name):
    """A replay copies tensors in and out; anything else must be what it was when recorded."""
    with built() as pipeline:
        module, calls = getattr(pipeline.pipeline, name), []
        forward = module.forward

        def watched(*arguments, **keywords):
            out = forward(*arguments, **keywords)
            calls.append((arguments, keywords, out))
            return out

        module.forward = watched
        pipeline.generate(output_type="latent")
    arguments, keywords, out = calls[0]
    values = [v for v in pytree.tree_leaves((arguments, keywords)) if not torch.is_tensor(v)]
    assert all(isinstance(value, bool | None) for value in values)
    copied = pytree.tree_map_only(torch.Tensor, torch.clone, out)
    assert type(copied) is type(out) and torch.equal(copied[0], out[0])
    assert all(torch.is_tensor(leaf) for leaf in pytree.tree_leaves(out) if leaf is not None)


def record_for_a_cpu(replay, arguments, keywords):
    """A stand-in for a CUDA graph: it reads and writes the same memory, and runs Python again."""
    held, named = pytree.tree_map_only(torch.Tensor, torch.clone, (arguments, keywords))
    outputs = replay.function(*held, **named)

    def run_again():
        again = pytree.tree_leaves(replay.function(*held, **named))
        for output, value in zip(pytree.tree_leaves(outputs), again, strict=True):
            output.copy_(value)

    inputs = pytree.tree_leaves((held, named))
    graph = SimpleNamespace(replay=run_again)
    return SimpleNamespace(graph=graph, inputs=inputs, outputs=outputs)


def test_with_a_cache_the_blocks_that_it_may_leave_out_are_replayed(monkeypatch):
    monkeypatch.setattr(GraphReplay, "_record", record_for_a_cpu)
    shape = dict(model="dev", num_inference_steps=12)
    with built("dbcache", **shape) as cached, built("dbcache", "cuda_graph", **shape) as pipeline:
        expected = cached.generate(output_type="pt")
        replayed = pipeline.pipeline.transformer.replayed
        assert not replayed.graphs  # another pipeline's blocks are not its own
        assert torch.equal(pipeline.generate(output_type="pt"), expected)
        evidence = gather_evidence(pipeline)
        assert all(proof.is_active for proof in proofs(evidence).values())
        assert len(replayed.graphs) == 1
        assert replayed.replays == 2 * (12 - evidence.cached_steps)  # of two images


def test_a_block_that_runs_twice_is_not_hidden_by_a_graph(monkeypatch):
    monkeypatch.setattr(GraphReplay, "_record", record_for_a_cpu)
    with built("cuda_graph") as pipeline:
        pipeline.generate()
        before = pipeline.pipeline.transformer.replayed.graphs.copy()
        with block_twice(pipeline.pipeline):
            pipeline.generate()
            changed = pipeline.pipeline.transformer.replayed.graphs.copy()
        pipeline.generate()
        after = pipeline.pipeline.transformer.replayed.graphs
    assert len({id(graph) for graphs in (before, changed, after) for graph in graphs.values()}) == 3


def test_a_compiled_decoder_does_not_stand_for_compiled_blocks(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    regional = optimizations()["regional"]
    with built("compiled_decoder") as pipeline:
        pipeline.generate()
        assert not regional.proof(gather_evidence(pipeline)).is_active
    with built("compiled_decoder", "regional") as pipeline:
        assert regional.proof(gather_evidence(pipeline)).is_active


def test_the_compiled_encoder_says_the_same_and_is_seen(monkeypatch):
    monkeypatch.setattr(GraphReplay, "_record", record_for_a_cpu)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    with built() as eager, built("compiled_encoder") as pipeline:
        image = pipeline.generate(output_type="pt")
        assert (image - eager.generate(output_type="pt")).abs().max() < 1e-4
        assert proofs(gather_evidence(pipeline))["compiled_encoder"].is_active
        encoder = pipeline.pipeline.text_encoder_2.encoder
        encoder.block[1]._compiled_call_impl = None
        assert not proofs(gather_evidence(pipeline))["compiled_encoder"].is_active
        bias = encoder.block[0].layer[0].SelfAttention.compute_bias(5, 5)
        assert bias.is_contiguous()


def test_an_encoder_that_is_not_replayed_is_seen(monkeypatch):
    monkeypatch.setattr(GraphReplay, "_record", record_for_a_cpu)
    with built("encoder_graph") as pipeline:
        del pipeline.pipeline.text_encoder.forward
        pipeline.generate()
        assert not proofs(gather_evidence(pipeline))["encoder_graph"].is_active


@pytest.mark.parametrize("name", ["encoder_graph", "compiled_encoder"])
def test_what_is_captured_of_the_encoders_is_what_was_warmed_up(name, monkeypatch):
    """transformers makes a mask while a graph is captured; a compiler may not be called there."""

    def record(replay, arguments, keywords):
        replay.function(*arguments, **keywords)
        with monkeypatch.context() as capture, torch.compiler.set_stance("fail_on_recompile"):
            capture.setattr(import_utils, "is_cuda_stream_capturing", lambda: True)
            return record_for_a_cpu(replay, arguments, keywords)

    monkeypatch.setattr(GraphReplay, "_record", record)
    with built() as eager, built(name, "known_device") as pipeline:
        image = pipeline.generate(output_type="pt")
        assert (image - eager.generate(output_type="pt")).abs().max() < 1e-4
        assert all(proof.is_active for proof in proofs(gather_evidence(pipeline)).values())


def test_a_pipeline_that_is_told_its_device_does_not_look_for_it():
    def no_search(*arguments):
        raise AssertionError("looked for the device")

    with built() as eager, built("known_device") as pipeline, pytest.MonkeyPatch.context() as patch:
        expected = eager.generate(output_type="pt")
        patch.setattr(group_offloading, "_get_group_onload_device", no_search)
        assert torch.equal(pipeline.generate(output_type="pt"), expected)
        with pytest.raises(AssertionError, match="looked for"):
            eager.generate()
    with built() as afterwards:
        assert torch.equal(afterwards.generate(output_type="pt"), expected)
        assert pipeline_flux.get_module_execution_device is get_module_execution_device


def test_a_pipeline_that_is_told_its_device_can_have_a_cache():
    with built("known_device", "dbcache", model="dev", num_inference_steps=12) as pipeline:
        pipeline.generate(output_type="latent")
        assert all(proof.is_active for proof in proofs(gather_evidence(pipeline)).values())
    assert not hasattr(FluxPipeline, "_original_call")


def test_what_is_made_beside_the_prompts_is_made_on_the_device():
    class Pipeline:
        def encode_prompt(self):
            return torch.zeros(1).device

    meta = torch.device("meta")
    assert known_device.told(Pipeline, meta)().encode_prompt() == meta
    assert torch.zeros(1).device.type == "cpu"
