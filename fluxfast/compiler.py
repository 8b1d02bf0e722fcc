"""What the ways to compile share."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

import torch

from fluxfast.hardware import Hardware, Platform
from fluxfast.optimization import Evidence, Proof


def dynamic_shapes(hardware: Hardware) -> bool | None:
    """flux-fast found black images on MI300X with AITER unless shapes are dynamic; elsewhere PyTorch decides."""
    return True if hardware.platform is Platform.ROCM else None


def compile_proof(evidence: Evidence) -> Proof:
    """In force if Dynamo compiled graphs for this pipeline."""
    seen = f"{evidence.compiled_graphs} graphs compiled"
    return Proof(in_force=evidence.compiled_graphs > 0, seen=seen)


def empty_compile_cache() -> AbstractContextManager[None]:
    """Within it, inductor and Triton find nothing compiled before."""
    from torch._inductor.utils import fresh_inductor_cache

    return fresh_inductor_cache()


@cache
def start_compiler(device: str) -> None:
    """Compile something tiny, once: starting workers and drivers takes seconds that no case should pay for."""
    ones = torch.ones(8, 8, device=device)
    torch.compile(lambda x: (x + 1).sum())(ones)
    torch.compiler.reset()
