"""The T5 encoder replayed as a CUDA graph: it has hundreds of launches for 9 ms of arithmetic."""

from __future__ import annotations

from fluxfast.cuda_graph import graphs_unsupported, replay_proof
from fluxfast.encoder import replay_encoder
from fluxfast.optimization import Axis, Build, Evidence, Optimization, Proof


def apply(build: Build) -> None:
    replay_encoder(build.pipeline.text_encoder_2)


def proof(evidence: Evidence) -> Proof:
    return replay_proof(evidence.pipeline.text_encoder_2.forward)


OPTIMIZATION = Optimization(
    name="encoder_graph",
    axis=Axis.ENCODER,
    summary="the T5 encoder replayed as one CUDA graph",
    apply=apply,
    proof=proof,
    unsupported=graphs_unsupported,
    # On an H200 it brought nothing that shows.
    on_by_default=lambda hardware: False,
)
