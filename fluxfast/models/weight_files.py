"""Find the safetensors files of a checkpoint's component, and read their headers alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fluxfast.errors import CheckpointError
from fluxfast.files.reading import check_ordinary, read_json
from fluxfast.models.configuration import first_line

# The dtypes that weights may be stored in. Integers and 8-bit floats need scales to mean anything.
FLOATING = ("F64", "F32", "F16", "BF16")
UNUSED = re.compile(r"(^|\.)position_ids$")  # an integer buffer that old checkpoints hold
SHOWN_NAMES = 3  # in an error


@dataclass(frozen=True, kw_only=True)
class Header:
    """A tensor, as the header of its safetensors file describes it.

    Attributes:
        shape: the tensor's shape.
        dtype: the name of its dtype in safetensors, as `BF16`.
        file: the name of the file that holds it.
    """

    shape: tuple[int, ...]
    dtype: str
    file: str


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """The weights of one component.

    Attributes:
        folder: the folder of the component.
        variant: the variant in the file names, as `fp16`; None without.
        headers: by name, each tensor.
    """

    folder: Path
    variant: str | None
    headers: Mapping[str, Header]

    @property
    def elements(self) -> int:
        """The number of weights."""
        return sum(math.prod(header.shape) for header in self.headers.values())


def weight_files(folder: Path, stem: str) -> WeightFiles:
    """Return the weights of a component.

    Args:
        folder: the folder of the component.
        stem: the beginning of the file names: `diffusion_pytorch_model` or `model`.

    Raises:
        CheckpointError: there are none, only pickled ones, or several variants; a shard is missing
            or damaged; or a tensor is not of floating point.
    """
    first, variant = _first_file(folder, stem)
    if first.suffix == ".json":
        listed = weight_map(first)
        headers = _headers(folder / shard for shard in sorted(set(listed.values())))
        _check_shards(listed, headers, first)
    else:
        headers = _headers([first])
    _check_dtypes(headers, folder)
    return WeightFiles(folder=folder, variant=variant, headers=headers)


def weight_map(index: Path) -> dict[str, str]:
    """Return by tensor the shard that an index of shards names.

    Raises:
        CheckpointError: the index cannot be read.
    """
    try:
        listed = read_json(index)["weight_map"]
        shards = {name: Path(shard).name for name, shard in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(index, first_line(error)) from error
    if not shards or shards != listed:
        raise _unreadable(index, "weight_map does not name a file of this folder for each tensor")
    return shards


def few(names: Iterable[str]) -> str:
    """Return the first names in alphabetical order, and an ellipsis where there are more."""
    ordered = sorted(names)
    return ", ".join(ordered[:SHOWN_NAMES] + ["…"] * (len(ordered) > SHOWN_NAMES))


def _first_file(folder: Path, stem: str) -> tuple[Path, str | None]:
    """Return the weights file, or the index of its shards, and the variant of its name."""
    pattern = re.compile(
        rf"{stem}\.(?:(?P<single>\w+)\.)?safetensors"
        rf"|{stem}\.safetensors\.index(?:\.(?P<sharded>\w+))?\.json"
    )
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = {name: match for name in names if (match := pattern.fullmatch(name))}
    variants = {name: match["single"] or match["sharded"] for name, match in found.items()}
    chosen = [name for name, variant in variants.items() if variant is None] or list(found)
    if len(chosen) != 1:
        raise CheckpointError(
            "the weights of this checkpoint are not one safetensors file or one index of shards",
            got=f"{folder}: {', '.join(names) or 'no files'}",
            allowed=f"{stem}.safetensors or {stem}.safetensors.index.json; "
            "pickled weights (.bin, .pt) can run code and are never loaded",
            remedy="download the checkpoint again and keep one variant; convert pickled weights "
            "with save_pretrained(safe_serialization=True)",
        )
    return folder / chosen[0], variants[chosen[0]]


def _headers(files: Iterable[Path]) -> dict[str, Header]:
    return {name: header for file in files for name, header in _read_headers(file).items()}


def _read_headers(file: Path) -> dict[str, Header]:
    from safetensors import SafetensorError, safe_open

    try:
        check_ordinary(file)
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {
                name: Header(shape=tuple(s.get_shape()), dtype=s.get_dtype(), file=file.name)
                for name, s in slices.items()
            }
    except (OSError, SafetensorError, ValueError) as error:
        raise _unreadable(file, first_line(error)) from error


def _unreadable(file: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        "a weights file of this checkpoint cannot be read",
        got=f"{file}: {problem}",
        allowed="whole safetensors files, all shards of an index included",
        remedy="a truncated file is the usual cause: delete it and download it again",
    )


def _check_shards(listed: Mapping[str, str], headers: Mapping[str, Header], index: Path) -> None:
    """Check that each tensor is in the shard that the index names, and that no other is there."""
    found = {name: header.file for name, header in headers.items()}
    wrong = {name for name in {*listed, *found} if listed.get(name) != found.get(name)}
    if wrong:
        raise CheckpointError(
            "the shards of this checkpoint do not hold what their index lists",
            got=f"{index}: {len(wrong)} tensors differ ({few(wrong)})",
            allowed="each tensor in the shard that the index names",
            remedy="delete the index and its shards, and download them again",
        )


def _check_dtypes(headers: Mapping[str, Header], folder: Path) -> None:
    wrong = {
        f"{name} {header.dtype}"
        for name, header in headers.items()
        if header.dtype not in FLOATING and not UNUSED.search(name)
    }
    if wrong:
        raise CheckpointError(
            "tensors of this checkpoint have an unsuitable dtype",
            got=f"{folder}: {len(wrong)} tensors ({few(wrong)})",
            allowed=", ".join(FLOATING),
            remedy="use the original checkpoint; quantization is an option of FluxFast",
        )
