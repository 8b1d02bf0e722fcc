"""The whole transformer replayed as one CUDA graph: no launches to wait for within a step.

With a cache, which decides on the host from step to step, the blocks that it may leave out.
"""

from __future__ import annotations

from fluxfast.cuda_graph import GraphReplay, graphs_unsupported, replay_proof
from fluxfast.optimization import Axis, Build, Evidence, Optimization, Proof


def apply(build: Build) -> None:
    transformer = build.pipeline.transformer
    if build.plan.choice(Axis.CACHE):
        # cache-dit's middle blocks: between the first, which it decides by, and the last.
        cached = transformer.cached_blocks
        cached.call_Mn_blocks = transformer.replayed = GraphReplay(cached.call_Mn_blocks)
    else:
        transformer.forward = transformer.replayed = GraphReplay(transformer.forward)


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
