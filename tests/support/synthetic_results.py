"""Made results of an ablation, for the report: no GPU was near them.

Times are a product: the workload's, and a factor for each optimization. `slower` multiplies one.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fluxfast.bench.baselines.baseline import Baseline, find_baseline
from fluxfast.bench.results.result import CaseResult, write_result
from tests.support.machines import H200
from tests.support.results import CANARIES, case, result

FACTORS = {
    "bf16": 1.0,
    "fused_projections": 0.98,
    "fa3_fp8": 0.9,
    "fp8_per_row": 0.7,
    "regional": 0.72,
    "dbcache": 0.45,
}
ALL_ON = ("bf16", "fused_projections", "fa3_fp8", "fp8_per_row", "regional")
IMAGE_S = {"dev": 5.0, "schnell": 0.8}


def combinations() -> list[tuple[str, ...]]:
    staircase = [ALL_ON[:count] for count in range(1, len(ALL_ON) + 1)]
    each_off = [tuple(n for n in ALL_ON if n != off) for off in ALL_ON[1:]]
    return list(dict.fromkeys([*staircase, *each_off, (*ALL_ON[:3], "dbcache", *ALL_ON[3:])]))


def ablation(
    slower: dict[str, float] | None = None, seed: int = 0, processes: int = 3
) -> list[CaseResult]:
    """Some processes of each case, with a noise of 0.3%."""
    random, found = np.random.default_rng(seed), []
    factors = {name: factor * (slower or {}).get(name, 1.0) for name, factor in FACTORS.items()}
    for model, image_s in IMAGE_S.items():
        for names in combinations():
            whole_s = image_s * (slower or {}).get(model, 1.0)
            whole_s *= float(np.prod([factors[name] for name in names]))
            for process in range(processes):
                found.append(
                    result(
                        whole_s * float(np.exp(random.normal(0, 0.003))),
                        case=case(model=model, optimizations=names, num_inference_steps=4),
                        hardware=H200,
                        compiles="regional" in names,
                        canaries=CANARIES,
                        provenance={
                            "commit": "abc",
                            "dirty": False,
                            "date": f"2026-11-{2 + seed:02}T02:17:00+00:00",
                            "process": process,
                        },
                    )
                )
    return found


def write(results: list[CaseResult], folder: Path) -> list[Path]:
    """A folder for each process."""
    folders = []
    for one in results:
        at = folder / str(one.provenance["process"])
        write_result(at, one)
        folders.append(at)
    return list(dict.fromkeys(folders))


def write_baseline(results: list[CaseResult], path: Path) -> Baseline:
    baseline = replace(find_baseline("h200"), results={}, path=path).accept(results)
    baseline.write()
    return baseline


def write_extras(folder: Path) -> None:
    """Quality, kernels, a roofline and pictures for each case of a folder, all made up."""
    for path in list(folder.glob("*.json")):
        steps = len(path.stem.split("+"))
        extras = {
            "quality": {
                "psnr_db": 50 - 5.0 * steps if steps > 1 else None,  # the eager picture itself
                "ssim": 1.01 - 0.01 * steps,
            },
            "kernels": {"GEMM": 40.0, "attention": 17.6, "norm": 6.0, "idle": 3.0},
            "roofline": {
                "ceilings": {"tflops": 1300, "attention_tflops": 900, "tb_per_s": 4.29},
                "kernels": [
                    {"name": "GEMM", "tflop": 0.9, "gb": 1.2, "ms": 1.1},
                    {"name": "attention", "tflop": 0.1, "gb": 0.02, "ms": 0.2},
                ],
            },
        }
        for kind, data in extras.items():
            (folder / kind).mkdir(exist_ok=True)
            (folder / kind / path.name).write_text(json.dumps(data))
        picture = Image.new("RGB", (64, 64), (40, 90, 160))
        ImageDraw.Draw(picture).ellipse((10, 10, 50 + steps, 50), fill=(230, 150, 40))
        picture.save(folder / f"{path.stem}.png")
