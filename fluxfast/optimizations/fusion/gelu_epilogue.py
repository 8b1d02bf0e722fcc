"""GELU and its cast to fp8 in the epilogue of the GEMM before it: its input never goes to memory.

In bfloat16, with `rotary_epilogue` and `fa3`, one launch computes a single block's heads and GELU.
"""

from __future__ import annotations

from fluxfast.optimizations.base import Axis, Build, KernelCategory, NumberFormat
from fluxfast.optimizations.fusion._requirements import epilogue_fusion, kernel_proof, use_kernels


def apply(build: Build) -> None:
    """Switch on both steps: the kernel of fused_gelu casts the attention output of a block."""
    from fluxfast.optimizations.fusion._blocks import expose_amax_bounds

    use_kernels(gelu=True, gelu_epilogue=True)(build)
    if build.plan.number_format(Axis.QUANTIZATION) is NumberFormat.FP8_PER_ROW:
        expose_amax_bounds(build.pipeline.transformer)


OPTIMIZATION = epilogue_fusion(
    name="gelu_epilogue",
    axis=Axis.ACTIVATION,
    summary="GELU and cast in the epilogue of the GEMM before them",
    apply=apply,
    # The names of this project's kernels, or of cuBLASLt's.
    proof=kernel_proof(
        "gelu_product", "fluxfast_gelu_product", "fluxfast_qkv_product_and_gelu", "gelubias"
    ),
    kernels={KernelCategory.GEMM: "gelu_product|qkv_product_and_gelu"},
    alternative="fused_gelu",
    requires={"fused_norms": "its kernel computes the scales of what this one writes"},
)
