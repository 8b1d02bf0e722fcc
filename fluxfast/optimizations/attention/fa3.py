"""FlashAttention-3 in bfloat16."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from fluxfast.optimizations.attention._flash_attention_3 import (
    FA3_PACKAGES,
    KERNEL,
    flash_attention_3,
    flash_attention_3_into,
    hopper_only,
)
from fluxfast.optimizations.attention._operators import (
    attention_proof,
    install,
    register_attention,
    register_attention_into,
)
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Attend, Optimization
from fluxfast.optimizations.facts import KernelCategory

if TYPE_CHECKING:
    from fluxfast.optimizations.attention._processor import AttendInto


@cache
def fa3() -> Attend:
    """Return the operator `fluxfast::fa3`."""
    return register_attention("fa3", flash_attention_3)


@cache
def fa3_into() -> AttendInto:
    """Return the operator `fluxfast::fa3_into`."""
    return register_attention_into("fa3_into", flash_attention_3_into)


OPTIMIZATION = Optimization(
    name="fa3",
    axis=Axis.ATTENTION,
    summary="FlashAttention-3 in bfloat16",
    apply=install(fa3, fa3_into),
    proof=attention_proof("fa3", KERNEL),
    attention=fa3,
    kernels={KernelCategory.ATTENTION: "fluxfast::fa3"},
    why_unsupported=hopper_only,
    packages=FA3_PACKAGES,
    requires={"bf16": "FlashAttention-3 has no float32 kernels"},
    on_by_default=lambda hardware: hopper_only(hardware) is None,
    preference=1,
)
