"""Synthetic results of an ablation, for tests of the report; nothing was measured on a GPU.

An image time is the time of the workload multiplied by a factor for each optimization. `slower`
multiplies the factors of some optimizations or models.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.baselines.file import write_baseline as write_baseline_file
from fluxfast.bench.baselines.lookup import find_baseline
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.store import write_result
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
DEFAULT = ("bf16", "fused_projections", "fa3_fp8", "fp8_per_row", "regional")
IMAGE_S = {"dev": 5.0, "schnell": 0.8}


def combinations() -> list[tuple[str, ...]]:
    """Return a cumulative ablation, a leave-one-out ablation, and DBCache on the default."""
    cumulative = [DEFAULT[:count] for count in range(1, len(DEFAULT) + 1)]
    leave_one_out = [tuple(n for n in DEFAULT if n != off) for off in DEFAULT[1:]]
    return list(
        dict.fromkeys([*cumulative, *leave_one_out, (*DEFAULT[:3], "dbcache", *DEFAULT[3:])])
    )


def ablation(
    slower: dict[str, float] | None = None, seed: int = 0, processes: int = 3
) -> list[CaseResult]:
    """Return the results of some processes of each case, with noise of 0.3%."""
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
    """Write the results, with a folder for each process; return the folders."""
    folders = []
    for one in results:
        at = folder / str(one.provenance["process"])
        write_result(at, one)
        folders.append(at)
    return list(dict.fromkeys(folders))


def write_baseline(results: list[CaseResult], path: Path) -> Baseline:
    """Write a baseline of the H200 with these results."""
    baseline = replace(find_baseline("h200"), results={}, path=path).accept(results)
    write_baseline_file(baseline)
    return baseline


def write_artifacts(folder: Path) -> None:
    """Write synthetic quality, kernels, rooflines and images of each case of a folder."""
    for path in list(folder.glob("*.json")):
        steps = len(path.stem.split("+"))
        artifacts = {
            "quality": {
                "psnr_db": 50 - 5.0 * steps if steps > 1 else None,  # the eager image itself
                "ssim": 1.01 - 0.01 * steps,
                "step_error": 0.02 * (steps - 1),
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
        for kind, data in artifacts.items():
            (folder / kind).mkdir(exist_ok=True)
            (folder / kind / path.name).write_text(json.dumps(data))
        image = Image.new("RGB", (64, 64), (40, 90, 160))
        ImageDraw.Draw(image).ellipse((10, 10, 50 + steps, 50), fill=(230, 150, 40))
        image.save(folder / f"{path.stem}.png")
