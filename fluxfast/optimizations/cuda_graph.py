"""The whole transformer replayed as one CUDA graph: no launches to wait for within a step.

With a cache, which decides on the host from step to step, the blocks that it may leave out.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from fluxfast.cuda_graph import GraphReplay, graphs_unsupported, replay_proof
from fluxfast.optimization import Axis, Build, Evidence, Optimization, Proof


def apply(build: Build) -> None:
    transformer = build.pipeline.transformer
    if build.plan.choice(Axis.CACHE):
        transformer.replayed = _replay_middle_blocks(build)
    else:
        transformer.forward = transformer.replayed = GraphReplay(transformer.forward)


def _replay_middle_blocks(build: Build) -> GraphReplay:
    """cache-dit's blocks between the first, which it decides by, and the last.

    They exist within a call of the transformer only, hence the method of their class.
    """
    from cache_dit.caching.cache_blocks.pattern_base import CachedBlocks_Pattern_Base as Blocks

    replay = GraphReplay(Blocks.call_Mn_blocks)

    def call_middle_blocks(blocks: Any, *arguments: Any, **keywords: Any) -> Any:
        return replay(blocks, *arguments, **keywords)

    build.undo.enter_context(patch.object(Blocks, "call_Mn_blocks", call_middle_blocks))
    return replay


def proof(evidence: Evidence) -> Proof:
    return replay_proof(evidence.pipeline.transformer.replayed)


OPTIMIZATION = Optimization(
    name="cuda_graph",
    axis=Axis.GRAPH,
    summary="a step, or the blocks that a cache may leave out, replayed as one CUDA graph",
    apply=apply,
    proof=proof,
    unsupported=graphs_unsupported,
    conflicts={
        "compile": "max-autotune has CUDA graphs of its own",
        "export_aoti": "its package is replayed as CUDA graphs already",
    },
    on_by_default=lambda hardware: True,
)
