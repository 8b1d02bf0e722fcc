"""Weights: a diffusers checkpoint, synthetic values of the published shape, or the mini family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxfast.console import without_loading_bars
from fluxfast.errors import CheckpointError, FluxFastError
from fluxfast.hardware import Hardware, Platform
from fluxfast.mini import WEIGHTS
from fluxfast.mini.world import DEFAULT_EDIT, DEFAULT_SCENE
from fluxfast.models.architecture import MINI, PUBLISHED, Architecture
from fluxfast.models.configuration import (
    count_blocks,
    count_heads,
    first_line,
    read_configuration,
    read_json,
)
from fluxfast.models.hub_cache import is_cached
from fluxfast.models.lora.source import LoraSource
from fluxfast.models.memory import (
    PUBLISHED_PARAMETERS,
    check_weights_fit,
    is_out_of_memory,
    out_of_memory_as_error,
)
from fluxfast.models.recognition import recognise_pipeline
from fluxfast.models.spec import MODELS, ImageRequest, ModelSpec, changed_request, default_request
from fluxfast.models.synthetic.profiles import Profile

if TYPE_CHECKING:
    import torch
    from diffusers import FluxPipeline


class WeightsKind(StrEnum):
    """The kind of weights: a real checkpoint, random values of its shape, or the mini family."""

    HUB = "hub"
    SYNTHETIC = "synthetic"
    SYNTHETIC_TRAINED = "synthetic_trained"
    SYNTHETIC_OUTLIERS = "synthetic_outliers"
    MINI = "mini"

    @property
    def profile(self) -> Profile | None:
        """The distribution of synthetic weights; None for other weights."""
        synthetic = {
            WeightsKind.SYNTHETIC: Profile.NORMAL,
            WeightsKind.SYNTHETIC_TRAINED: Profile.TRAINED,
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
        own_blocks: for a checkpoint that is none of the published or mini ones, the number of its
            transformer blocks, double and single ones together.
        own_heads: for such a checkpoint, the number of its attention heads.
        lora: the LoRA that is merged into the transformer, or None.
    """

    model: ModelSpec
    kind: WeightsKind
    location: str
    why: str
    own_blocks: int | None = None
    own_heads: int | None = None
    lora: LoraSource | None = None

    @property
    def blocks(self) -> int:
        """The number of transformer blocks, double and single ones together."""
        return self.own_blocks or count_blocks(self.architecture.transformer)

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


def resolve(ckpt: str, weights: str, hardware: Hardware) -> Checkpoint:
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
    if ckpt.startswith("mini-") and ckpt.removeprefix("mini-") in MODELS:
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


def load(checkpoint: Checkpoint, *, dtype: torch.dtype, hardware: Hardware) -> FluxPipeline:
    """Load a new pipeline onto the device; it shares nothing with other loaded pipelines.

    Raises:
        CheckpointError: the weights are incomplete, cannot be loaded, or are of another model.
        FluxFastError: the weights do not fit in memory, or the LoRA does not fit the weights.
    """
    remedy = "end other processes, use --weights mini, or a device with more memory"
    with out_of_memory_as_error(f"loading {checkpoint.location}", hardware, remedy):
        pipeline = _loaded(checkpoint, dtype, hardware)
    found, _ = recognise_pipeline(pipeline)
    if found != checkpoint.model:
        raise CheckpointError(
            "the checkpoint holds a different model than its configuration states",
            got=found.name,
            allowed=checkpoint.model.name,
            remedy="download the checkpoint again",
        )
    pipeline.set_progress_bar_config(disable=True)
    if checkpoint.lora:
        from fluxfast.models.lora.merge import merge_lora

        merge_lora(pipeline.transformer, checkpoint.lora)
    return pipeline


def _loaded(checkpoint: Checkpoint, dtype: torch.dtype, hardware: Hardware) -> FluxPipeline:
    if checkpoint.kind is WeightsKind.HUB:
        return _load_checked(checkpoint.location, dtype, hardware).to(hardware.device)
    if checkpoint.kind is WeightsKind.MINI:
        with without_loading_bars():
            return _load_mini(checkpoint.model.name, dtype).to(hardware.device)
    from fluxfast.models.synthetic.pipeline import assemble

    profile = checkpoint.kind.profile
    assert profile
    check_weights_fit(PUBLISHED_PARAMETERS, dtype, hardware)
    return assemble(checkpoint.model, dtype, hardware.device, profile)


def _load_checked(location: str, dtype: torch.dtype, hardware: Hardware) -> Any:
    """Load a checkpoint whose configuration was not written by us."""
    from fluxfast.models.completeness import check_checkpoint, check_vocabularies

    found = read_configuration(location)
    folder = _local_folder(location)
    inventory = check_checkpoint(folder, found)
    check_weights_fit(inventory.elements, dtype, hardware)
    pipeline = _from_pretrained(str(folder), dtype, variant=inventory.variant)
    check_vocabularies(pipeline)
    return pipeline


def _local_folder(location: str) -> Path:
    """Return the folder of a checkpoint; a hub id is downloaded without pickled weights."""
    if Path(location).is_dir():
        return Path(location)
    from diffusers import DiffusionPipeline

    with _loading_errors(location):
        return Path(DiffusionPipeline.download(location, use_safetensors=True))


def _load_mini(name: str, dtype: torch.dtype) -> Any:
    """Load a model of the mini family; components without a folder of their own are mini-dev's.

    In a checkout their folders are symbolic links, which a wheel cannot hold.
    """
    folder = WEIGHTS / f"mini-{name}"
    index = read_json(str(folder), "model_index.json")
    components = [key for key in index if not key.startswith("_") and index[key] != [None, None]]
    absent = [key for key in components if not (folder / key).is_dir()]
    if not absent:
        return _from_pretrained(str(folder), dtype)
    own = {key: None for key in components if key not in absent}
    shared = _from_pretrained(str(WEIGHTS / "mini-dev"), dtype, **own)
    return _from_pretrained(str(folder), dtype, **{key: getattr(shared, key) for key in absent})


def _from_pretrained(location: str, dtype: torch.dtype, **arguments: Any) -> Any:
    from diffusers import DiffusionPipeline

    with _loading_errors(location):
        return DiffusionPipeline.from_pretrained(
            location, dtype=dtype, use_safetensors=True, **arguments
        )


@contextmanager
def _loading_errors(location: str) -> Iterator[None]:
    """Turn any error of the libraries but a failed allocation into a CheckpointError.

    A damaged tokenizer or network connection raises whatever the code that meets it raises.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            "this checkpoint cannot be loaded",
            got=f"{location}: {first_line(error)}",
            allowed="a complete Flux.1 checkpoint in diffusers layout, with safetensors weights",
            remedy="download the checkpoint again; for a gated model run `hf auth login` first",
        ) from error
