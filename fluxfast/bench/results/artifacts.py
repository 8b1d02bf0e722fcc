"""The artifacts of a result: the image, its quality, the time of each kernel category.

`fluxfast report` reads these files and works without them. Only `image_quality` imports torch.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.store import check_inside, read_json
from fluxfast.errors import BaselineError
from fluxfast.files import write_atomically, write_bytes_atomically
from fluxfast.files.reading import check_ordinary
from fluxfast.optimizations.base import ProfiledStep
from fluxfast.optimizations.facts import KernelCategory
from fluxfast.profiling.kernel_profile import category_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Figures = Mapping[str, float | None]
SHORTEST_MS = 1e-4  # shorter categories are omitted
KINDS = ("quality", "kernels", "roofline", "verdicts")  # the subfolders of a results folder


def artifact_paths(folder: Path, case: Case) -> list[Path]:
    """Return the paths of all artifacts that a result of the case may have."""
    return [image_path(folder, case), *(figures_path(folder, kind, case) for kind in KINDS)]


def image_path(folder: Path, case: Case) -> Path:
    """Return the path of the last image that the case generated."""
    return folder / f"{case.file_stem}.png"


def figures_path(folder: Path, kind: str, case: Case) -> Path:
    """Return the path of the case's figures of one of the KINDS."""
    return folder / kind / f"{case.file_stem}.json"


def is_there(path: Path, folder: Path) -> bool:
    """Return whether an artifact of a results folder exists.

    Raises:
        BaselineError: it is a link to a file elsewhere.
    """
    if not path.exists():
        return False
    check_inside(path, folder)
    return True


def write_artifacts(
    folder: Path,
    result: CaseResult,
    step: ProfiledStep,
    image: Image,
    eager: Image | None,
    *,
    step_errors: Mapping[str, float] | None = None,
) -> None:
    """Write the artifacts of a result and remove those of an earlier result of the case.

    Args:
        folder: the results folder.
        result: the result.
        step: one profiled denoising step.
        image: the image that the case generated.
        eager: the eager image of the same workload in this run, if there is one.
        step_errors: the figures of the case's networks fed with the eager pipeline's inputs.
    """
    file = io.BytesIO()
    image.save(file, "PNG")
    write_bytes_atomically(image_path(folder, result.case), file.getvalue())
    figures = (image_quality(image, eager) if eager else None) or {}
    write_figures(folder, "quality", result.case, {**figures, **(step_errors or {})})
    busy = None if result.bottleneck == "power" else result.device_busy
    write_figures(folder, "kernels", result.case, category_times_ms(step, busy))
    for kind in ("roofline", "verdicts"):  # written later, if at all
        write_figures(folder, kind, result.case, None)


def write_missing_quality(folder: Path, measured: Collection[Case]) -> None:
    """Compare the image of each case with the eager one, where no process has done so yet.

    Args:
        folder: the results folder.
        measured: the cases of this run; images of others may be old.
    """
    for case in measured:
        if read_figures(folder, "quality", case) is None:
            image, eager = _stored_image(folder, case), eager_image(folder, case, measured)
            if image and eager:
                write_figures(folder, "quality", case, image_quality(image, eager))


def eager_image(folder: Path, case: Case, measured: Iterable[Case]) -> Image | None:
    """Return the image of the unoptimized case of the same workload.

    Returns:
        None if that case is not among those `measured` in this run, or is `case` itself.
    """
    eager = case.eager_among(measured)
    return _stored_image(folder, eager) if eager and eager != case else None


def _stored_image(folder: Path, case: Case) -> Image | None:
    path = image_path(folder, case)
    return read_image(path) if is_there(path, folder) else None


def read_image(path: Path) -> Image:
    """Return the RGB image in the file; raise BaselineError if it is corrupt."""
    from PIL import Image

    try:
        check_ordinary(path)
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise BaselineError(
            "this image cannot be read",
            got=f"{path}: {error}",
            allowed="a complete PNG file",
            remedy="measure the case again, or remove the file",
        ) from error


def write_figures(folder: Path, kind: str, case: Case, figures: Mapping[str, Any] | None) -> None:
    """Write the case's figures of one of the KINDS; without figures, remove the file."""
    path = figures_path(folder, kind, case)
    if figures:
        write_atomically(path, json.dumps(figures))
    else:
        path.unlink(missing_ok=True)


def read_figures(folder: Path, kind: str, case: Case) -> Figures | None:
    """Return the case's figures of one of the KINDS; None if there are none."""
    path = figures_path(folder, kind, case)
    return read_json(path) if is_there(path, folder) else None


def image_quality(image: Image, eager: Image) -> Figures | None:
    """Return the PSNR in dB and the SSIM of the 8-bit image against the eager image.

    Returns:
        `psnr_db` and `ssim`. `psnr_db` is None for identical images, because JSON has no infinity.
        None if the eager image has one colour only: NaN is rendered so, and two such images are
        not equal in any useful sense.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    from fluxfast.quality.metrics import psnr_db

    if eager.convert("RGB").getcolors(maxcolors=1):
        return None
    now, before = _values(image), _values(eager)
    if bool((now == before).all()):
        return {"psnr_db": None, "ssim": 1.0}
    # In float64, 512×512 pixels take 6 s on one CPU thread and the value differs by under 1e-3.
    similarity: Any = ssim(now, before, data_range=1.0)
    return {"psnr_db": psnr_db(now, before).item(), "ssim": similarity.item()}


def _values(image: Image) -> Tensor:
    """Return the pixels as [1, 3, H, W] in [0, 1]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255


def category_times_ms(step: ProfiledStep, device_busy: float | None) -> dict[str, float]:
    """Return the milliseconds of one profiled step by kernel category, with the idle time of a GPU.

    Args:
        step: the profiled step. On a CPU it holds operators, each longer by the profiler's
            overhead; generated code counts as `other`.
        device_busy: share of a step in which the GPU computes, without a profiler; None on a CPU.
    """
    totals = dict.fromkeys(KernelCategory, 0.0)
    for name, ms in step.own_ms.items():
        totals[category_of(name)] += ms
    if device_busy:
        totals[KernelCategory.IDLE] = step.kernel_ms * (1 / device_busy - 1)
    return {kind.value: round(ms, 4) for kind, ms in totals.items() if ms >= SHORTEST_MS}


def psnr_text(figures: Mapping[str, Any] | None) -> str:
    """Return the PSNR in dB for a table cell: `31.2`, `same` for identical images, or `–`."""
    if not figures or "psnr_db" not in figures:
        return "–"
    return "same" if figures["psnr_db"] is None else f"{figures['psnr_db']:.1f}"
