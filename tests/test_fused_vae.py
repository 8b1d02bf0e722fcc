"""A VAE with kernels between its convolutions draws and reads what diffusers' does."""

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D

from tests.interpreter import DEVICE

from fluxfast import fused_vae  # isort: skip
from benchmarks.vae import vae_figures
from fluxfast.architecture import MINI
from fluxfast.errors import FluxFastError
from fluxfast.pipeline import gather_evidence, proofs
from tests.test_around_the_steps import built

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="builds pipelines on the CPU")


def test_a_fused_vae_draws_and_reads_the_same_images():
    with built() as eager, built("fused_vae") as pipeline:
        expected, drawn = (b.draw(output_type="pt") for b in (eager, pipeline))
        assert (drawn - expected).abs().max() < 1e-4
        seen = proofs(gather_evidence(pipeline))["fused_vae"]
        assert seen.in_force
        image = torch.randn(2, 3, 16, 32, generator=torch.Generator().manual_seed(1))
        read, expected = (
            b.pipeline.vae.encode(image).latent_dist.mode() for b in (pipeline, eager)
        )
        assert (read - expected).abs().max() < 1e-4 * expected.abs().max()


def other_resnet(vae):
    vae.decoder.mid_block.resnets[-1].nonlinearity = torch.nn.GELU()


def other_upsampler(vae):
    vae.decoder.up_blocks[0].upsamplers[0].interpolate = False


def other_end(vae):
    vae.decoder.conv_act = torch.nn.GELU()


@pytest.mark.parametrize("change", [other_resnet, other_upsampler, other_end])
def test_another_vae_is_refused_and_left_as_it_is(change):
    with built() as pipeline:
        vae = pipeline.pipeline.vae
        change(vae)
        kinds = [type(module) for module in vae.modules()]
        with pytest.raises(FluxFastError, match="leave fused_vae out"):
            fused_vae.fuse_vae(vae)
        assert [type(module) for module in vae.modules()] == kinds


def unfused_resnet(vae):
    vae.encoder.mid_block.resnets[0].__class__ = ResnetBlock2D


def unfused_upsampler(vae):
    vae.decoder.up_blocks[0].upsamplers[0].__class__ = Upsample2D


def unfused_end(vae):
    vae.decoder.conv_norm_out.__class__ = torch.nn.GroupNorm


def channels_first(vae):
    vae.to(memory_format=torch.contiguous_format)


@pytest.mark.parametrize("undo", [unfused_resnet, unfused_upsampler, unfused_end, channels_first])
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
        expected, drawn = (b.draw(output_type="pt") for b in (eager, pipeline))
        assert (drawn - expected).abs().max() < 1e-4


def test_its_benchmark_measures_both():
    found = vae_figures(MINI, torch.float32, "cpu", 32, other_sizes=((16, 32),), repeats=1)
    assert set(found) == {"eager", "fused", "fused, 16x32"}
    for name in ("eager", "fused"):
        assert found[name]["error"] < 1e-5 and found[name]["decode_ms"] > 0
