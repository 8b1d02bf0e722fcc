"""Write a hardware's goldens as images: `python -m tests.support.golden_sheet sm_90 sheet.png`.

Each row is a combination of optimizations with the first image of dev, schnell and Kontext, decoded
on the CPU in float32; a model without a golden is black.
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.labels import label
from fluxfast.hardware import detect
from fluxfast.models.loading import load
from fluxfast.models.weights import resolve
from fluxfast.optimizations.registry import optimizations
from fluxfast.quality.prompts import GeneratedImages
from fluxfast.quality.sheet import write_sheet
from fluxfast.quality.trajectory import decoded

MODELS = ("dev", "schnell", "kontext")
GOLDENS = Path("correctness_tests/goldens")
# These change no latents, so their golden is the eager pipeline's.
EAGER = ("bf16", "fused_projections")


def decoded_goldens(hardware: str) -> dict[tuple[str, ...], dict[str, torch.Tensor]]:
    """Return each golden decoded, [3, H, W] in [0, 1], by optimizations and model."""
    found: dict[tuple[str, ...], dict[str, torch.Tensor]] = {}
    here = detect("cpu")
    for model in MODELS:
        pipeline = load(resolve(model, "mini", here), dtype=torch.float32, hardware=here)
        for path in sorted((GOLDENS / hardware).glob(f"{model}-*.safetensors")):
            case = Case.from_id(path.stem)
            latents = load_file(path)["latents"].float()
            with torch.no_grad():
                pixels = decoded(pipeline, latents, height=case.height, width=case.width)
            (image,) = pipeline.image_processor.postprocess(pixels, output_type="pt")
            found.setdefault(case.optimizations, {})[model] = image
    return found


def as_row(images: dict[str, torch.Tensor]) -> GeneratedImages:
    nothing = torch.full_like(next(iter(images.values())), torch.nan)
    shown = torch.stack([images.get(model, nothing) for model in MODELS])
    return GeneratedImages(images=shown, latents=torch.zeros(len(MODELS), 0, 64))


def main(hardware: str, path: Path) -> None:
    images, order = decoded_goldens(hardware), list(optimizations())
    defaults = max((names for names in images if "fp8_per_row" in names), key=len)
    defaults = tuple(name for name in defaults if name != "dbcache")
    in_order = sorted(images, key=lambda names: (len(names), [order.index(n) for n in names]))
    write_sheet(
        path,
        {label(names, defaults): as_row(images[names]) for names in in_order},
        as_row(images[EAGER]),
    )
    with Image.open(path) as image:
        small = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    small.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
