"""The alphas of a LoRA's layers: from its tensors, or from peft's configuration in the header."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fluxfast.errors import FluxFastError
from fluxfast.files.reading import parse_json

HEADER_KEY = "lora_adapter_metadata"  # diffusers' name for peft's configuration


@dataclass(frozen=True, kw_only=True)
class Alphas:
    """Alphas by layer, and what a change is divided by.

    Attributes:
        default: alpha of the layers that no pattern matches; None if alpha is the rank.
        patterns: alphas by regular expressions of the ends of diffusers' layer names.
        is_rank_stabilized: a change is divided by the square root of its rank, not by its rank.
    """

    default: float | None = None
    patterns: Mapping[str, float] = field(default_factory=dict)
    is_rank_stabilized: bool = False

    def scale(self, layer: str, rank: int, alpha: float | None) -> float:
        """Return alpha / rank of a layer; `alpha` is that of the layer's tensors, or None."""
        if alpha is None:
            matching = (a for p, a in self.patterns.items() if re.match(rf"(.*\.)?({p})$", layer))
            alpha = next(matching, self.default)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)


def read_alphas(header: Mapping[str, str], name: str) -> Alphas:
    """Return the alphas of peft's configuration in a file's header, if there is one.

    Raises:
        FluxFastError: the configuration cannot be understood.
    """
    try:
        configuration = parse_json(header.get(HEADER_KEY, "{}")).items()
        own = {key.removeprefix("transformer."): value for key, value in configuration}
        patterns = {
            re.compile(pattern).pattern: _finite(alpha)
            for pattern, alpha in (own.get("alpha_pattern") or {}).items()
        }
        default = None if own.get("lora_alpha") is None else _finite(own["lora_alpha"])
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise FluxFastError(
            f"LoRA {name} has a configuration that cannot be understood",
            got=f"{HEADER_KEY}: {str(error).splitlines()[0]}",
            allowed="peft's configuration: lora_alpha a number, alpha_pattern numbers by layer",
            remedy="export the file again from the trainer",
        ) from error
    stabilized = bool(own.get("use_rslora"))
    return Alphas(default=default, patterns=patterns, is_rank_stabilized=stabilized)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"alpha {value}")
    return number
