"""Attention behind custom operators: registration, installation on a pipeline, and proof.

An operator is one opaque node for compilers and exports. Tensors are (batch, tokens, heads,
head_dim); text tokens come before image tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from fluxfast.optimizations.base import Attend, Build, Evidence, Proof

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fluxfast.optimizations.attention._processor import AttendInto


def register_attention(name: str, function: Attend, out_dtype: torch.dtype | None = None) -> Attend:
    """Register `function` as the operator `fluxfast::name` and return the operator.

    Args:
        name: the operator's name in the namespace `fluxfast`.
        function: takes query, key and value, each (batch, tokens, heads, head_dim), and returns a
            contiguous tensor of the query's shape.
        out_dtype: dtype of the result; None for the query's.
    """
    import torch

    operator = torch.library.custom_op(
        f"fluxfast::{name}",
        function,
        mutates_args=(),
        schema="(Tensor query, Tensor key, Tensor value) -> Tensor",
    )

    @operator.register_fake
    def _(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return query.new_empty(query.shape, dtype=out_dtype or query.dtype)

    return operator


def register_attention_into(name: str, function: AttendInto) -> AttendInto:
    """Register `fluxfast::name`, which writes attention into rows (batch, tokens, ≥ channels).

    A compiled block writes in place as long as nothing else reads the rows before; Inductor would
    copy them first.
    """
    import torch

    operator = torch.library.custom_op(
        f"fluxfast::{name}",
        function,
        mutates_args=("rows",),
        schema="(Tensor query, Tensor key, Tensor value, Tensor(a!) rows) -> ()",
    )
    operator.register_fake(lambda query, key, value, rows: None)
    return operator


def install(
    attention: Callable[[], Attend], into: Callable[[], AttendInto] | None = None
) -> Callable[[Build], None]:
    """Return an `apply` that makes every block of the transformer attend through an operator.

    Args:
        attention: returns the operator.
        into: returns the operator that writes into given rows, if there is one.
    """

    def apply(build: Build) -> None:
        from fluxfast.optimizations.attention._processor import OperatorAttnProcessor

        processor = OperatorAttnProcessor(attention(), into() if into else None)
        build.pipeline.transformer.set_attn_processor(processor)

    return apply


def attention_proof(operator: str, kernel: str) -> Callable[[Evidence], Proof]:
    """Return a proof: active if the operator, or a kernel that matches `kernel`, ran in a step.

    A CUDA graph hides the operator and shows the kernel.
    """

    def proof(evidence: Evidence) -> Proof:
        names = {f"fluxfast::{operator}", f"fluxfast::{operator}_into"}
        found = sorted(names & evidence.operators)
        found += [o for o in sorted(evidence.operators) if re.search(kernel, o)]
        missing = f"no fluxfast::{operator} in a step"
        return Proof(is_active=bool(found), detail=found[0][:100] if found else missing)

    return proof
