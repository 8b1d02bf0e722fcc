"""Code that the compilers share: dynamic shapes, proofs, the start of the compiler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from fluxfast.hardware import Hardware, Platform
from fluxfast.optimizations.base import Evidence, Proof

if TYPE_CHECKING:
    from torch import nn

# For other optimizations that change the VAE's decoder.
DECODER_CONFLICTS = dict.fromkeys(("compile", "export_aoti"), "it compiles the decoder itself")


def dynamic_shapes(hardware: Hardware) -> bool | None:
    """Return torch.compile's `dynamic`: True on ROCm, elsewhere None (PyTorch decides).

    flux-fast found black images on MI300X with AITER unless shapes are dynamic.
    """
    return True if hardware.platform is Platform.ROCM else None


def keep_options(modules: Iterable[nn.Module], options: Mapping[str, Any]) -> None:
    """Store on compiled modules the Inductor options of their code.

    `torch.compile` itself does not report the options of code that is compiled as one graph.
    """
    for module in modules:
        module.__dict__["compiled_with"] = dict(options)


def compiled_with(transformer: Any) -> list[dict[str, Any]]:
    """Return the Inductor options of the transformer's compiled parts, or of its package."""
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    compiled = [module for module in (transformer, *blocks) if module._compiled_call_impl]
    package = transformer.__dict__.get("forward")
    package = getattr(package, "function", package)  # replayed as a CUDA graph
    found = [package.options] if hasattr(package, "options") else []
    return found + [vars(module)["compiled_with"] for module in compiled]


def compile_proof(evidence: Evidence) -> Proof:
    """Return a proof: active if Dynamo compiled graphs for this pipeline."""
    detail = f"{evidence.compiled_graphs} graphs compiled"
    return Proof(is_active=evidence.compiled_graphs > 0, detail=detail)


def compiled_blocks_proof(evidence: Evidence, blocks: Sequence[nn.Module]) -> Proof:
    """Return a proof: active if each block calls its compiled code, and graphs were compiled."""
    compiled = sum(block._compiled_call_impl is not None for block in blocks)
    return Proof(
        is_active=compiled == len(blocks) and evidence.compiled_graphs > 0,
        detail=f"{compiled} of {len(blocks)} blocks and {evidence.compiled_graphs} graphs compiled",
    )


@cache
def start_compiler(device: str) -> None:
    """Compile a small function, once: no case should pay for starting workers and drivers."""
    import torch

    ones = torch.ones(8, 8, device=device)
    torch.compile(lambda x: (x + 1).sum())(ones)
    torch.compiler.reset()
