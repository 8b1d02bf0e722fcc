"""Load weights: a checkpoint that is checked first, synthetic values, or the mini family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxfast.console import without_loading_bars
from fluxfast.errors import CheckpointError
from fluxfast.hardware import Hardware
from fluxfast.mini import WEIGHTS
from fluxfast.models.configuration import first_line, read_configuration, read_json
from fluxfast.models.memory import (
    LARGER_DEVICE,
    PUBLISHED_PARAMETERS,
    QUANTIZE,
    check_weights_fit,
    is_out_of_memory,
    out_of_memory_as_error,
    weights_fit,
)
from fluxfast.models.recognition import recognise_pipeline
from fluxfast.models.weights import Checkpoint, WeightsKind

if TYPE_CHECKING:
    import torch
    from diffusers import FluxPipeline


def load(
    checkpoint: Checkpoint, *, dtype: torch.dtype, hardware: Hardware, shrinks: bool = False
) -> FluxPipeline:
    """Load a new pipeline onto the device; it shares nothing with other loaded pipelines.

    Args:
        checkpoint: what to load.
        dtype: the dtype of the weights.
        hardware: the machine.
        shrinks: weights will be made smaller on their way to the device, so those of a checkpoint
            that does not fit there as it is stay in host memory.

    Raises:
        CheckpointError: the weights are incomplete, cannot be loaded, or are of another model.
        FluxFastError: the weights do not fit in memory, or the LoRA does not fit the weights.
    """
    remedy = "end other processes, use --weights mini, or a device with more memory"
    with out_of_memory_as_error(f"loading {checkpoint.location}", hardware, remedy):
        pipeline = _loaded(checkpoint, dtype, hardware, shrinks)
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


def _loaded(
    checkpoint: Checkpoint, dtype: torch.dtype, hardware: Hardware, shrinks: bool
) -> FluxPipeline:
    if checkpoint.kind is WeightsKind.HUB:
        return _load_checked(checkpoint.location, dtype, hardware, shrinks)
    if checkpoint.kind is WeightsKind.MINI:
        with without_loading_bars():
            return _load_mini(checkpoint.model.name, dtype).to(hardware.device)
    from fluxfast.models.synthetic.pipeline import assemble

    profile = checkpoint.kind.profile
    assert profile
    check_weights_fit(PUBLISHED_PARAMETERS, dtype, hardware)
    return assemble(checkpoint.model, dtype, hardware.device, profile)


def _load_checked(location: str, dtype: torch.dtype, hardware: Hardware, shrinks: bool) -> Any:
    """Load a checkpoint whose configuration was not written by us."""
    from fluxfast.models.completeness import check_checkpoint, check_vocabularies

    found = read_configuration(location)
    folder = _local_folder(location)
    inventory = check_checkpoint(folder, found)
    may_stay = hardware.is_gpu and hardware.gpus == 1
    stays = shrinks and may_stay and not weights_fit(inventory.elements, dtype, hardware)
    if not stays:
        remedy = QUANTIZE if may_stay else LARGER_DEVICE
        check_weights_fit(inventory.elements, dtype, hardware, remedy)
    pipeline = _from_pretrained(str(folder), dtype, variant=inventory.variant)
    check_vocabularies(pipeline)
    return pipeline if stays else pipeline.to(hardware.device)


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
