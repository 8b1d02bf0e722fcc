"""A VAE with kernels between its convolutions draws and reads what diffusers' does."""

import pytest
import torch

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


def test_another_vae_is_not_fused():
    with built() as pipeline:
        vae = pipeline.pipeline.vae
        vae.decoder.mid_block.resnets[0].nonlinearity = torch.nn.GELU()
        with pytest.raises(FluxFastError, match="leave fused_vae out"):
            fused_vae.fuse_vae(vae)


def test_its_benchmark_measures_both():
    found = vae_figures(MINI, torch.float32, "cpu", 32, other_sizes=((16, 32),), repeats=1)
    assert set(found) == {"eager", "fused", "fused, 16x32"}
    for name in ("eager", "fused"):
        assert found[name]["error"] < 1e-5 and found[name]["decode_ms"] > 0
