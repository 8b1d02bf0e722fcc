"""T5, CLIP and VAE with the structure of their own initializations, see `profiles`."""

from __future__ import annotations

from typing import Any

from torch import nn

from fluxfast.models.synthetic.layers import Layers
from fluxfast.models.synthetic.values import rescale, store

# T5's output has a mean magnitude of 0.09 and single channels that are much larger (`profiles`).
T5_OUTPUT, T5_OUTPUT_MASSIVE, T5_MASSIVE_SHARE = 0.12, 20.0, 1 / 1024
# T5 initializes its position bias as a matrix, which leaves equal tokens (the padding) nearly equal
# in all positions. A trained bias is of the order of the logits.
T5_POSITION_BIAS = 1.0


def fill_t5(t5: Any, layers: Layers) -> None:
    """Fill a T5EncoderModel as `T5PreTrainedModel._init_weights` does.

    Its attention does not divide the logits by √d_kv, so queries have (d_model · d_kv)^-½.
    """
    config = t5.config
    std = {
        "shared": 1.0,
        "q": (config.d_model * config.d_kv) ** -0.5,
        "k": config.d_model**-0.5,
        "v": config.d_model**-0.5,
        "o": (config.num_heads * config.d_kv) ** -0.5,
        "wi_0": config.d_model**-0.5,
        "wi_1": config.d_model**-0.5,
        "wo": config.d_ff**-0.5,
        "relative_attention_bias": T5_POSITION_BIAS,
    }
    for name, parameter in t5.named_parameters():
        kind = name.split(".")[-2]
        if parameter.ndim > 1:
            layers.matrix(name, parameter, std[kind])
        elif kind == "final_layer_norm":
            layers.norm(name, parameter, T5_OUTPUT)
            count = max(1, round(len(parameter) * T5_MASSIVE_SHARE))
            massive = layers.values.indices(f"{name} massive", len(parameter), count)
            rescale(parameter, massive, T5_OUTPUT_MASSIVE)
        else:
            layers.norm(name, parameter)


def fill_clip(clip: Any, layers: Layers) -> None:
    """Fill a CLIPTextModel as `CLIPPreTrainedModel._init_weights` does, apart from its attention.

    Queries, keys and values are larger by √(2 · depth): with CLIP's own, attention is uniform, and
    another prompt would change the pooled embedding by only 5%.
    """
    config = clip.config
    width, depth = config.hidden_size, config.num_hidden_layers
    std = {
        "token_embedding": 0.02,
        "position_embedding": 0.02,
        **dict.fromkeys(("q_proj", "k_proj", "v_proj"), width**-0.5),
        "out_proj": width**-0.5,
        "fc1": (2 * width) ** -0.5,
        "fc2": (2 * depth * width) ** -0.5,
    }
    for name, parameter in clip.named_parameters():
        kind = name.split(".")[-2]
        if parameter.ndim > 1:
            layers.matrix(name, parameter, std[kind])
        else:
            _vector(name, parameter, layers)


def fill_vae(vae: Any, layers: Layers) -> None:
    """Fill an AutoencoderKL: each layer keeps the mean square of its input."""
    for name, module in vae.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            layers.linear(name, module)
        elif isinstance(module, nn.GroupNorm):
            for part, parameter in module.named_parameters():
                _vector(f"{name}.{part}", parameter, layers)


def _vector(name: str, parameter: Any, layers: Layers) -> None:
    """Fill a bias or the weight of a norm."""
    if name.endswith("bias"):
        values = layers.values.normal(name, parameter.shape)
        store(parameter, values * layers.statistics.bias)
    else:
        layers.norm(name, parameter)
