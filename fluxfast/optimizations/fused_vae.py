"""What is between the VAE's convolutions in one-pass kernels, and its images channels last."""

from fluxfast.compiler import DECODER_CONFLICTS
from fluxfast.fusion import TRITON, nvidia_only
from fluxfast.optimization import Axis, Build, Evidence, Optimization, Proof


def apply(build: Build) -> None:
    from fluxfast.fused_vae import fuse_vae

    fuse_vae(build.pipeline.vae)


def proof(evidence: Evidence) -> Proof:
    from fluxfast.fused_vae import is_fused

    in_force = is_fused(evidence.pipeline.vae)
    seen = "every block is fused" if in_force else "some block is as it was"
    return Proof(in_force=in_force, seen=seen)


OPTIMIZATION = Optimization(
    name="fused_vae",
    axis=Axis.DECODER,
    summary="the VAE's norms, SiLU, biases and residuals in one-pass kernels",
    apply=apply,
    proof=proof,
    unsupported=nvidia_only,
    packages=TRITON,
    conflicts=DECODER_CONFLICTS,
    on_by_default=lambda hardware: True,
)
