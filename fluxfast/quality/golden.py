"""Goldens: the latents that a configuration drew when it was last looked at, to hold it to."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fluxfast.errors import FluxFastError
from fluxfast.files import write_bytes_atomically

KEPT = 1  # image of a case: 32 KiB at 256×256


def golden_path(folder: Path, hardware: str, case_id: str) -> Path:
    return folder / hardware / f"{case_id}.safetensors"


def write_golden(path: Path, latents: Tensor) -> None:
    """The first latents [N, T, 64] in half precision, whose rounding is 0.0002 of their norm."""
    from safetensors.torch import save

    write_bytes_atomically(path, save({"latents": latents[:KEPT].half().contiguous()}))


def golden_error(path: Path, latents: Tensor) -> float:
    """The largest relative error against the golden. Raises FluxFastError where there is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        golden = load(path.read_bytes())["latents"].float()
    except (OSError, SafetensorError, KeyError) as error:
        raise FluxFastError(
            "there is no golden of this case that can be read",
            got=f"{path}: {type(error).__name__}",
            allowed="latents written by `pytest correctness_tests --record`",
            remedy="look at the pictures, then record the case",
        ) from error
    if golden.shape != latents[:KEPT].shape:
        raise FluxFastError(
            "the golden is of another request",
            got=str(tuple(latents[:KEPT].shape)),
            allowed=str(tuple(golden.shape)),
            remedy="run the case's own request, or record it again",
        )
    difference = (latents[:KEPT] - golden).flatten(1).norm(dim=1)
    return float(torch.max(difference / golden.flatten(1).norm(dim=1)))
