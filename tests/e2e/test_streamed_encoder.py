"""T5 in host memory: the same image bit for bit, nothing left behind, and an exact undo."""

import pytest
import torch

from fluxfast.optimizations.base import Artifacts, Build, Plan
from fluxfast.optimizations.memory import streamed_encoder
from fluxfast.optimizations.memory.streamed_encoder import OPTIMIZATION
from fluxfast.optimizations.presets import preset_names
from fluxfast.profiling.evidence import evidence_of
from tests.support.machines import CPU, H200, situation
from tests.support.pipelines import built


def test_the_image_is_the_same_and_each_block_leaves_the_device(monkeypatch):
    copied, copy = [], streamed_encoder._copied
    monkeypatch.setattr(
        streamed_encoder, "_copied", lambda v, device: copied.append(device) or copy(v, device)
    )
    with built() as eager:
        pipeline, before = eager.pipeline, eager.generate("latent")
        t5 = pipeline.text_encoder_2
        weights = {name: value.clone() for name, value in t5.state_dict().items()}
        on_device = {value.data_ptr() for value in t5.encoder.block.parameters()}
        plan = Plan(optimizations=(OPTIMIZATION,), situation=eager.plan.situation)
        build = Build(pipeline=pipeline, plan=plan, artifacts=Artifacts(folder=None))
        OPTIMIZATION.apply(build)
        at_rest = {value.data_ptr() for value in t5.encoder.block.parameters()}
        assert not at_rest & on_device

        evidence = evidence_of(pipeline, plan, lambda: eager.generate("latent"))
        assert OPTIMIZATION.proof(evidence).is_active
        assert copied == [pipeline.device] * len(at_rest)
        assert {value.data_ptr() for value in t5.encoder.block.parameters()} == at_rest
        assert torch.equal(eager.generate("latent"), before)

        build.undo.close()
        assert all(torch.equal(value, weights[name]) for name, value in t5.state_dict().items())
        assert not any(b._forward_hooks or b._forward_pre_hooks for b in t5.encoder.block)
        copied.clear()
        assert torch.equal(eager.generate("latent"), before) and not copied


def test_a_block_that_fails_leaves_the_device():
    block = torch.nn.Linear(2, 2)
    weights = streamed_encoder.Streamed(block, torch.device("cpu"))
    block.register_forward_pre_hook(weights.fetch)
    block.register_forward_hook(weights.release, always_call=True)
    with pytest.raises(RuntimeError, match="shapes"):
        block(torch.ones(3))
    assert all(weight.data_ptr() == values.data_ptr() for weight, values in weights.weights)


def test_the_preset_replaces_the_fused_encoder():
    default, small = (preset_names(p, situation(H200)) for p in ("default", "low_memory"))
    assert set(default) - set(small) == {"fused_encoder"}
    assert set(small) - set(default) == {"streamed_encoder"}
    assert preset_names("low_memory", situation(CPU)) == preset_names("default", situation(CPU))
