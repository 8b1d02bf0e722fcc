"""GELU, the concatenation with attention and the cast to fp8, fused."""

from fluxfast.fusion import FUSION_CONFLICTS, FUSION_NEEDS, TRITON, fusion_proof, nvidia_only
from fluxfast.optimization import Axis, Build, Optimization


def apply(build: Build) -> None:
    from fluxfast.fused_blocks import use_kernels

    use_kernels(build, gelu=True)


OPTIMIZATION = Optimization(
    name="fused_gelu",
    axis=Axis.ACTIVATION,
    summary="GELU, concatenation and cast in one pass",
    apply=apply,
    proof=lambda evidence: fusion_proof(evidence, "gelu_join", "fluxfast_gelu_join"),
    unsupported=nvidia_only,
    packages=TRITON,
    needs=FUSION_NEEDS,
    conflicts=FUSION_CONFLICTS,
    on_by_default=lambda hardware: True,
    preference=1,
)
