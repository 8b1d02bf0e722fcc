"""The keys of a LoRA file: low-rank factors and alphas of layers; every other kind is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from fluxfast.errors import FluxFastError
from fluxfast.models.lora.adapter import listed

FACTOR = re.compile(
    r"^(?P<layer>.+?)\.(?:"
    r"(?P<down>lora_A|lora_down|lora\.down|lora_linear_layer\.down|down)|"
    r"(?:lora_B|lora_up|lora\.up|lora_linear_layer\.up|up))"
    r"(?:\.default)?\.weight$"
)
ALPHA = re.compile(r"^(?P<layer>.+?)(?:\.lora_[AB](?:\.weight)?)?\.alpha$")

WITHOUT = "choose a LoRA without them, or remove these keys from the file"
LOAD_BEFORE = "load it with pipeline.load_lora_weights before optimize(), which merges it"
# What a file may hold apart from low-rank factors: a pattern, its name, and the remedy. diffusers
# drops dora_scale, .diff and T5's layers, so that loading them before optimize() does not help.
REFUSED = (
    (r"dora_scale", "DoRA scales", WITHOUT),
    (r"lora_magnitude_vector", "DoRA magnitudes", LOAD_BEFORE),
    (r"lokr_|hada_|lora_mid|\.oft_|\.glora_", "LyCORIS factors", WITHOUT),
    (r"t5xxl|^lora_te[23]|text_encoder_2", "layers of the T5 text encoder", WITHOUT),
    (r"^lora_te1?_|text_encoder|text_model", "layers of the CLIP text encoder", LOAD_BEFORE),
    (r"(lora_[AB](\.default)?|lora_(down|up))\.bias$", "biases", LOAD_BEFORE),
    (r"(query|key)_norm|norm_(added_)?[qk]\b", "norms of a Flux-Control LoRA", LOAD_BEFORE),
    (r"\.diff(_b)?$", "differences of weights", WITHOUT),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Factors:
    """The tensors of one layer of a file, under the file's own name.

    Attributes:
        down: (rank, in_features).
        up: (out_features, rank).
        alpha: the file's alpha; None without.
    """

    down: Tensor
    up: Tensor
    alpha: float | None


def parse(state_dict: Mapping[str, Tensor], name: str) -> dict[str, Factors]:
    """Return the factors of each layer, by the file's names of the layers.

    Args:
        state_dict: the tensors of the file.
        name: the LoRA's name, for errors.

    Raises:
        FluxFastError: a key is of a kind that cannot be merged, or unknown, or a factor is missing.
    """
    _refuse_other_kinds(state_dict, name)
    parts: dict[str, dict[str, Tensor]] = {"down": {}, "up": {}, "alpha": {}}
    for key, tensor in state_dict.items():
        part, layer = _part_and_layer(key)
        parts[part][layer] = tensor
    downs, ups, alphas = parts.values()
    incomplete = sorted((downs.keys() ^ ups.keys()) | (alphas.keys() - downs.keys()))
    if incomplete or not downs or sum(map(len, parts.values())) < len(state_dict):
        raise FluxFastError(
            f"LoRA {name} is incomplete, or has a layer twice",
            got=listed(incomplete) or f"{len(downs)} layers in {len(state_dict)} keys",
            allowed="one down and one up factor for each layer",
            remedy="download the file again, or export it again from the trainer",
        )
    return {
        layer: Factors(down=down, up=ups[layer], alpha=_alpha(layer, alphas.get(layer), name))
        for layer, down in downs.items()
    }


def _part_and_layer(key: str) -> tuple[str, str]:
    if found := FACTOR.match(key):
        return "down" if found["down"] else "up", found["layer"]
    found = ALPHA.match(key)
    assert found, key
    return "alpha", found["layer"]


def _refuse_other_kinds(keys: Iterable[str], name: str) -> None:
    for pattern, kind, remedy in REFUSED:
        refused = [key for key in keys if re.search(pattern, key)]
        if refused:
            raise FluxFastError(
                f"LoRA {name} holds {kind}, which cannot be merged as low-rank changes",
                got=listed(refused),
                allowed="low-rank factors (and alphas) of the transformer's linear layers",
                remedy=remedy,
            )
    unknown = [key for key in keys if not FACTOR.match(key) and not ALPHA.match(key)]
    if unknown:
        raise FluxFastError(
            f"LoRA {name} holds unknown keys",
            got=listed(unknown),
            allowed="keys such as …lora_A.weight, …lora_B.weight, …lora_down.weight, …alpha",
            remedy=WITHOUT,
        )


def _alpha(layer: str, alpha: Tensor | float | None, name: str) -> float | None:
    if alpha is None:
        return None
    if isinstance(alpha, Tensor) and alpha.numel() != 1:
        got = f"a tensor of shape {tuple(alpha.shape)}"
    elif math.isfinite(alpha):
        return float(alpha)
    else:
        got = str(float(alpha))
    raise FluxFastError(
        f"LoRA {name} has an alpha that is not a finite number",
        got=f"{layer}: {got}",
        allowed="one number for each layer",
        remedy="export the file again from the trainer",
    )
