"""RMS norm of queries and keys, rotary embedding and the cast within the product before them."""

from fluxfast.fusion import (
    FUSION_CONFLICTS,
    FUSION_NEEDS,
    TRITON,
    epilogue_conflicts,
    fusion_proof,
    hopper_tiles,
)
from fluxfast.optimization import Axis, Build, Optimization

INSTEAD = "fused_rotary"


def apply(build: Build) -> None:
    from fluxfast.fused_blocks import halve_angles, use_kernels

    use_kernels(build, rotary_epilogue=True)
    halve_angles(build.pipeline.transformer)


OPTIMIZATION = Optimization(
    name="rotary_epilogue",
    axis=Axis.ROTARY,
    summary="QK norm, rotary embedding and cast in the epilogue of the product before them",
    apply=apply,
    proof=lambda evidence: fusion_proof(evidence, "qkv_product", "fluxfast_qkv_product"),
    unsupported=lambda hardware: hopper_tiles(hardware, INSTEAD),
    packages=TRITON,
    needs=FUSION_NEEDS
    | {
        "bf16": "its kernel multiplies bfloat16 or fp8",
        "fused_norms": "where it multiplies fp8, the rows come from there",
    },
    conflicts=FUSION_CONFLICTS | epilogue_conflicts(INSTEAD),
    on_by_default=lambda hardware: True,
)
