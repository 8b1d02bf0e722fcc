"""torchao dynamic fp8 with a scale for each row of activations and weights."""

from fluxfast.optimization import Axis, Build, Optimization
from fluxfast.quantize import TORCHAO, fp8_proof, fp8_unsupported, has_fp8, quantize_blocks


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
    proof=lambda evidence: fp8_proof(evidence, per_row=True),
    unsupported=fp8_unsupported,
    packages=(TORCHAO,),
    needs={"bf16": "torchao's scale by row takes bfloat16 alone"},
    is_lossy=True,
    on_by_default=has_fp8,
)
