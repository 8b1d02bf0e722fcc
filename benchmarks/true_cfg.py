"""Time both passes of true CFG as two calls of the transformer, and as one call of a batch of two.

    python -m benchmarks.true_cfg --out true_cfg.json  # on a GPU, about 8 minutes
    python -m benchmarks.true_cfg --out /tmp/r.json --rehearse  # on a CPU, a minute

diffusers' pipelines call the transformer for the prompt and then for the negative prompt. Each size
is timed in rounds that alternate between both ways, so clocks and power are the same for both; the
first round is a warm-up. `saved` is the share of the two calls' time that one call saves.
"""

from __future__ import annotations

import argparse
import statistics
import sys
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
ROUNDS, REPEATS = 6, 15
SHARED_BY_BOTH = ("txt_ids", "img_ids")  # positions have no batch dimension


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true", help="the mini family, on a CPU")
    options = parser.parse_args()
    quiet_libraries()
    hardware = detect("cpu" if options.rehearse else "cuda")
    record = Record(options.out, budget_s=540)
    record.part("environment", lambda: environment(hardware))
    pipeline = _loaded(hardware)
    dynamo.automatic_dynamic_shapes = False  # code of its own for each shape, as in a new process
    for preset in PRESETS:
        with fluxfast.optimize(pipeline, preset=preset, **_choice(hardware)) as optimized:
            for side in REHEARSED_SIDES if options.rehearse else SIDES:
                record.part(f"{preset}, {side}", partial(compared, optimized, side, hardware))
    return record.close()


def _loaded(hardware: Hardware) -> Any:
    if hardware.is_gpu:
        pipeline = fluxfast.load("dev", weights="synthetic", device=hardware.device)
    else:
        pipeline = fluxfast.load("mini-dev", device=hardware.device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _choice(hardware: Hardware) -> dict[str, Any]:
    """Return the arguments of `optimize()`: each call is computed when it is made."""
    compiler = () if hardware.is_gpu else ("regional", "inductor_flags")
    return {"disable": ("true_cfg_batch", *compiler)}


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
    optimized(
        "a cat",
        negative_prompt="a dog",
        true_cfg_scale=2.0,
        height=side,
        width=side,
        max_sequence_length=DEV.max_sequence_length if hardware.is_gpu else 32,
        num_inference_steps=1,
        output_type="latent",
    )
    hook.remove()
    assert len(passes) == 2, f"{len(passes)} passes"
    return passes


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
