"""FlashAttention-3 in bfloat16."""

from fluxfast.attention import (
    attention_into_operator,
    attention_operator,
    attention_proof,
    use_attention,
)
from fluxfast.flash_attention_3 import (
    FA3_PACKAGES,
    KERNEL,
    flash_attention_3,
    flash_attention_3_into,
    hopper_only,
)
from fluxfast.optimization import Axis, Optimization

fa3 = attention_operator("fa3", flash_attention_3)
fa3_into = attention_into_operator("fa3_into", flash_attention_3_into)

OPTIMIZATION = Optimization(
    name="fa3",
    axis=Axis.ATTENTION,
    summary="FlashAttention-3 in bfloat16",
    apply=lambda build: use_attention(build, fa3, fa3_into),
    proof=lambda evidence: attention_proof(evidence, "fa3", KERNEL),
    unsupported=hopper_only,
    packages=FA3_PACKAGES,
    needs={"bf16": "FlashAttention-3 has no float32 kernels"},
    on_by_default=lambda hardware: hopper_only(hardware) is None,
    preference=1,
)
