"""torchao's int8 weights for the layers that compute the blocks' modulation.

They hold 3.2 of dev's 11.9 billion weights and are read once per image, so that they cost memory
and no time: 6.5 GB in bfloat16, 3.2 GB in int8. Activations stay as they are.
"""

from __future__ import annotations

from fluxfast.hardware import Platform
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build, Evidence, Optimization, Proof
from fluxfast.optimizations.precision._torchao import (
    TORCHAO,
    int8_weights,
    int8_weights_proof,
    is_modulation,
    quantize_modulation,
    why_no_memory_to_save,
)

WHOLE = "its weights have not been compiled within the whole transformer yet"


def apply(build: Build) -> None:
    """Quantize the modulation layers."""
    quantize_modulation(build, int8_weights())


def proof(evidence: Evidence) -> Proof:
    """Return a proof: active if every modulation layer holds int8."""
    return int8_weights_proof(evidence.pipeline.transformer, is_modulation, of="modulation layers")


OPTIMIZATION = Optimization(
    name="int8_modulation",
    axis=Axis.MODULATION_QUANTIZATION,
    summary="int8 weights of the modulation layers, one scale per row",
    apply=apply,
    proof=proof,
    why_unsupported=why_no_memory_to_save,
    packages=(TORCHAO,),
    conflicts={"compile": WHOLE, "export_aoti": WHOLE},
    is_lossy=True,
    on_by_default=lambda hardware: hardware.platform is Platform.CUDA,
)
