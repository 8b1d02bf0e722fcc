"""LayerNorm with modulation, the gated residual before it, and the cast to fp8 after it, fused."""

from fluxfast.fusion import FUSION_CONFLICTS, FUSION_NEEDS, TRITON, fusion_proof, nvidia_only
from fluxfast.optimization import Axis, Build, Optimization


def apply(build: Build) -> None:
    from fluxfast.fused_blocks import use_kernels

    use_kernels(build, norms=True)


OPTIMIZATION = Optimization(
    name="fused_norms",
    axis=Axis.NORMS,
    summary="norm, modulation, gated residual and cast in one pass",
    apply=apply,
    proof=lambda evidence: fusion_proof(evidence, "norm_modulate", "fluxfast_residual_norm"),
    unsupported=nvidia_only,
    packages=TRITON,
    needs=FUSION_NEEDS,
    conflicts=FUSION_CONFLICTS,
    on_by_default=lambda hardware: True,
)
