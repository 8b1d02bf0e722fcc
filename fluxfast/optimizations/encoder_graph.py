"""The text encoders replayed as CUDA graphs: hundreds of launches for 9 ms of arithmetic."""

from __future__ import annotations

from fluxfast.cuda_graph import graphs_unsupported
from fluxfast.encoder import encoders_proof, replay_encoders
from fluxfast.optimization import Axis, Build, Evidence, Optimization, Proof


def apply(build: Build) -> None:
    replay_encoders(build.pipeline)


def proof(evidence: Evidence) -> Proof:
    return encoders_proof(evidence.pipeline)


OPTIMIZATION = Optimization(
    name="encoder_graph",
    axis=Axis.ENCODER,
    summary="the text encoders replayed as CUDA graphs",
    apply=apply,
    proof=proof,
    unsupported=graphs_unsupported,
    # On an H200 it brought nothing that shows.
    on_by_default=lambda hardware: False,
)
