"""Fuse GELU and its cast to fp8 into the epilogue of the GEMM before them.

GELU's input then stays in registers instead of going through device memory. In bfloat16, with
`rotary_epilogue` and `fa3`, one launch computes query, key, value and GELU of a single block.
"""

from __future__ import annotations

from functools import partial

from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build
from fluxfast.optimizations.facts import KernelCategory, NumberFormat
from fluxfast.optimizations.fusion._requirements import epilogue_fusion, kernel_proof, use_kernels


def apply(build: Build) -> None:
    """Enable the epilogue, and fused_gelu's kernel, which casts a block's attention output."""
    from fluxfast.optimizations.fusion._blocks import expose_amax_bounds

    use_kernels(gelu=True, gelu_epilogue=True)(build)
    if build.plan.number_format(Axis.QUANTIZATION) is NumberFormat.FP8_PER_ROW:
        expose = partial(expose_amax_bounds, build.pipeline.transformer)
        expose()
        build.on_new_weights.append(expose)


OPTIMIZATION = epilogue_fusion(
    name="gelu_epilogue",
    axis=Axis.ACTIVATION,
    summary="GELU and cast in the epilogue of the GEMM before them",
    apply=apply,
    # Parts of the names of this project's operators and kernels, and of cuBLASLt's kernel.
    proof=kernel_proof(
        "gelu_product", "fluxfast_gelu_product", "fluxfast_qkv_product_and_gelu", "gelubias"
    ),
    kernels={KernelCategory.GEMM: "gelu_product|qkv_product_and_gelu"},
    alternative="fused_gelu",
    requires={"fused_norms": "its kernel computes the fp8 scales of GELU's output"},
)
