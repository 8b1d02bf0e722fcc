"""torchao dynamic fp8 with a scale for each row of activations and weights."""

import torch

from fluxfast.optimization import Axis, Build, Optimization
from fluxfast.quantize import TORCHAO, fp8_unsupported, has_fp8, quantization_proof, quantize_blocks


def apply(build: Build) -> None:
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow

    quantize_blocks(
        build,
        Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False),
    )


OPTIMIZATION = Optimization(
    name="fp8_per_row",
    axis=Axis.QUANTIZATION,
    summary="fp8 linear layers, one scale a row",
    apply=apply,
    proof=lambda evidence: quantization_proof(evidence, torch.float8_e4m3fn, per_row=True),
    unsupported=fp8_unsupported,
    packages=(TORCHAO,),
    needs={"bf16": "torchao's scale by row takes bfloat16 alone"},
    on_by_default=has_fp8,
)
