"""The whole transformer replayed as one CUDA graph: no launches to wait for within a step."""

from __future__ import annotations

from fluxfast.cuda_graph import GraphReplay, graphs_unsupported, replay_proof
from fluxfast.optimization import Axis, Build, Evidence, Optimization, Proof


def apply(build: Build) -> None:
    transformer = build.pipeline.transformer
    transformer.forward = GraphReplay(transformer.forward)


def proof(evidence: Evidence) -> Proof:
    return replay_proof(evidence.pipeline.transformer.forward)


OPTIMIZATION = Optimization(
    name="cuda_graph",
    axis=Axis.GRAPH,
    summary="a step replayed as one CUDA graph",
    apply=apply,
    proof=proof,
    unsupported=graphs_unsupported,
    conflicts={
        "dbcache": "a graph cannot decide from step to step what to compute",
        "compile": "max-autotune has CUDA graphs of its own",
        "export_aoti": "its package is replayed as CUDA graphs already",
    },
    on_by_default=lambda hardware: True,
)
