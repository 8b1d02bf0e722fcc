"""Weights and activations in bfloat16."""

from __future__ import annotations

from fluxfast.hardware import Hardware, Platform
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build, Evidence, Optimization, Proof
from fluxfast.optimizations.memory._memory_format import to_channels_last
from fluxfast.optimizations.situation import Situation


def apply(build: Build) -> None:
    """Set the VAE to channels_last on a CPU; `load_dtype` has loaded the weights in bfloat16.

    oneDNN has bfloat16 convolutions only for AVX-512. PyTorch's own take 13 times as long when they
    are contiguous: a 256×256 image decodes in 25 s instead of 2 s (AMD EPYC, one thread, 2.13.0).
    """
    if not build.situation.hardware.is_gpu and not build.situation.lacks("vae"):
        to_channels_last(build.pipeline.vae)


def proof(evidence: Evidence) -> Proof:
    """Return a proof: active if every parameter of the transformer is bfloat16."""
    import torch

    parameters = list(evidence.pipeline.transformer.parameters())
    wrong = {p.dtype for p in parameters} - {torch.bfloat16}
    detail = f"{len(parameters)} transformer parameters, {wrong or 'all bfloat16'}"
    return Proof(is_active=not wrong, detail=detail)


def why_unsupported(hardware: Hardware) -> str | None:
    """Return why the hardware cannot compute in bfloat16, or None."""
    if hardware.platform is Platform.CUDA and hardware.compute_capability < (8, 0):
        return "requires compute capability 8.0"
    return None


def why_unsupported_request(situation: Situation) -> str | None:
    """Return why a pipeline that the caller has loaded does not compute in bfloat16, or None."""
    loaded = situation.loaded
    if loaded is None or loaded.dtype == "bfloat16":
        return None
    return f"the pipeline was loaded in {loaded.dtype}; load it with dtype=torch.bfloat16"


def slow_to_generate(hardware: Hardware) -> str | None:
    """Return why bfloat16 images are slow to generate on this hardware, or None."""
    return None if hardware.is_gpu else "bfloat16 is slower than float32 on a CPU without AMX"


OPTIMIZATION = Optimization(
    name="bf16",
    axis=Axis.DTYPE,
    summary="weights and activations in bfloat16",
    apply=apply,
    proof=proof,
    load_dtype="bfloat16",
    is_reference=True,
    why_unsupported=why_unsupported,
    why_unsupported_request=why_unsupported_request,
    slow_to_generate=slow_to_generate,
    # On a CPU float32 is the reference, and bfloat16 is slower without AMX.
    on_by_default=lambda hardware: hardware.is_gpu,
)
