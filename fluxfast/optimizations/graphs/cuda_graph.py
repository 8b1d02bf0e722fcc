"""The whole transformer replayed as one CUDA graph: no kernel-launch overhead within a step.

With a cache, which decides on the host from step to step, the graph holds the blocks that the cache
may skip.
"""

from __future__ import annotations

from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build, Evidence, Optimization, Proof
from fluxfast.optimizations.graphs._support import replay_proof, why_no_graphs


def apply(build: Build) -> None:
    """Replace the transformer's `forward`, or the blocks that a cache may skip, by a replay."""
    from fluxfast.optimizations.graphs._replay import GraphReplay, may_launch_kernels

    transformer = build.pipeline.transformer
    if build.plan.on(Axis.CACHE):
        # cache-dit always computes the first blocks, which decide, and the last ones. The blocks
        # between them, which it may skip, are called by `call_Mn_blocks`.
        cached = transformer.cached_blocks
        cached.call_Mn_blocks = transformer.replayed = GraphReplay(
            cached.call_Mn_blocks, ahead=build.ahead
        )
        if may_launch_kernels():
            from fluxfast.kernels.compile_ahead import CompiledAhead

            cached.call_Fn_blocks = CompiledAhead(cached.call_Fn_blocks)
    else:
        transformer.forward = transformer.replayed = GraphReplay(
            transformer.forward, ahead=build.ahead
        )
    if build.team:
        # NCCL waits for its graphs: a process with one would not leave the process group.
        build.undo.callback(transformer.replayed.forget)


def proof(evidence: Evidence) -> Proof:
    """Return a proof: active if the graph was replayed."""
    return replay_proof(evidence.pipeline.transformer.replayed)


OPTIMIZATION = Optimization(
    name="cuda_graph",
    axis=Axis.GRAPH,
    summary="a step, or the blocks that a cache may skip, replayed as one CUDA graph",
    apply=apply,
    proof=proof,
    why_unsupported=why_no_graphs,
    conflicts={
        "compile": "max-autotune has CUDA graphs of its own",
        "export_aoti": "its package is replayed as CUDA graphs already",
    },
    on_by_default=lambda hardware: True,
)
