"""Optimizations outside the denoising steps: images, text encoders, graphs, pinned device."""

import functools
from types import SimpleNamespace

import pytest
import torch
from diffusers import FluxPipeline
from diffusers.hooks import group_offloading
from diffusers.pipelines.flux import pipeline_flux
from diffusers.utils.torch_utils import get_module_execution_device
from torch.utils import _pytree as pytree

from fluxfast.bench.measurement.injected_faults import block_twice
from fluxfast.errors import FluxFastError
from fluxfast.hardware import detect
from fluxfast.models.arguments import input_image
from fluxfast.optimizations.base import Artifacts, Build, Plan
from fluxfast.optimizations.fusion._t5 import FusedT5
from fluxfast.optimizations.fusion.fused_encoder import OPTIMIZATION
from fluxfast.optimizations.graphs._replay import GraphReplay
from fluxfast.optimizations.host import known_device
from fluxfast.optimizations.registry import optimizations
from fluxfast.pipeline.observe import Region, observed
from fluxfast.profiling.evidence import gather_evidence, proofs
from tests.support.pipelines import Log, built, load_one_block_of_each_kind

HERE = detect("cpu")


def test_images_converted_on_the_device_have_the_same_bytes():
    log = Log()
    with built() as eager, built("device_images") as pipeline:
        with observed(pipeline.pipeline, log):
            images = pipeline.generate()
        assert [i.tobytes() for i in images] == [i.tobytes() for i in eager.generate()]
        assert images[0].size == (16, 32)
        for kind in ("pt", "np", "latent"):
            assert (pipeline.generate(output_type=kind) == eager.generate(output_type=kind)).all()
        assert proofs(gather_evidence(pipeline))["device_images"].is_active
    assert log.lines.count(f"+{Region.PIL_CONVERSION.value}") == 1


def test_an_input_image_converted_on_the_device_has_the_same_values(monkeypatch):
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


@pytest.mark.parametrize("name", ["transformer", "text_encoder_2"])
def test_replayed_modules_take_and_return_tensors_only(name):
    """A replay copies tensors in and out; every other value is fixed when it is recorded."""
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
    """Stand in for a CUDA graph: run Python again on the same memory."""
    held, named = pytree.tree_map_only(torch.Tensor, torch.clone, (arguments, keywords))
    outputs = replay.function(*held, **named)

    def run_again():
        again = pytree.tree_leaves(replay.function(*held, **named))
        for output, value in zip(pytree.tree_leaves(outputs), again, strict=True):
            output.copy_(value)

    inputs = pytree.tree_leaves((held, named))
    graph = SimpleNamespace(replay=run_again)
    return SimpleNamespace(graph=graph, inputs=inputs, outputs=outputs)


def test_with_a_cache_the_blocks_that_it_may_skip_are_replayed(monkeypatch):
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


def test_a_graph_does_not_hide_a_block_that_runs_twice(monkeypatch):
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


@pytest.mark.compile
def test_a_compiled_decoder_does_not_prove_compiled_blocks(monkeypatch):
    load_one_block_of_each_kind(monkeypatch)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    regional = optimizations()["regional"]
    for names, is_active in (((), False), (("regional",), True)):
        with built(*names) as pipeline:
            vae = pipeline.pipeline.vae
            vae.decode = torch.compile(vae.decode)
            pipeline.generate()
            evidence = gather_evidence(pipeline)
            assert evidence.compiled_graphs and regional.proof(evidence).is_active is is_active


def test_the_fused_encoder_is_proved_active_and_keeps_the_image(monkeypatch):
    monkeypatch.setattr(GraphReplay, "_record", record_for_a_cpu)
    with built() as eager, built("fused_encoder") as pipeline:
        image = pipeline.generate(output_type="pt")
        assert (image - eager.generate(output_type="pt")).abs().max() < 1e-4
        assert proofs(gather_evidence(pipeline))["fused_encoder"].is_active
        t5 = pipeline.pipeline.text_encoder_2
        t5.forward = GraphReplay(type(t5).forward.__get__(t5))
        assert not proofs(gather_evidence(pipeline))["fused_encoder"].is_active


def test_the_fused_t5_has_the_embeddings_of_transformers():
    ids = torch.tensor([[3, 40, 7, 1, 0, 0, 0], [8, 1, 0, 0, 0, 0, 0]])
    with built() as eager:
        t5 = eager.pipeline.text_encoder_2
        # Weights that attention and the position bias matter for.
        bias = t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        bias.data.normal_(generator=torch.Generator().manual_seed(0))
        expected, fused = t5(ids, output_hidden_states=True), FusedT5(t5)
        embeds = fused(ids, output_hidden_states=False)[0]
        assert (embeds - expected[0]).norm() < 1e-5 * expected[0].norm()
        for case in ({"output_hidden_states": True}, {"attention_mask": (ids > 0).long()}):
            theirs = t5(ids, **case)
            assert torch.equal(fused(ids, **case)[0], theirs[0])
        assert len(fused(ids, output_hidden_states=True).hidden_states) == len(t5.encoder.block) + 1


def test_another_t5_than_that_of_flux_is_refused():
    with built() as eager:
        eager.pipeline.text_encoder_2.config.feed_forward_proj = "relu"
        plan = Plan(optimizations=(OPTIMIZATION,), situation=eager.plan.situation)
        with pytest.raises(FluxFastError, match="feed_forward_proj='relu'"):
            OPTIMIZATION.apply(
                Build(pipeline=eager.pipeline, plan=plan, artifacts=Artifacts(folder=None))
            )


@pytest.mark.parametrize("encoder", ["text_encoder", "text_encoder_2"])
def test_an_encoder_that_is_not_replayed_makes_the_proof_fail(encoder, monkeypatch):
    monkeypatch.setattr(GraphReplay, "_record", record_for_a_cpu)
    with built("fused_encoder") as pipeline:
        del getattr(pipeline.pipeline, encoder).forward
        pipeline.generate()
        assert not proofs(gather_evidence(pipeline))["fused_encoder"].is_active


def test_a_pipeline_with_a_pinned_device_does_not_search_for_it():
    def no_search(*arguments):
        raise AssertionError("searched for the device")

    with built() as eager, built("known_device") as pipeline, pytest.MonkeyPatch.context() as patch:
        expected = eager.generate(output_type="pt")
        patch.setattr(group_offloading, "_get_group_onload_device", no_search)
        assert torch.equal(pipeline.generate(output_type="pt"), expected)
        with pytest.raises(AssertionError, match="searched for"):
            eager.generate()
    with built() as afterwards:
        assert torch.equal(afterwards.generate(output_type="pt"), expected)
        assert pipeline_flux.get_module_execution_device is get_module_execution_device


def test_a_pipeline_with_a_pinned_device_can_have_a_cache():
    with built("known_device", "dbcache", model="dev", num_inference_steps=12) as pipeline:
        pipeline.generate(output_type="latent")
        assert all(proof.is_active for proof in proofs(gather_evidence(pipeline)).values())
    assert not hasattr(FluxPipeline, "_original_call")


def test_encode_prompt_creates_tensors_on_the_pinned_device():
    class Pipeline:
        def encode_prompt(self):
            return torch.zeros(1).device

    meta = torch.device("meta")
    assert known_device.pinned(Pipeline, meta)().encode_prompt() == meta
    assert torch.zeros(1).device.type == "cpu"


def test_the_least_recently_used_graph_is_dropped(monkeypatch):
    monkeypatch.setattr(GraphReplay, "_record", record_for_a_cpu)
    double = GraphReplay(lambda x: x * 2, max_graphs=2)
    lengths = [torch.ones(length) for length in (1, 2, 1, 3)]
    assert all(torch.equal(double(x), x * 2) for x in lengths)
    kept = [recorded.inputs[0].shape[0] for recorded in double.graphs.values()]
    assert kept == [1, 3] and double.replays == 4
