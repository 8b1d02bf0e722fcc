"""The operations between the VAE's convolutions in one-pass kernels, in channels_last."""

from __future__ import annotations

from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build, Evidence, Optimization, Proof
from fluxfast.optimizations.compilation._compiler import DECODER_CONFLICTS
from fluxfast.optimizations.fusion._requirements import TRITON, nvidia_only
from fluxfast.optimizations.memory._memory_format import why_no_vae


def apply(build: Build) -> None:
    """Change the classes of the VAE's blocks."""
    from fluxfast.optimizations.fusion._vae import decode_nothing, fuse_vae

    fuse_vae(build.pipeline.vae)
    build.ahead.append(lambda: decode_nothing(build.pipeline, build.situation.request))


def proof(evidence: Evidence) -> Proof:
    """Return a proof: active if every block of the VAE is fused."""
    from fluxfast.optimizations.fusion._vae import is_fused

    is_active = is_fused(evidence.pipeline.vae)
    detail = "every block is fused" if is_active else "some block is not fused"
    return Proof(is_active=is_active, detail=detail)


OPTIMIZATION = Optimization(
    name="fused_vae",
    axis=Axis.DECODER,
    summary="the VAE's norms, SiLU, biases and residuals in one-pass kernels",
    apply=apply,
    proof=proof,
    why_unsupported=nvidia_only,
    why_unsupported_request=why_no_vae,
    packages=TRITON,
    conflicts=DECODER_CONFLICTS,
    on_by_default=lambda hardware: True,
)
