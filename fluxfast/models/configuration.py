"""Read the configuration files of a checkpoint; no code but that of the libraries may be named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxfast.errors import CheckpointError
from fluxfast.files import reading
from fluxfast.models.architecture import PUBLISHED
from fluxfast.models.recognition import recognise
from fluxfast.models.spec import MODELS, ModelSpec

INDEX = "model_index.json"
# By component, the library and the classes that a Flux.1 pipeline can use. Classes of transformers
# also exist under a name that ends in Fast.
CLASSES = {
    "transformer": ("diffusers", ("FluxTransformer2DModel",)),
    "vae": ("diffusers", ("AutoencoderKL",)),
    "scheduler": ("diffusers", ("FlowMatchEulerDiscreteScheduler",)),
    "text_encoder": ("transformers", ("CLIPTextModel",)),
    "text_encoder_2": ("transformers", ("T5EncoderModel",)),
    "tokenizer": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast")),
    "tokenizer_2": ("transformers", ("T5Tokenizer", "T5TokenizerFast")),
}
OPTIONAL_CLASSES = {
    "controlnet": ("diffusers", ("FluxControlNetModel",)),
    "image_encoder": ("transformers", ("CLIPVisionModelWithProjection",)),
    "feature_extractor": ("transformers", ("CLIPImageProcessor", "CLIPImageProcessorFast")),
}
NETWORKS = ("transformer", "vae", "text_encoder", "text_encoder_2")
OPTIONAL_NETWORKS = ("controlnet", "image_encoder")
ABSENT = [None, None]
# Keys of a configuration that make a library run the checkpoint's own code, read another file, or
# load weights in a number format of their own.
REFUSED_KEYS = {
    "auto_map": "it runs code that comes with the checkpoint",
    "transformers_weights": "it names another weights file",
    "quantization_config": "its weights are already quantized",
}


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The configuration of a checkpoint.

    Attributes:
        model: the model that the structure is taken for.
        why: why it is taken for that model.
        blocks: the numbers of double and of single transformer blocks.
        heads: the number of attention heads.
        networks: the components that have weights.
    """

    model: ModelSpec
    why: str
    blocks: tuple[int, int]
    heads: int
    networks: tuple[str, ...]


def read_configuration(location: str) -> Configuration:
    """Return the configuration of a folder in diffusers layout or of a hub id.

    Raises:
        CheckpointError: a file is missing or damaged, names code or a class that is not the
            libraries', or is not of a Flux.1 pipeline.
    """
    index = read_json(location, INDEX)
    pipeline_class = index.get("_class_name")
    if isinstance(pipeline_class, list):
        raise _custom_code(f"_class_name {pipeline_class} of {INDEX}")
    schedule = read_json(location, "scheduler/scheduler_config.json")
    transformer = read_json(location, "transformer/config.json")
    model, why = recognise(
        str(pipeline_class),
        guidance_embeds=_flag(transformer, "guidance_embeds"),
        use_dynamic_shifting=_flag(schedule, "use_dynamic_shifting"),
    )
    _check_classes(index)
    present = (name for name in OPTIONAL_NETWORKS if index.get(name, ABSENT) != ABSENT)
    networks = (*NETWORKS, *present)
    for name in networks:
        _check_keys(f"{name}/config.json", read_json(location, f"{name}/config.json"))
    return Configuration(
        model=model,
        why=why,
        blocks=count_blocks(PUBLISHED.transformer | transformer),
        heads=count_heads(PUBLISHED.transformer | transformer),
        networks=networks,
    )


def count_blocks(shapes: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many double and single blocks a FluxTransformer2DModel of these arguments has.

    Raises:
        CheckpointError: a number of blocks is no integer, or negative.
    """
    doubles, singles = shapes["num_layers"], shapes["num_single_layers"]
    if not all(type(count) is int and count >= 0 for count in (doubles, singles)):
        raise CheckpointError(
            "transformer/config.json of this checkpoint has no valid number of blocks",
            got=f"num_layers: {doubles!r}, num_single_layers: {singles!r}",
            allowed="integers, 0 or more",
            remedy="download the checkpoint again",
        )
    return doubles, singles


def count_heads(shapes: Mapping[str, Any]) -> int:
    """Return how many attention heads the arguments of a FluxTransformer2DModel describe.

    Raises:
        CheckpointError: the number is no integer, or less than 1.
    """
    heads = shapes["num_attention_heads"]
    if type(heads) is not int or heads < 1:
        raise CheckpointError(
            "transformer/config.json of this checkpoint has no valid number of attention heads",
            got=f"num_attention_heads: {heads!r}",
            allowed="an integer, 1 or more",
            remedy="download the checkpoint again",
        )
    return heads


def _flag(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise CheckpointError(
            f"{key} of this checkpoint is neither true nor false",
            got=repr(value),
            allowed="true or false",
            remedy="correct the configuration file, or download the checkpoint again",
        )
    return value


def _check_classes(index: Mapping[str, Any]) -> None:
    """Check that each component of the index is of a class that Flux.1 pipelines use."""
    for name, (library, classes) in (CLASSES | OPTIONAL_CLASSES).items():
        entry = index.get(name, ABSENT)
        if entry == ABSENT and name in OPTIONAL_CLASSES:
            continue
        if entry not in [[library, each] for each in classes]:
            raise CheckpointError(
                f"the {name} of this checkpoint is of an unknown class",
                got="none" if entry == ABSENT else entry,
                allowed=f"{' or '.join(classes)} of {library}",
                remedy="use a complete checkpoint whose components the libraries define; "
                "a checkpoint's own code is never run",
            )
    known = {*CLASSES, *OPTIONAL_CLASSES}
    for name, entry in index.items():
        if isinstance(entry, list) and entry != ABSENT and name not in known:
            raise _custom_code(f"the component {name}: {entry} of {INDEX}")


def _check_keys(file: str, config: Mapping[str, Any]) -> None:
    for key, why in REFUSED_KEYS.items():
        if config.get(key) is not None:
            raise CheckpointError(
                f"{file} of this checkpoint is not supported: {why}",
                got=f"{key}: {json.dumps(config[key])[:200]}",
                allowed="a configuration without " + ", ".join(REFUSED_KEYS),
                remedy="use the original checkpoint; quantization is an option of FluxFast",
            )


def _custom_code(what: str) -> CheckpointError:
    return CheckpointError(
        "this checkpoint names code of its own",
        got=what,
        allowed="pipelines and components of diffusers and transformers",
        remedy="use a checkpoint without custom code; FluxFast never runs a checkpoint's code",
    )


def read_json(location: str, name: str) -> dict[str, Any]:
    """Return a configuration file of a folder or of a hub id.

    Raises:
        CheckpointError: the location is neither, or the file cannot be read or is no JSON object.
    """
    _check_location(location)
    try:
        path = Path(location) / name if Path(location).is_dir() else Path(_download(location, name))
        loaded = reading.read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read {name} of this checkpoint",
            got=f"{location}: {first_line(error)}",
            allowed=f"a Flux.1 checkpoint in diffusers layout ({INDEX}, transformer/, vae/, …)",
            remedy="check the path; "
            "a single-file checkpoint is converted by diffusers' from_single_file",
        ) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f"{name} of this checkpoint is not a configuration",
            got=type(loaded).__name__,
            allowed="a JSON object",
            remedy="download the checkpoint again",
        )
    return loaded


def _check_location(location: str) -> None:
    if Path(location).is_dir():
        return
    if location.count("/") != 1 or location.startswith((".", "/", "~")):
        raise CheckpointError(
            "no such model or checkpoint",
            got=location,
            allowed=f"{', '.join(MODELS)}, mini-{{{','.join(MODELS)}}}, "
            "a hub id owner/name, or a folder",
            remedy="check the spelling, or the path of the folder; "
            "a single-file checkpoint is converted by diffusers' from_single_file",
        )


def _download(repo_id: str, name: str) -> str:
    from huggingface_hub import hf_hub_download

    path: str = hf_hub_download(repo_id, name)
    return path


def first_line(error: Exception) -> str:
    """Return the class and the first line of an error of a library."""
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"
