"""torchao dynamic fp8 with one scale for each tensor."""

from fluxfast.optimization import Axis, Build, Optimization
from fluxfast.quantize import TORCHAO, fp8_proof, fp8_unsupported, quantize_blocks


def apply(build: Build) -> None:
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerTensor

    quantize_blocks(
        build,
        Float8DynamicActivationFloat8WeightConfig(
            granularity=PerTensor(), set_inductor_config=False
        ),
    )


OPTIMIZATION = Optimization(
    name="fp8_per_tensor",
    axis=Axis.QUANTIZATION,
    summary="fp8 linear layers, one scale a tensor",
    apply=apply,
    proof=lambda evidence: fp8_proof(evidence, per_row=False),
    unsupported=fp8_unsupported,
    packages=(TORCHAO,),
    # By row a step is shorter on an H200.
    is_lossy=True,
    on_by_default=lambda hardware: False,
)
