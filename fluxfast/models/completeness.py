"""Check that a checkpoint is complete and fits together, before its weights are loaded.

The networks are built without memory for their weights, and their tensors are compared with the
headers of the files, so that a checkpoint of any size is checked within seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from fluxfast.console import without_loading_bars
from fluxfast.errors import CheckpointError
from fluxfast.models.configuration import (
    CLASSES,
    NETWORKS,
    OPTIONAL_CLASSES,
    Configuration,
    first_line,
)
from fluxfast.models.fit import check_fit, check_schedule
from fluxfast.models.weight_files import WeightFiles, few, weight_files

# Tensors that a text encoder's file may hold beside the encoder: other parts of the model that the
# encoder was taken from. transformers itself knows the decoder of T5.
OTHER_PARTS = re.compile(r"^(lm_head|text_projection|visual_projection|vision_model|logit_scale)\b")
LARGEST_SIZE = 1_000_000  # no size in a configuration of Flux.1 is larger


@dataclass(frozen=True, kw_only=True)
class Differences:
    """The differences between the tensors of a file and those of a network.

    Attributes:
        missing: tensors of the network that the file lacks.
        unexpected: tensors of the file that the network does not have.
        of_another_shape: tensors of another shape in the file.
    """

    missing: frozenset[str]
    unexpected: frozenset[str]
    of_another_shape: frozenset[str]

    def __str__(self) -> str:
        """Return each kind of difference that occurs: how many, and the first names."""
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": self.of_another_shape,
        }
        return "; ".join(f"{len(n)} {kind} ({few(n)})" for kind, n in kinds.items() if n)


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The weights of a checked checkpoint.

    Attributes:
        elements: the number of weights of all networks.
        variant: the variant in the file names, as `fp16`; None without.
    """

    elements: int
    variant: str | None


def check_checkpoint(folder: Path, configuration: Configuration) -> Inventory:
    """Check the networks and the schedule of a checkpoint; nothing is loaded.

    Args:
        folder: a folder in diffusers layout.
        configuration: its configuration.

    Raises:
        CheckpointError: a file is missing or damaged, tensors are missing, unexpected or of another
            shape or dtype, or components do not fit each other.
    """
    networks, files = {}, []
    for name in configuration.networks:
        networks[name], found = _check_network(folder / name, _class_of(name))
        files.append(found)
    with _as_checkpoint_error(folder):
        check_fit(
            {name: networks[name].config for name in NETWORKS}, configuration.model.pipeline_class
        )
    with _as_checkpoint_error(folder / "scheduler"):
        check_schedule(_class_of("scheduler").from_pretrained(folder / "scheduler"))
    variants = {found.variant for found in files} - {None}
    if len(variants) > 1:
        raise CheckpointError(
            "the components of this checkpoint are of different variants",
            got=f"{folder}: {', '.join(sorted(map(str, variants)))}",
            allowed="one variant",
            remedy="download one variant of the checkpoint",
        )
    return Inventory(elements=sum(f.elements for f in files), variant=next(iter(variants), None))


def check_vocabularies(pipeline: Any) -> None:
    """Check that each text encoder of a loaded pipeline has an embedding for every token.

    Raises:
        CheckpointError: a tokenizer has more tokens than its text encoder.
    """
    for suffix in ("", "_2"):
        tokenizer = getattr(pipeline, f"tokenizer{suffix}")
        rows = getattr(pipeline, f"text_encoder{suffix}").config.vocab_size
        if len(tokenizer) > rows:
            raise CheckpointError(
                f"tokenizer{suffix} and text_encoder{suffix} of this checkpoint do not fit",
                got=f"{len(tokenizer)} tokens",
                allowed=f"{rows} tokens or fewer, one for each row of the embedding",
                remedy="take all components from one checkpoint",
            )


def _class_of(component: str) -> Any:
    library, (name, *_) = (CLASSES | OPTIONAL_CLASSES)[component]
    return getattr(import_module(library), name)


def _check_network(folder: Path, network_class: Any) -> tuple[Any, WeightFiles]:
    """Return a component's network without memory for its weights, and the files that fit it."""
    is_diffusers = hasattr(network_class, "load_config")
    files = weight_files(folder, "diffusion_pytorch_model" if is_diffusers else "model")
    compare = _compare_with_diffusers if is_diffusers else _compare_with_transformers
    with _as_checkpoint_error(folder):
        network, differences = compare(network_class, files)
    if text := str(differences):
        raise CheckpointError(
            f"the weights of this checkpoint's {folder.name} do not fit its configuration",
            got=f"{folder}: {text}",
            allowed=f"all tensors of a {network_class.__name__} of this configuration, and no more",
            remedy="download the checkpoint again; if you converted it, correct the tensors' names",
        )
    return network, files


@contextmanager
def _as_checkpoint_error(folder: Path) -> Iterator[None]:
    """Turn any error of a library into a CheckpointError.

    A wrong value in a configuration raises whatever the code that reads the value raises.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"the configuration of this checkpoint's {folder.name} is impossible",
            got=f"{folder}: {first_line(error)}",
            allowed="a configuration file as the libraries write it",
            remedy="download the checkpoint again",
        ) from error


def _compare_with_diffusers(network_class: Any, files: WeightFiles) -> tuple[Any, Differences]:
    config = network_class.load_config(files.folder)
    _check_sizes(config, files)
    with torch.device("meta"):
        network = network_class.from_config(config)
    found = {name: header.shape for name, header in files.headers.items()}
    network._fix_state_dict_keys_on_load(found)  # renames the attention of old VAEs
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    return network, Differences(
        missing=frozenset(expected.keys() - found),
        unexpected=frozenset(found.keys() - expected),
        of_another_shape=frozenset(
            f"{name} {list(found[name])} instead of {list(expected[name])}"
            for name in expected.keys() & found
            if found[name] != expected[name]
        ),
    )


def _compare_with_transformers(network_class: Any, files: WeightFiles) -> tuple[Any, Differences]:
    """Let transformers load tensors of the right shapes that share one number, without memory.

    transformers knows tied weights, and names of older versions.
    """
    config = network_class.config_class.from_pretrained(files.folder)
    _check_sizes(config.to_dict(), files)
    with without_loading_bars(), _without_reports():
        network, report = _uninitialized(network_class).from_pretrained(
            None,
            config=config,
            state_dict={
                name: torch.empty(()).expand(header.shape) for name, header in files.headers.items()
            },
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    return network, Differences(
        missing=frozenset(report["missing_keys"]),
        unexpected=frozenset(n for n in report["unexpected_keys"] if not OTHER_PARTS.match(n)),
        of_another_shape=frozenset(
            f"{name} {list(found)} instead of {list(expected)}"
            for name, found, expected in report["mismatched_keys"]
        ),
    )


def _uninitialized(network_class: Any) -> Any:
    """Return a class of transformers that leaves missing tensors as they are.

    The name and the module stay, because transformers chooses the names of old versions by them.
    """
    name, module = network_class.__name__, network_class.__module__
    changes = {"initialize_weights": lambda network: None, "__module__": module}
    return type(name, (network_class,), changes)


@contextmanager
def _without_reports() -> Iterator[None]:
    """Silence the report of transformers, whose content becomes our error."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _check_sizes(config: Mapping[str, Any], files: WeightFiles) -> None:
    """Refuse sizes that would take forever to build: each layer has a tensor at least."""
    for key, value in config.items():
        largest = len(files.headers) if "layers" in key else LARGEST_SIZE
        for size in value if isinstance(value, list | tuple) else [value]:
            if isinstance(size, int | float) and size > largest:
                raise CheckpointError(
                    f"{key} of this checkpoint's {files.folder.name} is too large",
                    got=f"{files.folder}: {size}",
                    allowed=f"{largest} or less, for {len(files.headers)} tensors",
                    remedy="download the checkpoint again",
                )
