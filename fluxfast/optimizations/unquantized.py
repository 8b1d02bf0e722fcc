"""The block layers that a quantization leaves in the dtype of the model, by patterns. No torch.

A fused kernel writes the rows of the next GEMM once, in one dtype, and one launch computes the
query, key and value of text and image. So the layers that read the input of a block stay together:
they are quantized all or none. Every other layer is free.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from fluxfast.errors import FluxFastError
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.registry import check_decided

Groups = tuple[tuple[str, ...], ...]

# Separate and fused (`fused_projections`) names of the layers of a block, by what stays together.
QKV = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_qkv")
TEXT_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_added_qkv")
OF_A_DOUBLE_BLOCK: Groups = (
    (*QKV, *TEXT_QKV),
    ("attn.to_out.0",),
    ("attn.to_add_out",),
    ("ff.net.0.proj",),
    ("ff.net.2",),
    ("ff_context.net.0.proj",),
    ("ff_context.net.2",),
)
OF_A_SINGLE_BLOCK: Groups = ((*QKV, "proj_mlp"), ("proj_out",))


def groups(blocks: tuple[int, int]) -> Iterator[tuple[str, ...]]:
    """Yield the names of the layers of each group, in the order of a step.

    Args:
        blocks: the numbers of double and of single blocks.
    """
    kinds = (
        ("transformer_blocks", OF_A_DOUBLE_BLOCK),
        ("single_transformer_blocks", OF_A_SINGLE_BLOCK),
    )
    for (kind, of_a_block), count in zip(kinds, blocks, strict=True):
        for index in range(count):
            for group in of_a_block:
                yield tuple(f"{kind}.{index}.{name}" for name in group)


def unquantized_layers(patterns: Sequence[str], blocks: tuple[int, int]) -> frozenset[str]:
    """Return the layers that the patterns leave unquantized, by all their names.

    Args:
        patterns: names as in `fnmatch`, such as `transformer_blocks.0.*` or `*.ff.net.2`.
        blocks: the numbers of double and of single blocks.

    Raises:
        FluxFastError: a pattern names no layer that is quantized, or no layer would be left.
    """
    known = list(groups(blocks))
    for pattern in patterns:
        if not any(_matches(group, [pattern]) for group in known):
            raise FluxFastError(
                "a pattern of unquantized layers matches no layer that is quantized",
                got=pattern,
                allowed=f"names of layers, in which * is any text; the blocks are "
                f"transformer_blocks.0 to {blocks[0] - 1} with {_shown(OF_A_DOUBLE_BLOCK)}, and "
                f"single_transformer_blocks.0 to {blocks[1] - 1} with {_shown(OF_A_SINGLE_BLOCK)}",
                remedy="take names that `fluxfast profile --error CASE` lists, or a pattern such "
                "as 'transformer_blocks.0.*' or '*.ff.net.2'",
            )
    found = [group for group in known if _matches(group, patterns)]
    if patterns and len(found) == len(known):
        raise FluxFastError(
            "the patterns leave every layer unquantized",
            got=", ".join(patterns),
            allowed="patterns that leave a layer to quantize",
            remedy="disable the quantization instead",
        )
    return frozenset(name for group in found for name in group)


def _matches(group: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in group)


def _shown(of_a_block: Groups) -> str:
    return ", ".join(name for group in of_a_block for name in group)


def check_quantizes(combinations: Iterable[Sequence[str]], unquantized: frozenset[str]) -> None:
    """Check that one of the combinations quantizes, where layers are left unquantized.

    Raises:
        PlanError: none does, so that the request has no effect.
    """
    if unquantized:
        problem = "layers are left unquantized, and no optimization quantizes the others"
        check_decided(combinations, Axis.QUANTIZATION, problem, option="unquantized")
