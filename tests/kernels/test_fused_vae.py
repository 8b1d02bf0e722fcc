"""A VAE with kernels between its convolutions draws and reads what diffusers' does."""

import weakref
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import AttnUpDecoderBlock2D
from diffusers.models.upsampling import Upsample2D
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.support.interpreter import DEVICE

from fluxfast.optimizations.fusion import _vae as fused_vae  # isort: skip
from benchmarks.vae import vae_figures
from fluxfast.errors import FluxFastError
from fluxfast.models.architecture import MINI, PUBLISHED, VAE_COMMON
from fluxfast.optimizations.base import Artifacts, Build
from fluxfast.optimizations.fusion.fused_vae import OPTIMIZATION
from fluxfast.profiling.evidence import gather_evidence, proofs
from tests.support.pipelines import built

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="builds pipelines on the CPU")


def test_a_fused_vae_draws_and_reads_the_same_images():
    with built() as eager, built("fused_vae") as pipeline:
        expected, image = (b.generate(output_type="pt") for b in (eager, pipeline))
        assert (image - expected).abs().max() < 1e-4
        seen = proofs(gather_evidence(pipeline))["fused_vae"]
        assert seen.is_active
        image = torch.randn(2, 3, 16, 32, generator=torch.Generator().manual_seed(1))
        read, expected = (
            b.pipeline.vae.encode(image).latent_dist.mode() for b in (pipeline, eager)
        )
        assert (read - expected).abs().max() < 1e-4 * expected.abs().max()


def test_kernels_are_compiled_ahead_for_the_latents_of_the_request():
    shapes = []
    with built() as pipeline:
        vae, plan = pipeline.pipeline.vae, replace(pipeline.plan, optimizations=(OPTIMIZATION,))
        vae.decoder.register_forward_pre_hook(lambda module, given: shapes.append(given[0].shape))
        build = Build(pipeline=pipeline.pipeline, plan=plan, artifacts=Artifacts(folder=None))
        OPTIMIZATION.apply(build)
        (decode,) = build.ahead
        with torch.no_grad():
            decode()
        pipeline.generate()
    assert shapes[0] == shapes[1] and len(shapes) == 2


def other_resnet(vae):
    vae.decoder.mid_block.resnets[-1].nonlinearity = torch.nn.GELU()


def other_upsampler(vae):
    vae.decoder.up_blocks[0].upsamplers[0].interpolate = False


def other_end(vae):
    vae.decoder.conv_act = torch.nn.GELU()


def other_block(vae):
    vae.decoder.up_blocks[0].__class__ = AttnUpDecoderBlock2D


@pytest.mark.parametrize("change", [other_resnet, other_upsampler, other_end, other_block])
def test_another_vae_is_refused_and_left_as_it_is(change):
    with built() as pipeline:
        vae = pipeline.pipeline.vae
        change(vae)
        kinds = [type(module) for module in vae.modules()]
        with pytest.raises(FluxFastError, match="disable fused_vae"):
            fused_vae.fuse_vae(vae)
        assert [type(module) for module in vae.modules()] == kinds


def unfused_resnet(vae):
    vae.encoder.mid_block.resnets[0].__class__ = ResnetBlock2D


def unfused_upsampler(vae):
    vae.decoder.up_blocks[0].upsamplers[0].__class__ = Upsample2D


def unfused_end(vae):
    vae.decoder.conv_norm_out.__class__ = torch.nn.GroupNorm


def unfused_decoder(vae):
    vae.decoder.__class__ = Decoder


def channels_first(vae):
    vae.to(memory_format=torch.contiguous_format)


@pytest.mark.parametrize(
    "undo",
    [unfused_resnet, unfused_upsampler, unfused_end, unfused_decoder, channels_first],
)
def test_what_is_left_as_it_was_is_seen(undo):
    with built("fused_vae") as pipeline:
        vae = pipeline.pipeline.vae
        assert fused_vae.is_fused(vae)
        undo(vae)
        assert not fused_vae.is_fused(vae)


def test_a_fused_vae_takes_other_weights():
    with built() as eager, built("fused_vae") as pipeline:
        weights = {name: 1.5 * w for name, w in eager.pipeline.vae.state_dict().items()}
        eager.pipeline.vae.load_state_dict(weights)
        pipeline.pipeline.vae.load_state_dict(weights)
        expected, image = (b.generate(output_type="pt") for b in (eager, pipeline))
        assert (image - expected).abs().max() < 1e-4


class HeldMemory(TorchDispatchMode):
    """Bytes of what was made within it and is still referred to."""

    def __init__(self):
        super().__init__()
        self.sizes, self.most = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.sizes:
                self.sizes[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.sizes.pop, storage._cdata)
        self.most = max(self.most, sum(self.sizes.values()))
        return out


def test_no_step_of_decoding_keeps_what_an_earlier_one_read(monkeypatch):
    """What is kept of 1024×1024 pixels decides the peak memory of an image."""
    monkeypatch.setattr(
        "torch.nn.functional.scaled_dot_product_attention", lambda q, *_, **__: torch.empty_like(q)
    )
    with torch.device("meta"):
        vae = AutoencoderKL(**(VAE_COMMON | PUBLISHED.vae)).bfloat16()
        latents = torch.empty(1, 16, 128, 128).bfloat16()
    fused_vae.fuse_vae(vae)
    with torch.no_grad(), HeldMemory() as held:
        vae.decode(latents, return_dict=False)
    step = 512 + 3 * 256  # its input, both convolutions or one and the shortcut, its output
    assert step <= held.most / 2**20 < step + 10


@pytest.mark.further  # a study, and half a minute of Triton's interpreter
def test_its_benchmark_measures_both():
    found = vae_figures(MINI, torch.float32, "cpu", 32, other_sizes=((16, 32),), repeats=1)
    assert set(found) == {"eager", "fused", "fused, 16x32"}
    for name in ("eager", "fused"):
        assert found[name]["error"] < 1e-5 and found[name]["decode_ms"] > 0
