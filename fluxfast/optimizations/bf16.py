"""Weights and activations in bfloat16."""

import torch

from fluxfast.hardware import Hardware, Platform
from fluxfast.optimization import Axis, Build, Evidence, Optimization, Proof


def apply(build: Build) -> None:
    """Nothing is left to do: the weights are loaded in bfloat16 where the plan has it."""


def proof(evidence: Evidence) -> Proof:
    parameters = list(evidence.pipeline.transformer.parameters())
    wrong = {p.dtype for p in parameters} - {torch.bfloat16}
    seen = f"{len(parameters)} transformer parameters, {wrong or 'all bfloat16'}"
    return Proof(in_force=not wrong, seen=seen)


def unsupported(hardware: Hardware) -> str | None:
    if hardware.platform is Platform.CUDA and hardware.compute_capability < (8, 0):
        return "needs compute capability 8.0"
    return None


OPTIMIZATION = Optimization(
    name="bf16",
    axis=Axis.DTYPE,
    summary="weights and activations in bfloat16",
    apply=apply,
    proof=proof,
    unsupported=unsupported,
    # On a CPU float32 is the reference, and bfloat16 is slower without AMX.
    on_by_default=lambda hardware: hardware.is_gpu,
)
