"""Fill the networks of a pipeline with a profile's weights."""

from __future__ import annotations

from typing import Any

import torch

from fluxfast.models.synthetic.encoders import fill_clip, fill_t5, fill_vae
from fluxfast.models.synthetic.layers import Layers
from fluxfast.models.synthetic.profiles import STATISTICS, Profile
from fluxfast.models.synthetic.transformer import fill_transformer
from fluxfast.models.synthetic.values import Values

SEED = 20_240_801
NORMAL_STD = 0.02  # the usual initialization of transformers


@torch.no_grad()
def fill(profile: Profile, *, transformer: Any, vae: Any, clip: Any, t5: Any) -> None:
    """Fill the networks in place, on the device of their parameters."""
    if profile is Profile.NORMAL:
        _fill_normal(transformer, vae, clip, t5)
        return
    device = transformer.x_embedder.weight.device
    fillers = ((fill_transformer, transformer), (fill_vae, vae), (fill_clip, clip), (fill_t5, t5))
    for number, (fill_network, network) in enumerate(fillers):
        values = Values(SEED + number, device)
        fill_network(network, Layers(values=values, statistics=STATISTICS[profile]))


def _fill_normal(*networks: torch.nn.Module) -> None:
    """Fill networks from one generator: matrices from N(0, 0.02²), norms 1, biases 0."""
    generator = torch.Generator(next(networks[0].parameters()).device).manual_seed(SEED)
    for network in networks:
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, NORMAL_STD, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
