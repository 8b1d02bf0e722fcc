"""What the ways to compile share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch

from fluxfast.hardware import Hardware, Platform
from fluxfast.optimization import Evidence, Proof

# Of what else would change the VAE's decoder.
DECODER_CONFLICTS = dict.fromkeys(("compile", "export_aoti"), "it compiles the decoder itself")


def dynamic_shapes(hardware: Hardware) -> bool | None:
    """Dynamic on ROCm, elsewhere PyTorch decides.

    flux-fast found black images on MI300X with AITER unless shapes are dynamic.
    """
    return True if hardware.platform is Platform.ROCM else None


def compile_proof(evidence: Evidence) -> Proof:
    """In force if Dynamo compiled graphs for this pipeline."""
    seen = f"{evidence.compiled_graphs} graphs compiled"
    return Proof(in_force=evidence.compiled_graphs > 0, seen=seen)


def compiled_blocks_proof(evidence: Evidence, blocks: Sequence[torch.nn.Module]) -> Proof:
    """In force if each block calls what was compiled of it, and something was."""
    compiled = sum(block._compiled_call_impl is not None for block in blocks)
    return Proof(
        in_force=compiled == len(blocks) and evidence.compiled_graphs > 0,
        seen=f"{compiled} of {len(blocks)} blocks and {evidence.compiled_graphs} graphs compiled",
    )


@contextmanager
def comparable_compile_time(hardware: Hardware) -> Iterator[None]:
    """On a GPU, where compile time is compared: the compiler has started and finds nothing compiled
    before. On a CPU nothing.
    """
    if not hardware.is_gpu:
        yield
        return
    from torch._inductor.utils import fresh_inductor_cache

    start_compiler(hardware.device)
    with fresh_inductor_cache():
        yield


@cache
def start_compiler(device: str) -> None:
    """Compile something tiny, once: no case should pay for starting workers and drivers."""
    ones = torch.ones(8, 8, device=device)
    torch.compile(lambda x: (x + 1).sum())(ones)
    torch.compiler.reset()
