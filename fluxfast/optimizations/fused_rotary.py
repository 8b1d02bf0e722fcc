"""RMS norm of queries and keys, rotary embedding and the cast that attention reads, fused."""

from fluxfast.fusion import FUSION_CONFLICTS, FUSION_NEEDS, TRITON, fusion_proof, nvidia_only
from fluxfast.optimization import Axis, Build, Optimization


def apply(build: Build) -> None:
    from fluxfast.fused_blocks import use_kernels

    use_kernels(build, rotary=True)


OPTIMIZATION = Optimization(
    name="fused_rotary",
    axis=Axis.ROTARY,
    summary="QK norm, rotary embedding and cast in one pass",
    apply=apply,
    proof=lambda evidence: fusion_proof(evidence, "qkv_rotary", "fluxfast_qkv_rotary"),
    unsupported=nvidia_only,
    packages=TRITON,
    needs=FUSION_NEEDS,
    conflicts=FUSION_CONFLICTS,
    on_by_default=lambda hardware: True,
    preference=1,
)
