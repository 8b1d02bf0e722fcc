"""What the optimizations of the text encoders share: their replay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fluxfast.cuda_graph import GraphReplay, replay_proof
from fluxfast.optimization import Proof


def replay_encoders(pipeline: Any) -> None:
    """Replay CLIP's and T5's encoders as CUDA graphs."""
    pipeline.text_encoder.forward = GraphReplay(pipeline.text_encoder.forward)
    _replay_t5(pipeline.text_encoder_2)


def encoders_proof(pipeline: Any) -> Proof:
    """In force if both encoders have replayed."""
    proofs = [replay_proof(e.forward) for e in (pipeline.text_encoder, pipeline.text_encoder_2)]
    return Proof(
        in_force=all(proof.in_force for proof in proofs),
        seen=" and ".join(proof.seen for proof in proofs),
    )


def _replay_t5(encoder: Any) -> None:
    """Replay `encoder` (a T5EncoderModel), told that it has nothing to mask.

    Flux masks nothing, and gives no mask. transformers then leaves it out, but makes one while a
    graph is captured (masking_utils, `is_tracing`): what is captured would not be what was warmed
    up, and compiled blocks would be compiled anew within the capture, which is an error.
    """
    forward = encoder.forward

    def unmasked(input_ids: Tensor, **keywords: Any) -> Any:
        length = input_ids.shape[1]
        mask = torch.zeros((1, 1, length, length), dtype=encoder.dtype, device=input_ids.device)
        return forward(input_ids, attention_mask=mask, **keywords)

    encoder.forward = GraphReplay(unmasked)
