"""LPIPS, the perceptual distance in which others publish, where its backbone is on this machine.

torchmetrics ships LPIPS's own layers and takes AlexNet from torchvision (the extra `lpips`), whose
ImageNet weights torchvision would download. Nothing is downloaded here: without the file in torch
hub's cache, LPIPS is not measured.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def why_no_lpips() -> str | None:
    """Return why LPIPS cannot be measured on this machine, or None if it can."""
    if find_spec("torchvision") is None:
        return "torchvision is not installed (the extra `lpips`)"
    if not (path := _backbone_path()).is_file():
        return f"AlexNet's weights are not in torch hub's cache ({path}); nothing is downloaded"
    return None


def _backbone_path() -> Path:
    """Return where torchvision keeps the weights of AlexNet after a download."""
    models: Any = import_module("torchvision.models")
    url: str = models.AlexNet_Weights.DEFAULT.url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


@torch.no_grad()
def lpips(images: Tensor, references: Tensor) -> Tensor:
    """Return the perceptual distance of each pair [N]; 0 for equal images. NaN counts as black.

    Source: Zhang et al. 2018, arXiv:1801.03924, version 0.1 with AlexNet.

    Args:
        images: [N, 3, H, W] in [0, 1], each side at least 32 pixels.
        references: of the same shape and range.
    """
    from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity

    now, before = (x.nan_to_num(0).clamp(0, 1) for x in (images, references))
    distances: Tensor = learned_perceptual_image_patch_similarity(
        now, before, net_type="alex", reduction="none", normalize=True
    )
    return distances.reshape(len(images))
