"""The T5 encoder's blocks compiled, and the whole of it replayed as a CUDA graph.

Eager, its norms, its bias and its activation are kernels of their own, between products that take
7 ms in all.
"""

from __future__ import annotations

from fluxfast.compiler import compiled_blocks_proof
from fluxfast.cuda_graph import graphs_unsupported, replay_proof
from fluxfast.encoder import replay_encoder
from fluxfast.optimization import Axis, Build, Evidence, Optimization, Proof


def apply(build: Build) -> None:
    encoder = build.pipeline.text_encoder_2
    for block in encoder.encoder.block:
        block.compile(fullgraph=True)
    replay_encoder(encoder)


def proof(evidence: Evidence) -> Proof:
    encoder = evidence.pipeline.text_encoder_2
    compiled = compiled_blocks_proof(evidence, list(encoder.encoder.block))
    replayed = replay_proof(encoder.forward)
    return Proof(
        in_force=compiled.in_force and replayed.in_force,
        seen=f"{compiled.seen}, {replayed.seen}",
    )


OPTIMIZATION = Optimization(
    name="compiled_encoder",
    axis=Axis.ENCODER,
    summary="the T5 encoder compiled, and replayed as one CUDA graph",
    apply=apply,
    proof=proof,
    unsupported=graphs_unsupported,
    # Until it has been measured on a GPU: its first version did not run there.
    on_by_default=lambda hardware: False,
)
