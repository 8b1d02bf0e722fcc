"""Measure `fluxfast.optimize()`: every variant of the pipeline, undo, LoRA swaps, and DBCache.

    python -m benchmarks.own_pipeline --out own.json              # on a GPU, about 6 minutes
    python -m benchmarks.own_pipeline --out /tmp/r.json --rehearse  # on a CPU

Differences are PSNRs of latents in dB, with the range of the eager latents as the peak.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fluxfast
from benchmarks.record import Record
from benchmarks.variants import VARIANTS, Variant, generate, loaded
from fluxfast.console import quiet_libraries
from fluxfast.hardware import detect, environment
from fluxfast.models.lora.synthetic import synthetic_lora

RANKS = (16, 128)
SWAPS = 6
CALLS: dict[str, dict[str, Any]] = {
    "28 steps": {},
    "20 steps": {"num_inference_steps": 20},
    "half the size": {"scale": 0.5},
    "true CFG": {"true_cfg_scale": 2.0, "negative_prompt": "a dog"},
    "three images": {"num_images_per_prompt": 3},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="*", help="measure only these parts")
    parser.add_argument("--rehearse", action="store_true", help="the mini family, on a CPU")
    options = parser.parse_args()
    quiet_libraries()
    hardware = detect("cpu" if options.rehearse else "cuda")
    study = Study(is_gpu=hardware.is_gpu)
    record = Record(options.out, budget_s=1500)
    record.part("environment", lambda: environment(hardware))
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "optimize and undo": study.optimize_and_undo,
        "LoRA": study.lora,
        "cache": study.cache,
        **{v.name: partial(study.variant, v) for v in VARIANTS},
    }
    for name, measure in parts.items():
        if not options.parts or name in options.parts:
            record.part(name, measure)
    return record.close()


class Study:
    """The parts, on a GPU with the published shape, or rehearsed on a CPU with the mini family."""

    def __init__(self, is_gpu: bool) -> None:
        self.is_gpu, self.device = is_gpu, "cuda" if is_gpu else "cpu"
        self.choice: dict[str, Any] = {} if is_gpu else {"disable": ("regional", "inductor_flags")}

    def optimize_and_undo(self) -> dict[str, Any]:
        """Time optimize(), the first image, later ones and undo(); compare before with after."""
        pipeline = self._dev()
        before = self._image(pipeline)
        facts: dict[str, Any] = {"plain_gib": self._gib()}
        facts["eager_s"] = self._timed(lambda: self._image(pipeline))[1]
        fast, facts["optimize_s"] = self._timed(lambda: fluxfast.optimize(pipeline, **self.choice))
        facts["optimized_gib"] = self._gib()
        image, facts["first_image_s"] = self._timed(lambda: self._image(fast))
        facts["image_s"] = [self._timed(lambda: self._image(fast))[1] for _ in range(3)]
        facts["db"] = psnr_db(image, before)
        facts["guard_ms"] = self._timed(lambda: fast._weights.change(pipeline))[1] * 1e3
        facts |= self._beside_another(fast, image)
        facts["as_requested"] = fast.report().is_as_requested
        facts["undo_s"] = self._timed(fast.undo)[1]
        facts["undone_gib"] = self._gib()
        facts["is_restored"] = torch.equal(self._image(pipeline), before)
        return facts

    def _beside_another(self, fast: Any, image: Tensor) -> dict[str, Any]:
        """Optimize, call and undo another pipeline, and time this one's image after each."""
        with fluxfast.optimize(
            fluxfast.load("mini-schnell", device=self.device), **self.choice
        ) as b:
            b.set_progress_bar_config(disable=True)
            b("a circle", num_inference_steps=1, height=64, width=64, max_sequence_length=32)
            beside, beside_s = self._timed(lambda: self._image(fast))
        after, after_s = self._timed(lambda: self._image(fast))
        same = torch.equal(beside, image) and torch.equal(after, image)
        return {"beside_another_s": beside_s, "after_it_was_undone_s": after_s, "is_same": same}

    def lora(self) -> dict[str, Any]:
        """Time swaps, and compare with eager weights that hold the LoRA."""
        pipeline = self._dev()
        loras = {rank: synthetic_lora(pipeline.transformer, rank) for rank in RANKS}
        plain, eager = self._image(pipeline, num_inference_steps=4), dict[int, Tensor]()
        with fluxfast.optimize(pipeline, preset="eager") as slow:
            for rank, lora in loras.items():
                slow.set_lora(lora)
                eager[rank] = self._image(slow, num_inference_steps=4)
        facts: dict[str, Any] = {"layers": len(loras[RANKS[0]]) // 2}
        with fluxfast.optimize(pipeline, **self.choice) as fast:
            base = self._image(fast, num_inference_steps=4)
            facts["without_db"] = psnr_db(base, plain)
            for rank, lora in loras.items():
                swap = [self._timed(partial(fast.set_lora, lora))[1] for _ in range(SWAPS)]
                image = self._image(fast, num_inference_steps=4)
                facts[f"rank {rank}"] = {
                    "gib": sum(t.nbytes for t in lora.values()) / 2**30,
                    "swap_s": swap,
                    "to_eager_with_it_db": psnr_db(image, eager[rank]),
                    "to_eager_without_db": psnr_db(image, plain),
                    "effect_in_eager_db": psnr_db(eager[rank], plain),
                }
            facts["both_s"] = self._timed(lambda: fast.set_lora(list(loras.values()), 0.5))[1]
            facts["restore_s"] = self._timed(lambda: fast.set_lora(None))[1]
            facts["is_exact"] = torch.equal(self._image(fast, num_inference_steps=4), base)
        facts["is_restored"] = torch.equal(self._image(pipeline, num_inference_steps=4), plain)
        return facts

    def cache(self) -> dict[str, Any]:
        """Call one pipeline with DBCache at several steps, sizes and batches in turn."""
        pipeline = self._dev()
        eager = {name: self._image(pipeline, **call) for name, call in CALLS.items()}
        facts: dict[str, Any] = {}
        with fluxfast.optimize(pipeline, enable=["dbcache"], **self.choice) as fast:
            for name, call in CALLS.items():
                self._image(fast, **call)
                image, image_s = self._timed(partial(self._image, fast, **call))
                facts[name] = {"image_s": image_s, "db": psnr_db(image, eager[name])}
            facts["as_requested"] = fast.report().is_as_requested
        return facts

    def variant(self, variant: Variant) -> dict[str, Any]:
        """Compare a variant of the mini family with eager, with and without true CFG."""
        pipeline = loaded(variant, self.device)
        calls: dict[str, Mapping[str, Any]] = {"db": {}}
        if "true_cfg_scale" in inspect.signature(pipeline.__call__).parameters:
            calls["true_cfg_db"] = CALLS["true CFG"]
        eager = {name: generate(pipeline, variant, **call) for name, call in calls.items()}
        facts: dict[str, Any] = {}
        for preset in ("lossless", "default"):
            with fluxfast.optimize(pipeline, preset=preset, **self.choice) as fast:
                facts[preset] = {
                    name: psnr_db(generate(fast, variant, **call), eager[name])
                    for name, call in calls.items()
                }
                facts[preset]["as_requested"] = fast.report().is_as_requested
        facts["is_restored"] = torch.equal(generate(pipeline, variant), eager["db"])
        return facts

    def _dev(self) -> Any:
        kind = {"weights": "synthetic"} if self.is_gpu else {}
        pipeline = fluxfast.load("dev" if self.is_gpu else "mini-dev", device=self.device, **kind)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _image(self, pipeline: Any, scale: float = 1.0, **call: Any) -> Tensor:
        side = int((1024 if self.is_gpu else 64) * scale)
        call = {"num_inference_steps": 28, **call}
        latents: Tensor = pipeline(
            "a cat",
            height=side,
            width=side,
            max_sequence_length=512 if self.is_gpu else 32,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            **call,
        ).images
        return latents

    def _timed(self, work: Callable[[], Any]) -> tuple[Any, float]:
        self._synchronize()
        started = time.perf_counter()
        result = work()
        self._synchronize()
        return result, time.perf_counter() - started

    def _synchronize(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize()

    def _gib(self) -> float | None:
        return torch.cuda.memory_allocated() / 2**30 if self.is_gpu else None


def psnr_db(latents: Tensor, eager: Tensor) -> float:
    """Return the PSNR in dB; infinite for equal latents."""
    eager = eager.float()
    error = (latents.float() - eager).square().mean()
    return float(10 * torch.log10((eager.max() - eager.min()).square() / error))


if __name__ == "__main__":
    sys.exit(main())
