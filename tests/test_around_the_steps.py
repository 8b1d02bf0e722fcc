"""What is faster outside of the denoising steps, as far as a CPU can tell."""

import functools

import pytest
import torch
from torch.utils import _pytree as pytree

from fluxfast.bench.planned import situation_of
from fluxfast.hardware import detect
from fluxfast.observe import Region, observed
from fluxfast.optimization import Plan, optimizations
from fluxfast.pipeline import build, gather_evidence, proofs
from fluxfast.weights import resolve
from tests.test_pipeline import Log

HERE = detect("cpu")


def built(*names):
    """Not checked: what a CPU has no use for is refused there."""
    checkpoint = resolve("schnell", "mini", HERE)
    situation = situation_of(checkpoint, HERE, height=32, width=16, num_inference_steps=1)
    chosen = tuple(o for o in optimizations().values() if o.name in names)
    return build(checkpoint, Plan(optimizations=chosen, situation=situation))


def test_images_made_on_the_device_are_the_same_bytes():
    log = Log()
    with built() as eager, built("device_images") as pipeline:
        with observed(pipeline.pipeline, log):
            drawn = pipeline.draw()
        assert [i.tobytes() for i in drawn] == [i.tobytes() for i in eager.draw()]
        assert drawn[0].size == (16, 32)
        for kind in ("pt", "np", "latent"):
            assert (pipeline.draw(output_type=kind) == eager.draw(output_type=kind)).all()
        assert proofs(gather_evidence(pipeline))["device_images"].in_force
    assert log.lines.count(f"+{Region.PIL_CONVERSION.value}") == 1


def test_the_compiled_decoder_is_seen(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    with built("compiled_decoder") as pipeline:
        pipeline.draw()
        assert proofs(gather_evidence(pipeline))["compiled_decoder"].in_force
        del pipeline.pipeline.vae.decode
        assert not proofs(gather_evidence(pipeline))["compiled_decoder"].in_force


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
        pipeline.draw(output_type="latent")
    arguments, keywords, out = calls[0]
    values = [v for v in pytree.tree_leaves((arguments, keywords)) if not torch.is_tensor(v)]
    assert all(isinstance(value, bool | None) for value in values)
    copied = pytree.tree_map_only(torch.Tensor, torch.clone, out)
    assert type(copied) is type(out) and torch.equal(copied[0], out[0])
    assert all(torch.is_tensor(leaf) for leaf in pytree.tree_leaves(out) if leaf is not None)
