"""Weights by name: a checkpoint, synthetic values of the published shape, or the mini family."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from fluxfast.errors import FluxFastError
from fluxfast.hardware import Hardware, Platform
from fluxfast.mini.world import DEFAULT_EDIT, DEFAULT_SCENE
from fluxfast.models.architecture import MINI, PUBLISHED, Architecture
from fluxfast.models.configuration import count_blocks, count_heads, read_configuration
from fluxfast.models.hub_cache import is_cached
from fluxfast.models.lora.source import LoraSource
from fluxfast.models.spec import MODELS, ImageRequest, ModelSpec, changed_request, default_request
from fluxfast.models.synthetic.profiles import Profile


class WeightsKind(StrEnum):
    """The kind of weights: a real checkpoint, random values of its shape, or the mini family."""

    HUB = "hub"
    SYNTHETIC = "synthetic"
    SYNTHETIC_OUTLIERS = "synthetic_outliers"
    MINI = "mini"

    @property
    def profile(self) -> Profile | None:
        """The distribution of synthetic weights; None for other weights."""
        synthetic = {
            WeightsKind.SYNTHETIC: Profile.TRAINED,
            WeightsKind.SYNTHETIC_OUTLIERS: Profile.OUTLIERS,
        }
        return synthetic.get(self)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model with its weights, not loaded yet.

    Attributes:
        model: the model.
        kind: the kind of weights.
        location: a hub id, or a folder in diffusers layout.
        why: why these weights were chosen, for people.
        own_blocks: for a checkpoint that is none of the published or mini ones, the numbers of its
            double and of its single transformer blocks.
        own_heads: for such a checkpoint, the number of its attention heads.
        lora: the LoRA that is merged into the transformer, or None.
    """

    model: ModelSpec
    kind: WeightsKind
    location: str
    why: str
    own_blocks: tuple[int, int] | None = None
    own_heads: int | None = None
    lora: LoraSource | None = None

    @property
    def block_counts(self) -> tuple[int, int]:
        """The numbers of double and of single transformer blocks."""
        return self.own_blocks or count_blocks(self.architecture.transformer)

    @property
    def blocks(self) -> int:
        """The number of transformer blocks, double and single ones together."""
        return sum(self.block_counts)

    @property
    def heads(self) -> int:
        """The number of attention heads."""
        return self.own_heads or count_heads(self.architecture.transformer)

    @property
    def is_mini(self) -> bool:
        """Return whether the weights are of the mini family."""
        return self.kind is WeightsKind.MINI

    @property
    def architecture(self) -> Architecture:
        """The shapes of the networks."""
        return MINI if self.is_mini else PUBLISHED

    @property
    def default_side(self) -> int:
        """Height and width of the default image in pixels."""
        return self.architecture.default_side

    @property
    def max_text_tokens(self) -> int:
        """The longest text that the weights take, in T5 tokens."""
        return self.architecture.max_text_tokens

    def request(self, **changes: Any) -> ImageRequest:
        """Return the default request for these weights.

        The prompt of mini weights is a caption of the mini world, because they know nothing else;
        mini-kontext has an instruction and the scene that it edits.

        Args:
            **changes: fields of ImageRequest to change; None is no change.

        Raises:
            FluxFastError: a field is unknown, or its value is not possible.
        """
        defaults = default_request(
            self.model, side=self.default_side, max_text_tokens=self.max_text_tokens
        )
        if self.is_mini and self.model.takes_image:
            defaults = replace(defaults, prompt=DEFAULT_EDIT.instruction, scene=DEFAULT_EDIT.before)
        elif self.is_mini:
            defaults = replace(defaults, prompt=DEFAULT_SCENE.caption)
        return changed_request(defaults, changes)


# The values of --weights.
WEIGHTS_CHOICES = ("auto", *(kind.value for kind in WeightsKind))


def resolve(ckpt: str | os.PathLike[str], weights: str, hardware: Hardware) -> Checkpoint:
    """Return the checkpoint that `--ckpt` and `--weights` name on this machine.

    Args:
        ckpt: `schnell`, `dev`, `kontext`, one of these after `mini-`, a hub id, or a local folder
            in diffusers layout.
        weights: `auto` or a WeightsKind.
        hardware: the machine; a CPU has mini weights by default.

    Raises:
        FluxFastError: the kind is unknown or does not go with `ckpt`.
        CheckpointError: there is no such checkpoint, or it is no Flux.1 model.
    """
    if weights not in WEIGHTS_CHOICES:
        raise FluxFastError(
            "unknown kind of weights",
            got=weights,
            allowed=", ".join(WEIGHTS_CHOICES),
            remedy="leave --weights out for auto",
        )
    ckpt = os.fspath(ckpt)
    if ckpt.startswith("mini-") and ckpt.removeprefix("mini-") in MODELS:
        if weights not in ("auto", WeightsKind.MINI):
            raise FluxFastError(
                f"--weights {weights} does not apply to a mini model",
                got=ckpt,
                allowed="auto or mini",
                remedy=f"for {weights} weights name {ckpt.removeprefix('mini-')}",
            )
        return _of(MODELS[ckpt.removeprefix("mini-")], WeightsKind.MINI, "named mini-*")
    published = {spec.hub_id: spec for spec in MODELS.values()} | MODELS
    if ckpt not in published:
        return _custom(ckpt, weights)
    spec = published[ckpt]
    if weights != "auto":
        return _of(spec, WeightsKind(weights), "requested")
    if hardware.platform is Platform.CPU:
        return _of(spec, WeightsKind.MINI, "the default on a CPU")
    if is_cached(spec.hub_id):
        return _of(spec, WeightsKind.HUB, "found in the local cache")
    return _of(spec, WeightsKind.SYNTHETIC, f"{spec.hub_id} is not in the local cache")


def _of(model: ModelSpec, kind: WeightsKind, why: str) -> Checkpoint:
    return Checkpoint(model=model, kind=kind, location=model.hub_id, why=why)


def _custom(ckpt: str, weights: str) -> Checkpoint:
    """Return a checkpoint that is none of the three published ones: a folder or another hub id."""
    if weights not in ("auto", WeightsKind.HUB):
        raise FluxFastError(
            f"--weights {weights} does not apply to a checkpoint of your own",
            got=f"--ckpt {ckpt} --weights {weights}",
            allowed=f"--weights hub, or --ckpt {', '.join(MODELS)}",
            remedy="leave --weights out",
        )
    found = read_configuration(ckpt)
    return Checkpoint(
        model=found.model,
        kind=WeightsKind.HUB,
        location=ckpt,
        why=found.why,
        own_blocks=found.blocks,
        own_heads=found.heads,
    )
