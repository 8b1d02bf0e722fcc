"""Measure what cached steps cost in quality, by calibrator and by mask of computed steps.

    python -m benchmarks.cache_front --out front.json                       # one core, 20 minutes
    python -m benchmarks.cache_front --out front.json --prompts 256         # on a GPU
    python -m benchmarks.cache_front --out front.json --rehearse            # under a minute

Every setting generates the same held-out captions of the trained mini family with the same seeds as
the pipeline without a cache. A setting is on the front if no other computes as few steps at a
higher mean PSNR and loses as few scenes. The same command goes on where a run ended.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import Record
from fluxfast.bench.cases.planned import planned_case, situation_of
from fluxfast.console import out, quiet_libraries
from fluxfast.hardware import Hardware, detect, environment
from fluxfast.mini import WEIGHTS
from fluxfast.models.weights import resolve
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.cache_config import CacheConfig, cache_config_of
from fluxfast.optimizations.caching._limits import steps_mask
from fluxfast.optimizations.registry import available, eager_names, in_order
from fluxfast.pipeline.build import build
from fluxfast.profiling.evidence import cached_steps
from fluxfast.quality.clip import mini_clip
from fluxfast.quality.metrics import compare_images, shows_expected
from fluxfast.quality.prompts import GeneratedImages, Prompt, generate_images, prompts_for
from fluxfast.tables import plain_table, render

STEPS, SIDE, BATCH_SIZE, PROMPTS = 28, 256, 8, 16
CALIBRATORS: Mapping[str, Mapping[str, Any]] = {
    "reuse": {},
    "TaylorSeer 1": {"enable_taylorseer": True, "taylorseer_order": 1},
    "TaylorSeer 2": {"enable_taylorseer": True, "taylorseer_order": 2},
    # The text's tokens leave the last block unread: extrapolating them changes no image.
    "DMD": {"enable_dmd": True, "enable_encoder_dmd": False},
    "FoCa": {"enable_foca": True},
}
POLICIES = ("slow", "medium", "fast", "ultra")  # cache-dit's masks
DISTANCES = (2, 3, 4, 6)  # between computed steps, after FIRST steps that are all computed
FIRST = 4
MASKS = (*POLICIES, *(f"every {distance}" for distance in DISTANCES))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="held-out captions")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--side", type=int, default=SIDE, help="of an image in pixels")
    parser.add_argument("--masks", nargs="*", default=MASKS, choices=MASKS, help="default: all")
    parser.add_argument(
        "--calibrators", nargs="*", default=[*CALIBRATORS], choices=CALIBRATORS, help="default: all"
    )
    parser.add_argument("--rehearse", action="store_true", help="two prompts, 12 steps, 64 pixels")
    options = parser.parse_args()
    if options.rehearse:
        options.prompts, options.steps, options.side = 2, 12, 64
    quiet_libraries()
    torch.set_grad_enabled(False)
    study = Study(options, detect("auto"))
    record = Record(options.out, budget_s=1200)
    record.part("environment", lambda: environment(study.hardware))
    for name, settings in all_settings(options.masks, options.calibrators, options.steps):
        record.part(name, partial(study.measure, settings))
    out(front_table(record.parts))
    return record.close()


def all_settings(
    masks: Sequence[str], calibrators: Sequence[str], steps: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the cache settings of each combination of calibrator and mask."""
    known: dict[str, Any] = {policy: policy for policy in POLICIES}
    known |= {f"every {distance}": every(distance, steps) for distance in DISTANCES}
    for mask_name in masks:
        for name in calibrators:
            mask = known[mask_name]
            static = {"steps_computation_mask": mask, "steps_computation_policy": "static"}
            yield f"{name}, {mask_name}", {"Fn_compute_blocks": 1, **static, **CALIBRATORS[name]}


def every(distance: int, steps: int) -> list[int]:
    """Return a mask that computes the first steps, then every `distance`-th one."""
    return [int(step < FIRST or (step - FIRST + 1) % distance == 0) for step in range(steps)]


class Study:
    """Generates the captions with each setting of the cache, and compares with no cache."""

    def __init__(self, options: argparse.Namespace, hardware: Hardware) -> None:
        self.hardware, self.checkpoint = hardware, resolve("mini-dev", "mini", hardware)
        self.situation = situation_of(
            self.checkpoint,
            hardware,
            height=options.side,
            width=options.side,
            batch_size=min(BATCH_SIZE, options.prompts),
            num_inference_steps=options.steps,
        )
        self.prompts: Sequence[Prompt] = prompts_for(
            self.checkpoint, options.prompts, options.side, options.side
        )
        self.clip = mini_clip(WEIGHTS / "mini-clip")
        self.reference: GeneratedImages | None = None

    def measure(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return computed steps, quality and time of a setting."""
        if self.reference is None:
            self.reference, _, _ = self._generated(None)
        config = cache_config_of(settings)
        images, cached, seconds = self._generated(config)
        quality = compare_images(images, self.reference, self.prompts, self.clip)
        mask = steps_mask(config, self.situation.request.num_inference_steps)
        assert mask is not None and cached == mask.count(0), "not the steps that the mask computes"
        return {
            "computed": sum(mask),
            "prompts": len(self.prompts),
            "right_without_cache": sum(shows_expected(self.reference, self.prompts)),
            **quality.figures,
            "clip_interval": quality.clip_interval(),
            "image_s": seconds / len(self.prompts),
        }

    def _generated(self, config: CacheConfig | None) -> tuple[GeneratedImages, int, float]:
        """Return the images, the cached steps of the last batch, and the seconds of all."""
        caches = [available(Axis.CACHE, self.hardware)[0].name] if config else []
        situation = replace(self.situation, cache_config=config)
        names = in_order({*eager_names(self.hardware), *caches})
        planned = planned_case(names, self.checkpoint, situation)
        with build(self.checkpoint, planned.plan) as built:
            started = time.perf_counter()
            images = generate_images(built, self.prompts)
            return images, cached_steps(built), time.perf_counter() - started


def front_table(parts: Mapping[str, Any]) -> str:
    """Return the settings by the number of computed steps, those on the front marked."""
    found = {name: part for name, part in parts.items() if "computed" in part}
    numbers = ("computed", "lost", "PSNR", "least", "CLIP drop", "s/image")
    table = plain_table("calibrator, mask", *numbers, "", numbers=numbers)
    by_steps = sorted(found.items(), key=lambda one: (one[1]["computed"], -one[1]["psnr_mean_db"]))
    for name, part in by_steps:
        table.add_row(
            name,
            str(part["computed"]),
            f"{part['scenes_lost']:.0f} of {part['right_without_cache']}",
            f"{part['psnr_mean_db']:.1f}",
            f"{part['psnr_db']:.1f}",
            f"{part['clip_score_drop']:.2f} ± {part['clip_interval']:.2f}",
            f"{part['image_s']:.2f}",
            "front" if is_on_front(part, found.values()) else "",
        )
    return render(table)


def is_on_front(part: Mapping[str, float], others: Any) -> bool:
    """Return whether no other setting computes as few steps with fewer losses or a higher PSNR."""
    return not any(
        other["computed"] <= part["computed"]
        and other["scenes_lost"] <= part["scenes_lost"]
        and other["psnr_mean_db"] > part["psnr_mean_db"]
        for other in others
    )


if __name__ == "__main__":
    sys.exit(main())
