"""Time both passes of true CFG as two calls of the transformer, and as one call of a batch of two.

    python -m benchmarks.true_cfg --out true_cfg.json  # on a GPU, about 10 minutes
    python -m benchmarks.true_cfg --out true_cfg.json --parts "images, 512"  # 2 minutes
    python -m benchmarks.true_cfg --out /tmp/r.json --rehearse  # on a CPU, a minute

diffusers' pipelines call the transformer for the prompt and then for the negative prompt. Each size
is timed in rounds that alternate between both ways, so clocks and power are the same for both; the
first round is a warm-up. `saved` is the share of the two calls' time that one call saves. Whole
images are generated in the same turns by two pipelines, with and without `true_cfg_batch`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._dynamo import config as dynamo

import fluxfast
from benchmarks.own_pipeline import psnr_db
from benchmarks.record import Record
from fluxfast.console import quiet_libraries
from fluxfast.hardware import Hardware, detect, environment
from fluxfast.models.spec import DEV
from fluxfast.pipeline.applied import RECOMPILE_LIMIT
from fluxfast.profiling.device_clock import median_ms

SIDES, REHEARSED_SIDES = (256, 512, 768, 1024), (32, 64)
PRESETS = ("default", "lossless")  # on a GPU: fp8, bfloat16
ROUNDS, REPEATS, STEPS = 6, 15, 28
SHARED_BY_BOTH = ("txt_ids", "img_ids")  # positions have no batch dimension


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="*", help="measure only these parts")
    parser.add_argument("--rehearse", action="store_true", help="the mini family, on a CPU")
    options = parser.parse_args()
    quiet_libraries()
    hardware = detect("cpu" if options.rehearse else "cuda")
    sides = REHEARSED_SIDES if options.rehearse else SIDES
    record = Record(options.out, budget_s=540)
    record.part("environment", lambda: environment(hardware))
    dynamo.automatic_dynamic_shapes = False  # code of its own for each shape, as in a new process
    for preset in PRESETS:
        parts = {f"{preset}, {side}": side for side in sides}
        if chosen := _chosen(parts, options.parts):
            left_out = ("true_cfg_batch", *_compilers(hardware))
            pipeline = _loaded(hardware)
            with fluxfast.optimize(pipeline, preset=preset, disable=left_out) as optimized:
                for name, side in chosen.items():
                    record.part(name, partial(compared, optimized, side, hardware))
    parts = {f"images, {side}": side for side in sides}
    if chosen := _chosen(parts, options.parts):
        with ExitStack() as stack:
            batched, twice = (stack.enter_context(o) for o in with_and_without(hardware))
            for name, side in chosen.items():
                record.part(name, partial(compared_images, batched, twice, side, hardware))
    return record.close()


def _chosen(parts: dict[str, int], names: list[str] | None) -> dict[str, int]:
    return {name: side for name, side in parts.items() if names is None or name in names}


def _loaded(hardware: Hardware) -> Any:
    if hardware.is_gpu:
        pipeline = fluxfast.load("dev", weights="synthetic", device=hardware.device)
    else:
        pipeline = fluxfast.load("mini-dev", device=hardware.device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _compilers(hardware: Hardware) -> tuple[str, ...]:
    """Return what is left out of a rehearsal: it compiles for minutes."""
    return () if hardware.is_gpu else ("regional", "inductor_flags")


def with_and_without(hardware: Hardware) -> tuple[Any, Any]:
    """Return two optimized pipelines of equal weights, with and without `true_cfg_batch`."""
    compilers = _compilers(hardware)
    batched = fluxfast.optimize(_loaded(hardware), enable=["true_cfg_batch"], disable=compilers)
    twice = fluxfast.optimize(_loaded(hardware), disable=["true_cfg_batch", *compilers])
    return batched, twice


def compared_images(batched: Any, twice: Any, side: int, hardware: Hardware) -> dict[str, Any]:
    """Return the seconds of an image both ways, the PSNR of its latents, and repeatability."""

    def image(optimized: Any) -> tuple[Tensor, float]:
        generator, start = torch.Generator().manual_seed(0), time.perf_counter()
        latents = optimized(**_call(side, hardware), num_inference_steps=STEPS, generator=generator)
        on_host = latents.images.cpu()  # waits for the device
        return on_host, time.perf_counter() - start

    rounds = [(image(twice), image(batched)) for _ in range(ROUNDS)]
    (two, _), (one, _) = rounds[0]
    return {
        "two_calls_s": statistics.median(two_s for (_, two_s), _ in rounds[1:]),
        "one_call_s": statistics.median(one_s for _, (_, one_s) in rounds[1:]),
        "saved": statistics.median(1 - one_s / two_s for (_, two_s), (_, one_s) in rounds[1:]),
        "db": psnr_db(one, two),
        "is_repeatable": all(torch.equal(one, again) for _, (again, _) in rounds),
        "proof": str(batched.report().proofs["true_cfg_batch"]),
    }


def compared(optimized: Any, side: int, hardware: Hardware) -> dict[str, Any]:
    """Return the milliseconds of both ways at a size, and the PSNR between their predictions."""
    transformer = optimized.transformer
    prompt, negative = captured_passes(optimized, side, hardware)
    both = batch_of_two(prompt, negative)
    time_ms = partial(median_ms, device=hardware.device, repeats=REPEATS if hardware.is_gpu else 3)

    def two_calls() -> list[Tensor]:
        return [transformer(**prompt)[0], transformer(**negative)[0]]

    def one_call() -> list[Tensor]:
        return list(transformer(**both)[0].chunk(2))

    with torch.no_grad(), dynamo.patch(recompile_limit=RECOMPILE_LIMIT):
        db = psnr_db(torch.cat(one_call()), torch.cat(two_calls()))
        rounds = [(time_ms(two_calls), time_ms(one_call)) for _ in range(ROUNDS)][1:]
    saved = [1 - one / two for two, one in rounds]
    return {
        "two_calls_ms": statistics.median(two for two, _ in rounds),
        "one_call_ms": statistics.median(one for _, one in rounds),
        "saved": statistics.median(saved),
        "saved_in_each_round": saved,
        "db": db,
    }


def captured_passes(optimized: Any, side: int, hardware: Hardware) -> list[dict[str, Any]]:
    """Return the arguments with which a step with true CFG calls the transformer, of each pass."""
    passes: list[dict[str, Any]] = []
    hook = optimized.transformer.register_forward_pre_hook(
        lambda module, arguments, keywords: passes.append(keywords), with_kwargs=True
    )
    optimized(**_call(side, hardware), num_inference_steps=1)
    hook.remove()
    assert len(passes) == 2, f"{len(passes)} passes"
    return passes


def _call(side: int, hardware: Hardware) -> dict[str, Any]:
    return {
        "prompt": "a cat",
        "negative_prompt": "a dog",
        "true_cfg_scale": 2.0,
        "height": side,
        "width": side,
        "max_sequence_length": DEV.max_sequence_length if hardware.is_gpu else 32,
        "output_type": "latent",
    }


def batch_of_two(prompt: dict[str, Any], negative: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of one call that computes both passes."""
    return {
        name: torch.cat([value, negative[name]])
        if isinstance(value, Tensor) and name not in SHARED_BY_BOTH
        else value
        for name, value in prompt.items()
    }


if __name__ == "__main__":
    sys.exit(main())
