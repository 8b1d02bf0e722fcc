"""What the optimizations of the T5 encoder share: its replay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fluxfast.cuda_graph import GraphReplay


def replay_encoder(encoder: Any) -> None:
    """Replay `encoder` (a T5EncoderModel) as a CUDA graph, told that it has nothing to mask.

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
