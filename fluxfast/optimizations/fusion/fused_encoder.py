"""T5 in PyTorch's fused operators, and both text encoders replayed as CUDA graphs.

As transformers runs them, T5's norms, bias and activation are kernels of their own between GEMMs
that take 7 ms in all, and the launches of both encoders take longer than their kernels.
"""

from __future__ import annotations

from fluxfast.errors import FluxFastError
from fluxfast.hardware import Platform
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build, Evidence, Optimization, Proof
from fluxfast.optimizations.graphs._support import replay_proof, why_no_graphs
from fluxfast.optimizations.situation import Situation

# In float16 transformers limits T5's values, which overflow, and keeps some weights in float32.
T5_DTYPES = ("bfloat16", "float32")


def apply(build: Build) -> None:
    """Replace T5's `forward`, and replay CLIP's and T5's as CUDA graphs."""
    from fluxfast.optimizations.fusion._t5 import FusedT5, without_cudnn
    from fluxfast.optimizations.graphs._replay import GraphReplay

    clip, t5 = build.pipeline.text_encoder, build.pipeline.text_encoder_2
    if t5.config.feed_forward_proj != "gated-gelu":
        raise FluxFastError(
            "fused_encoder computes the T5 of Flux only",
            got=f"a T5 with feed_forward_proj={t5.config.feed_forward_proj!r}",
            allowed="feed_forward_proj='gated-gelu' (T5 v1.1)",
            remedy="leave out fused_encoder",
        )
    clip.forward = GraphReplay(without_cudnn(clip.forward))
    t5.forward = GraphReplay(FusedT5(t5))


def why_unsupported_request(situation: Situation) -> str | None:
    """Return why the encoders cannot be replaced, or None."""
    if situation.lacks("text_encoder", "text_encoder_2"):
        return "the pipeline has no text encoders"
    dtype = situation.loaded and situation.loaded.t5_dtype
    if dtype and dtype not in T5_DTYPES:
        return f"T5's weights are {dtype}; its fused operators take {' or '.join(T5_DTYPES)}"
    return None


def proof(evidence: Evidence) -> Proof:
    """Return a proof: active if both encoders were replayed, T5 with the fused operators."""
    from fluxfast.optimizations.fusion._t5 import FusedT5

    pipeline = evidence.pipeline
    if pipeline.text_encoder is None or pipeline.text_encoder_2 is None:
        return Proof(is_active=False, detail="a text encoder was removed from the pipeline")
    forward = pipeline.text_encoder_2.forward
    is_fused = isinstance(getattr(forward, "function", None), FusedT5)
    proofs = [replay_proof(pipeline.text_encoder.forward), replay_proof(forward)]
    return Proof(
        is_active=is_fused and all(proof.is_active for proof in proofs),
        detail=", ".join(("CLIP: " + proofs[0].detail, "T5: " + proofs[1].detail)),
    )


OPTIMIZATION = Optimization(
    name="fused_encoder",
    axis=Axis.ENCODER,
    summary="T5 in PyTorch's fused operators, and both text encoders replayed as CUDA graphs",
    apply=apply,
    proof=proof,
    why_unsupported=why_no_graphs,
    why_unsupported_request=why_unsupported_request,
    on_by_default=lambda hardware: hardware.platform is Platform.CUDA,
)
