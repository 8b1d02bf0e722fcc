"""Goldens: latents that a case generated when a person last approved its images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fluxfast.errors import FluxFastError
from fluxfast.files import write_bytes_atomically

KEPT_IMAGES = 1  # per case: 32 KiB at 256×256


def golden_path(folder: Path, hardware: str, case_id: str) -> Path:
    """Return the path of a case's golden on this hardware."""
    return folder / hardware / f"{case_id}.safetensors"


def write_golden(path: Path, latents: Tensor) -> None:
    """Store the first image's latents [N, T, 64] in half precision (rounding: 0.0002 of the norm).

    Args:
        path: the file, as `golden_path` returns it.
        latents: [N, T, 64].

    Raises:
        FluxFastError: a latent is NaN or infinite, also in half precision.
    """
    from safetensors.torch import save

    kept = latents[:KEPT_IMAGES].half().contiguous()
    if not kept.isfinite().all():
        raise FluxFastError(
            "latents that are not finite are no golden",
            got=f"{int((~kept.isfinite()).sum())} of {kept.numel()} NaN or infinite, for {path}",
            allowed="finite latents",
            remedy="find the optimization whose images are NaN or infinite",
        )
    write_bytes_atomically(path, save({"latents": kept}))


def golden_error(path: Path, latents: Tensor) -> float:
    """Return the largest relative error ‖latents − golden‖ / ‖golden‖ of the stored images.

    Raises:
        FluxFastError: there is no readable golden, or it is of another request.
    """
    golden = _read_golden(path)
    if golden.shape != latents[:KEPT_IMAGES].shape:
        raise FluxFastError(
            "the golden is of another request",
            got=str(tuple(latents[:KEPT_IMAGES].shape)),
            allowed=str(tuple(golden.shape)),
            remedy="run the case with its own request, or record it again",
        )
    difference = (latents[:KEPT_IMAGES] - golden).flatten(1).norm(dim=1)
    return float(torch.max(difference / golden.flatten(1).norm(dim=1)))


def _read_golden(path: Path) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        golden: Tensor = load(path.read_bytes())["latents"].float()
    except (OSError, SafetensorError, KeyError) as error:
        raise FluxFastError(
            "this case has no golden that can be read",
            got=f"{path}: {type(error).__name__}",
            allowed="latents written by `pytest correctness_tests --record`",
            remedy="look at the images, then record the case",
        ) from error
    return golden
