"""The modulation vectors of all steps in one pass over their weights, before the first step."""

from __future__ import annotations

from typing import Any

from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build, Evidence, Optimization, Proof


def apply(build: Build) -> None:
    """Fill the blocks' vectors in a forward pre-hook of the transformer."""
    from fluxfast.optimizations.fusion._modulation import ModulationTable

    table = ModulationTable(build.pipeline)
    build.pipeline.transformer.register_forward_pre_hook(table, with_kwargs=True)
    build.on_new_weights.append(table.forget)


def proof(evidence: Evidence) -> Proof:
    """Return a proof: active if a table was computed and every block reads from it."""
    from fluxfast.optimizations.fusion._modulation import ModulationTable

    transformer: Any = evidence.pipeline.transformer
    hooks = transformer._forward_pre_hooks.values()
    tables = sum(hook.tables_computed for hook in hooks if isinstance(hook, ModulationTable))
    unfilled = [b for b in transformer.single_transformer_blocks if b.vectors is None]
    detail = f"{tables} tables computed, {len(unfilled)} blocks without"
    return Proof(is_active=tables > 0 and not unfilled, detail=detail)


WHOLE = "the table is filled outside of the transformer, which it compiles as a whole"

OPTIMIZATION = Optimization(
    name="modulation_table",
    axis=Axis.MODULATION,
    summary="modulation of all steps before the first",
    apply=apply,
    proof=proof,
    requires={"fused_norms": "its blocks take their modulation from outside"},
    conflicts={"compile": WHOLE, "export_aoti": WHOLE},
    on_by_default=lambda hardware: True,
)
