"""What is written beside a result: the picture, its quality, the kernels of a step.

`fluxfast report` reads these files, and works without them. No torch until quality is measured.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.result import CaseResult, read_json
from fluxfast.errors import BaselineError
from fluxfast.files import write_atomically, write_bytes_atomically
from fluxfast.optimizations.base import KernelCategory, ProfiledStep
from fluxfast.profiling.kernel_profile import category_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Figures = Mapping[str, float | None]
SHORTEST_MS = 1e-4  # what is less is left out


KINDS = ("quality", "kernels", "roofline", "verdicts")


def paths_beside(folder: Path, case: Case) -> list[Path]:
    """Where a result of the case has its picture and figures, if it has them."""
    return [picture_path(folder, case), *(figures_path(folder, kind, case) for kind in KINDS)]


def picture_path(folder: Path, case: Case) -> Path:
    return folder / f"{case.id}.png"


def figures_path(folder: Path, kind: str, case: Case) -> Path:
    return folder / kind / f"{case.id}.json"


def write_beside(
    folder: Path, result: CaseResult, step: ProfiledStep, picture: Image, eager: Image | None
) -> None:
    """`step`: as it was profiled. `eager`: the eager picture of the same workload in this run.

    What lay there of an earlier result of the case is replaced or goes.
    """
    file = io.BytesIO()
    picture.save(file, "PNG")
    write_bytes_atomically(picture_path(folder, result.case), file.getvalue())
    figures = quality(picture, eager) if eager else None
    write_figures(folder, "quality", result.case, figures)
    busy = None if result.bound == "power" else result.device_busy
    write_figures(folder, "kernels", result.case, kernels(step, busy))
    for kind in ("roofline", "verdicts"):  # what comes later, if it comes
        write_figures(folder, kind, result.case, None)


def write_quality(folder: Path, case: Case, drawn: Iterable[Case]) -> None:
    """Of the pictures in the folder, if the eager one is among those `drawn` in this run."""
    picture, eager = _read_beside(folder, case), eager_picture(folder, case, drawn)
    if picture and eager:
        write_figures(folder, "quality", case, quality(picture, eager))


def eager_picture(folder: Path, case: Case, drawn: Iterable[Case]) -> Image | None:
    """Of the unoptimized case of the same workload, another one, if it is among those `drawn`."""
    eager = case.eager_among(drawn)
    return _read_beside(folder, eager) if eager and eager != case else None


def _read_beside(folder: Path, case: Case) -> Image | None:
    path = picture_path(folder, case)
    return read_picture(path) if path.exists() else None


def read_picture(path: Path) -> Image:
    """Raises BaselineError if it is no whole picture."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except OSError as error:
        raise BaselineError(
            "this picture cannot be read",
            got=f"{path}: {error}",
            allowed="a whole PNG file",
            remedy="measure the case again, or remove the file",
        ) from error


def write_figures(folder: Path, kind: str, case: Case, figures: Mapping[str, Any] | None) -> None:
    path = figures_path(folder, kind, case)
    if figures:
        write_atomically(path, json.dumps(figures))
    else:
        path.unlink(missing_ok=True)


def read_figures(folder: Path, kind: str, case: Case) -> Figures | None:
    path = figures_path(folder, kind, case)
    return read_json(path) if path.exists() else None


def quality(picture: Image, eager: Image) -> Figures | None:
    """How near the picture is to the eager one: `psnr_db` and `ssim`, of their 8 bits.

    `psnr_db` is None where they are the same: JSON has no infinity. There are no figures where the
    eager picture is of one colour, as what is not a number is drawn: two of those are not alike.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    from fluxfast.quality.metrics import psnr_db

    if eager.convert("RGB").getcolors(maxcolors=1):
        return None
    now, before = _values(picture), _values(eager)
    if bool((now == before).all()):
        return {"psnr_db": None, "ssim": 1.0}
    # In float64 512×512 pixels take 6 s on one thread of a CPU, and differ by less than 1e-3.
    likeness: Any = ssim(now, before, data_range=1.0)
    return {"psnr_db": psnr_db(now, before).item(), "ssim": likeness.item()}


def _values(picture: Image) -> Tensor:
    """[1, 3, H, W] in [0, 1]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None] / 255


def kernels(step: ProfiledStep, device_busy: float | None) -> dict[str, float]:
    """Milliseconds of the profiled step by category, and on a GPU those in which nothing ran.

    `device_busy`: the share of the step in which the GPU computes, without a profiler. On a CPU
    these are operators, each longer by what the profiler takes; generated code counts as `other`.
    """
    totals = dict.fromkeys(KernelCategory, 0.0)
    for name, ms in step.own_ms.items():
        totals[category_of(name)] += ms
    if device_busy:
        totals[KernelCategory.IDLE] = step.kernel_ms * (1 / device_busy - 1)
    return {kind.value: round(ms, 4) for kind, ms in totals.items() if ms >= SHORTEST_MS}


def told(figures: Mapping[str, Any] | None) -> str:
    """PSNR as it is shown in a table."""
    if not figures or "psnr_db" not in figures:
        return "–"
    return "same" if figures["psnr_db"] is None else f"{figures['psnr_db']:.1f}"
