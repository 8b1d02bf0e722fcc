"""Read a LoRA: a file, a folder, a hub id, or a state dict, in any of the common formats."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fluxfast.errors import FluxFastError
from fluxfast.files.reading import check_ordinary
from fluxfast.models.lora.adapter import Lora, LowRank, listed
from fluxfast.models.lora.alphas import Alphas, read_alphas
from fluxfast.models.lora.keys import Factors, parse
from fluxfast.models.lora.layer_names import diffusers_layers, has_halves_swapped
from fluxfast.models.lora.transfer import to_device

Source = str | Path | Mapping[str, Tensor]
# Beyond it float32 weights may overflow; a case of one's own may state as much.
LARGEST_SCALE = 1e6
FILE_NAME = "pytorch_lora_weights.safetensors"


def read_lora(source: Source, scale: float = 1.0, *, device: str | torch.device = "cpu") -> Lora:
    """Read a LoRA of a Flux transformer; every tensor is used, or the LoRA is refused.

    The formats of diffusers and peft, kohya, ComfyUI, Black Forest Labs and XLabs are recognised.
    A layer's change is scale · alpha / rank · up @ down; without an alpha, alpha is the rank.

    Args:
        source: a .safetensors file; a folder with one; a hub id (`owner/name`, or
            `owner/name/file.safetensors`); or a state dict.
        scale: strength, 1 for the LoRA as trained.
        device: where its tensors are moved.

    Raises:
        FluxFastError: the source cannot be read, or holds something that cannot be merged as
            low-rank changes of the transformer's linear layers.
    """
    _check_scale("the scale of a LoRA", scale)
    name, state_dict, alphas = _load(source)
    factors = parse(state_dict, name)
    _check_factors(factors, name)
    factors = _moved(factors, torch.device(device), name)
    changes = {
        layer: LowRank(down=f.down, up=f.up, scale=scale * _scale_of_rank(layer, f, alphas))
        for layer, f in factors.items()
    }
    for layer, change in changes.items():
        _check_scale(f"scale · alpha / rank of the layer {layer} of {name}", change.scale)
    return Lora(name=name, scale=scale, layers=_in_diffusers_layers(changes, name))


def _check_scale(what: str, scale: float) -> None:
    if not abs(scale) <= LARGEST_SCALE:
        raise FluxFastError(
            f"{what} is not finite, or too large",
            got=scale,
            allowed=f"-{LARGEST_SCALE:g} to {LARGEST_SCALE:g}; 1.0 is the LoRA as trained",
            remedy="choose a smaller scale",
        )


def _load(source: Source) -> tuple[str, Mapping[str, Tensor], Alphas]:
    """Return name and tensors of a source, and the alphas of its header."""
    if isinstance(source, Mapping):
        _check_state_dict(source)
        return "state dict", source, Alphas()
    from safetensors import SafetensorError, safe_open

    path = lora_file(str(source))
    name = _name(str(source), path)
    try:
        check_ordinary(path)
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise FluxFastError(
            "the LoRA file cannot be read",
            got=f"{path}: {type(error).__name__}: {str(error).splitlines()[0]}",
            allowed="a complete .safetensors file",
            remedy="a truncated file is the usual cause: download it again",
        ) from error
    return name, tensors, read_alphas(header, name)


def _name(source: str, path: Path) -> str:
    """Return the name of the file, of the folder that holds diffusers' file, or the hub id."""
    if not Path(source).expanduser().exists():
        return source.removesuffix(".safetensors")
    return path.stem if path.name != FILE_NAME else path.absolute().parent.name


def _check_state_dict(source: Mapping[str, Tensor]) -> None:
    wrong = [
        f"{key!r}: {type(value).__name__}"
        for key, value in source.items()
        if not isinstance(key, str)
        or not isinstance(value, Tensor | float if key.endswith("alpha") else Tensor)
    ]
    if wrong:
        raise FluxFastError(
            "the state dict of the LoRA does not map names to tensors",
            got=listed(wrong),
            allowed="names with tensors; alphas may be numbers",
            remedy="pass the dictionary that safetensors.torch.load_file returns",
        )


def lora_file(source: str) -> Path:
    """Return the path of the file that a path or hub id names; files of the hub are downloaded.

    Raises:
        FluxFastError: there is no such file, or it cannot be downloaded.
    """
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            return _file_of_folder(path)
        if path.is_file():
            return path
    except (OSError, RuntimeError, ValueError):  # too long, of no user, or a name of no file
        source = f"./{source}"
    owner_and_name = re.fullmatch(r"([\w.-]+/[\w.-]+?)(?:/(.+\.safetensors))?", source)
    if owner_and_name is None or source.startswith("."):
        raise FluxFastError(
            "no such LoRA",
            got=source,
            allowed="a .safetensors file, a folder with one, or a hub id owner/name",
            remedy="check the path",
        )
    return _downloaded(owner_and_name[1], owner_and_name[2] or FILE_NAME)


def _file_of_folder(folder: Path) -> Path:
    if (folder / FILE_NAME).is_file():
        return folder / FILE_NAME
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise FluxFastError(
            "the folder does not tell which file is the LoRA",
            got=listed([file.name for file in files]) or f"no .safetensors file in {folder}",
            allowed=f"{FILE_NAME}, or exactly one .safetensors file",
            remedy="pass the path of the file",
        )
    return files[0]


def _downloaded(repository: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, name))
    except (OSError, ValueError) as error:
        raise FluxFastError(
            "the LoRA cannot be downloaded",
            got=f"{repository}/{name}: {type(error).__name__}: {str(error).splitlines()[0]}",
            allowed="an existing file, a hub id owner/name, or owner/name/file.safetensors",
            remedy="check the spelling and the network; name the file if it is not "
            f"{FILE_NAME}; for a gated repository run `hf auth login` first",
        ) from error


def _check_factors(factors: Mapping[str, Factors], name: str) -> None:
    wrong = [
        f"{layer}: down {tuple(f.down.shape)} {f.down.dtype}, up {tuple(f.up.shape)} {f.up.dtype}"
        for layer, f in factors.items()
        if not (f.down.is_floating_point() and f.up.is_floating_point())
        or (f.down.ndim, f.up.ndim) != (2, 2)
        or f.down.shape[0] != f.up.shape[1]
        or 0 in (*f.down.shape, *f.up.shape)
    ]
    if wrong:
        raise FluxFastError(
            f"LoRA {name} has factors that do not go together",
            got=listed(wrong),
            allowed="down (rank, in_features) and up (out_features, rank), floating-point",
            remedy="use a LoRA of linear layers, or export the file again from the trainer",
        )


def _moved(factors: Mapping[str, Factors], device: torch.device, name: str) -> dict[str, Factors]:
    """Return the factors on the device, checked there to be finite, all at once."""
    tensors = [tensor for f in factors.values() for tensor in (f.down, f.up)]
    moved, is_finite = to_device(tensors, device)
    if not is_finite:
        broken = [
            layer
            for layer, f in factors.items()
            if not (f.down.float().isfinite().all() and f.up.float().isfinite().all())
        ]
        raise FluxFastError(
            f"LoRA {name} has values that are not finite",
            got=listed(broken),
            allowed="finite numbers",
            remedy="its training diverged: use an earlier checkpoint of it",
        )
    pairs = zip(moved[::2], moved[1::2], strict=True)
    return {
        layer: Factors(down=down, up=up, alpha=f.alpha)
        for (layer, f), (down, up) in zip(factors.items(), pairs, strict=True)
    }


def _scale_of_rank(layer: str, factors: Factors, alphas: Alphas) -> float:
    """Return alpha / rank of a layer of the file."""
    own = diffusers_layers(layer) or (layer,)
    return alphas.scale(own[0], factors.down.shape[0], factors.alpha)


def _in_diffusers_layers(changes: Mapping[str, LowRank], name: str) -> dict[str, LowRank]:
    """Return the changes by diffusers' names; a layer that is several of them is divided."""
    unknown = [layer for layer in changes if not diffusers_layers(layer)]
    translated = [part for layer, change in changes.items() for part in _divided(layer, change)]
    counts = Counter(layer for layer, _ in translated)
    twice = [layer for layer, count in counts.items() if count > 1]
    if unknown or twice:
        raise FluxFastError(
            f"LoRA {name} has layers " + ("that are given twice" if twice else "of no Flux model"),
            got=listed(twice or unknown),
            allowed="each linear layer of a Flux transformer once, by diffusers' or by "
            "Black Forest Labs' name",
            remedy="use a LoRA that was trained for Flux.1",
        )
    return dict(translated)


def _divided(layer: str, change: LowRank) -> Sequence[tuple[str, LowRank]]:
    layers, (rows, columns) = diffusers_layers(layer), change.shape
    if has_halves_swapped(layer):
        change = LowRank(down=change.down, up=change.up.roll(rows // 2, 0), scale=change.scale)
    # Query, key and value have as many rows as columns; an MLP after them has the rest.
    sizes = [columns] * (len(layers) - 1) + [rows - columns * (len(layers) - 1)]
    if len(layers) < 2 or sizes[-1] <= 0:
        return [(each, change) for each in layers]
    ups = torch.split(change.up, sizes)
    return [
        (each, LowRank(down=change.down, up=up, scale=change.scale))
        for each, up in zip(layers, ups, strict=True)
    ]
