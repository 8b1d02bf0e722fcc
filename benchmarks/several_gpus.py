"""Time one image on one GPU and on several, beside diffusers' own context parallelism.

    python -m benchmarks.several_gpus --gpus 2 --out several.json            # about 8 minutes
    python -m benchmarks.several_gpus --gpus 2 --out /tmp/s.json --rehearse      # on a CPU

Each part is a preset on one GPU and on several: seconds of each image without the VAE's decoder,
the relative L2 difference of the latents, and the proof. The first image, which compiles, is apart.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import start_processes

import fluxfast
from benchmarks.record import Record
from fluxfast.console import quiet_libraries
from fluxfast.hardware import detect, environment

PROMPT = "a large red circle on a white background"
# Name of a part, model, and the choice of optimizations.
CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("dev", {}),
    "lossless": ("dev", {"preset": "lossless"}),
    "DBCache": ("dev", {"enable": ("dbcache",)}),  # a fixed mask: its weights are synthetic
    "default, schnell": ("schnell", {}),
}
# What compiles takes a minute on a CPU.
REHEARSAL: dict[str, Any] = {"disable": ("regional", "inductor_flags")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--images", type=int, default=5, help="timed images of each part")
    parser.add_argument("--side", type=int, default=1024, help="height and width in pixels")
    parser.add_argument("--parts", nargs="*", help="measure only these parts")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true", help="the mini family, on a CPU")
    options = parser.parse_args()
    quiet_libraries()
    hardware = detect("cpu" if options.rehearse else "cuda", options.gpus)
    study = Study(options.gpus, options.images, 64 if options.rehearse else options.side, hardware)
    record = Record(options.out, budget_s=1500)
    record.part("environment", lambda: environment(hardware))
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        name: partial(study.compared, *choice) for name, choice in CHOICES.items()
    }
    for compiled in (False, True):
        name = f"diffusers, {'compile_repeated_blocks' if compiled else 'eager'}"
        parts[name] = partial(study.of_diffusers, compiled)
    for name, measure in parts.items():
        if not options.parts or name in options.parts:
            record.part(name, measure)
    return record.close()


class Study:
    """The parts, on GPUs with the published shape, or rehearsed on a CPU with the mini family."""

    def __init__(self, gpus: int, images: int, side: int, hardware: Any) -> None:
        self.gpus, self.images, self.side, self.hardware = gpus, images, side, hardware
        self._loaded: tuple[str, Any] = ("", None)

    def compared(self, model: str, choice: dict[str, Any]) -> dict[str, Any]:
        """Time a choice of optimizations on one GPU and on all of them."""
        pipeline, facts, latents = self._pipeline(model), dict[str, Any](), list[Tensor]()
        for gpus in (1, self.gpus):
            started = time.perf_counter()
            rehearsal = {} if self.hardware.is_gpu else REHEARSAL
            with fluxfast.optimize(pipeline, gpus=gpus, **rehearsal, **choice) as fast:
                applied_s = time.perf_counter() - started
                timed = time_images(fast, self.images, self.request(model))
                latents.append(timed.pop("latents").cpu())
                report = fast.report()
            facts[f"{gpus} GPUs"] = timed | {
                "optimize_s": applied_s,
                "as_requested": report.is_as_requested,
                "proofs": {name: proof.detail for name, proof in report.proofs.items()},
                "left_out": dict(report.left_out),
            }
        one, several = (facts[f"{n} GPUs"]["median_s"] for n in (1, self.gpus))
        difference = (latents[1] - latents[0]).float().norm() / latents[0].float().norm()
        speedup = one / several
        return facts | {
            "speedup": speedup,
            "efficiency": speedup / self.gpus,
            "difference": difference.item(),
        }

    def of_diffusers(self, compiled: bool) -> dict[str, Any]:
        """Time diffusers' Ulysses in processes of its own."""
        self._loaded = ("", None)  # its memory is needed
        torch.cuda.empty_cache()
        results = get_context("spawn").SimpleQueue()
        store = dist.TCPStore("127.0.0.1", 0, self.gpus, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
        given = (store.port, compiled, self, results)
        start_processes(rank_of_diffusers, given, self.gpus, start_method="spawn")
        timed: dict[str, Any] = results.get()
        return timed

    def _pipeline(self, model: str) -> Any:
        if self._loaded[0] != model:
            self._loaded = ("", None)
            self._loaded = (model, self.loaded(model))
        return self._loaded[1]

    def loaded(self, model: str) -> Any:
        is_gpu = self.hardware.is_gpu
        weights, device = ("synthetic", "cuda") if is_gpu else ("mini", "cpu")
        pipeline = fluxfast.load(model, weights=weights, device=device)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def request(self, model: str = "dev") -> dict[str, Any]:
        steps = {"schnell": 4, "dev": 28}[model] if self.hardware.is_gpu else 8
        size = {"height": self.side, "width": self.side}
        return {"prompt": PROMPT, "num_inference_steps": steps, **size}


def time_images(pipeline: Any, images: int, request: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds of the first image and of the next ones, and the latents of the last."""
    times, latents = [], None
    for _ in range(images + 1):
        generator = torch.Generator().manual_seed(0)
        started = time.perf_counter()
        latents = pipeline(**request, generator=generator, output_type="latent").images
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return {
        "first_s": times[0],
        "s": times[1:],
        "median_s": statistics.median(times[1:]),
        "latents": latents,
    }


def rank_of_diffusers(rank: int, port: int, compiled: bool, study: Study, results: Any) -> None:
    """Time diffusers' context parallelism as one of its ranks."""
    from diffusers import ContextParallelConfig

    is_gpu = study.hardware.is_gpu
    if is_gpu:
        torch.cuda.set_device(rank)
    store = dist.TCPStore("127.0.0.1", port, study.gpus, is_master=False)  # type: ignore[attr-defined]
    backend = "nccl" if is_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=study.gpus)
    pipeline = study.loaded("dev")
    transformer = pipeline.transformer
    if not is_gpu:  # diffusers divides by the number of accelerators
        torch.accelerator.device_count = lambda: 1
    transformer.set_attention_backend("_native_cudnn" if is_gpu else "native")
    transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=study.gpus))
    if compiled:
        transformer.compile_repeated_blocks(fullgraph=True)
    timed = time_images(pipeline, study.images, study.request())
    del timed["latents"]
    if rank == 0:
        results.put(timed)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    raise SystemExit(main())
