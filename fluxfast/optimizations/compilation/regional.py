"""torch.compile of the repeated transformer blocks: two classes are compiled, not 57 blocks.

Hopper does without it: the epilogues of its GEMMs leave nothing between them to fuse, and a step in
a CUDA graph takes as long with it, while the first image waits for the compiler.
"""

from __future__ import annotations

from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build, Evidence, Optimization, Proof
from fluxfast.optimizations.compilation._compiler import (
    compiled_blocks_proof,
    dynamic_shapes,
    keep_options,
)


def apply(build: Build) -> None:
    """Compile the blocks with diffusers' `compile_repeated_blocks`."""
    transformer, options = build.pipeline.transformer, build.compiler_options
    dynamic = dynamic_shapes(build.situation.hardware)
    transformer.compile_repeated_blocks(fullgraph=True, dynamic=dynamic, options=options or None)
    keep_options([*transformer.transformer_blocks, *transformer.single_transformer_blocks], options)


def proof(evidence: Evidence) -> Proof:
    """Return a proof: active if every block calls its compiled code."""
    transformer = evidence.pipeline.transformer
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    return compiled_blocks_proof(evidence, blocks)


OPTIMIZATION = Optimization(
    name="regional",
    axis=Axis.COMPILE,
    summary="torch.compile of the repeated blocks",
    apply=apply,
    proof=proof,
    compiles=True,
    on_by_default=lambda hardware: not hardware.is_hopper,
    used_by=("diffusers",),
)
