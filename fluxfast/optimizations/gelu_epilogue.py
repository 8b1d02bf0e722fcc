"""GELU and its cast to fp8 within the product before it: its input never goes to memory.

In bfloat16, with `rotary_epilogue` and `fa3`, one launch makes a single block's heads and GELU.
"""

from fluxfast.fusion import (
    FUSION_CONFLICTS,
    FUSION_NEEDS,
    TRITON,
    epilogue_conflicts,
    fusion_proof,
    hopper_tiles,
)
from fluxfast.optimization import Axis, Build, Optimization

# In the names of this project's kernels, or of cuBLASLt's.
KERNELS = ("fluxfast_gelu_product", "fluxfast_qkv_product_and_gelu", "gelubias")
INSTEAD = "fused_gelu"


def apply(build: Build) -> None:
    from fluxfast.fused_blocks import expose_reach, use_kernels

    # The attention output of a block is cast by the kernel of fused_gelu.
    use_kernels(build, gelu=True, gelu_epilogue=True)
    if build.plan.choice(Axis.QUANTIZATION) == "fp8_per_row":
        expose_reach(build.pipeline.transformer)


OPTIMIZATION = Optimization(
    name="gelu_epilogue",
    axis=Axis.ACTIVATION,
    summary="GELU and cast in the epilogue of the product before them",
    apply=apply,
    proof=lambda evidence: fusion_proof(evidence, "gelu_product", *KERNELS),
    unsupported=lambda hardware: hopper_tiles(hardware, INSTEAD),
    packages=TRITON,
    needs=FUSION_NEEDS | {"fused_norms": "the scales of what it writes come from there"},
    conflicts=FUSION_CONFLICTS | epilogue_conflicts(INSTEAD),
    on_by_default=lambda hardware: True,
)
