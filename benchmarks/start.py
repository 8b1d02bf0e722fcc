"""Measure the time to an image: from a cold start, at other sizes, from packages; and the memory.

    python -m benchmarks.start --out start.json                      # on a GPU, about 8 minutes
    python -m benchmarks.start --out warm.json --parts "first image" # again: with warm caches
    python -m benchmarks.start --out other.json --parts "first image" \
        --choose compile=regional encoder=                           # other optimizations
    python -m benchmarks.start --out /tmp/r.json --rehearse          # on a CPU

torch.compile and Triton keep caches in TORCHINDUCTOR_CACHE_DIR and TRITON_CACHE_DIR: set both to
empty folders for a cold start.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import Record
from fluxfast.bench.cases.planned import PlannedCase, planned_case, situation_of
from fluxfast.bench.measurement.stages import peak_memory_gib, reset_peak_memory
from fluxfast.console import quiet_libraries
from fluxfast.hardware import Hardware, detect, environment
from fluxfast.models.arguments import call_arguments
from fluxfast.models.spec import ImageRequest
from fluxfast.models.weights import resolve
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Artifacts
from fluxfast.optimizations.compilation._compiler import start_compiler
from fluxfast.optimizations.registry import default_names
from fluxfast.pipeline.applied import free_memory
from fluxfast.pipeline.build import BuiltPipeline, build

OTHER_SIZES = ((768, 1360), (1360, 768))
REHEARSED_SIZES = ((48, 64), (64, 48))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ckpt", default="dev", help="dev")
    parser.add_argument("--parts", nargs="*", help="measure only these parts")
    parser.add_argument(
        "--choose",
        nargs="*",
        default=[],
        metavar="AXIS=NAME",
        help="optimizations in place of the defaults; AXIS= leaves an axis empty",
    )
    parser.add_argument("--rehearse", action="store_true", help="the mini family, on a CPU")
    options = parser.parse_args()
    quiet_libraries()
    hardware = detect("cpu" if options.rehearse else "cuda")
    record = Record(options.out, budget_s=900)
    record.part("environment", lambda: environment(hardware))
    start_compiler(hardware.device)
    torch.set_grad_enabled(False)
    sizes = REHEARSED_SIZES if options.rehearse else OTHER_SIZES
    chosen = {axis: name or None for axis, _, name in (c.partition("=") for c in options.choose)}
    parts = {
        "first image": lambda: _first_image(options.ckpt, hardware, sizes, chosen),
        "without encoders": lambda: _without_encoders(options.ckpt, hardware),
        "packages": lambda: _packages("schnell", hardware),
    }
    for name, measure in parts.items():
        if not options.parts or name in options.parts:
            record.part(name, measure)
    return record.close()


def _planned(model: str, hardware: Hardware, **chosen: str | None) -> PlannedCase:
    """Return the case of the default optimizations, with choices by axis."""
    checkpoint = resolve(model, "synthetic" if hardware.is_gpu else "mini", hardware)
    situation = situation_of(checkpoint, hardware)
    names = default_names(situation, {Axis(axis): name for axis, name in chosen.items()})
    return planned_case(names, checkpoint, situation)


def _image_s(built: BuiltPipeline, request: ImageRequest, **arguments: Any) -> float:
    started = time.perf_counter()
    built.pipeline(**(call_arguments(request, built.plan.situation.model.takes_image) | arguments))
    built.synchronize()
    return time.perf_counter() - started


def _first_image(
    model: str,
    hardware: Hardware,
    sizes: tuple[tuple[int, int], ...],
    chosen: dict[str, str | None],
) -> dict[str, Any]:
    """Return seconds since the process began, to load, to apply, and of images at each size.

    Of each size two images are timed, of the first one five more, with its prompt encoded alone.
    """
    planned = _planned(model, hardware, **chosen)
    request = planned.plan.situation.request
    found: dict[str, Any] = {"optimizations": list(planned.plan.names)}
    with build(planned.checkpoint, planned.plan) as built:
        reset_peak_memory(built)
        found |= {"load_s": built.load_s, "apply_s": built.apply_s, "built_at_s": _process_s()}
        for height, width in ((request.height, request.width), *sizes):
            asked = replace(request, height=height, width=width)
            found[f"{height}x{width}: first and second image, s"] = [
                _image_s(built, asked) for _ in range(2)
            ]
        found["the first size again, s"] = [_image_s(built, request) for _ in range(5)]
        found["prompt_ms"] = [_prompt_ms(built) for _ in range(20)]
        found["peak_memory_gib"] = peak_memory_gib(built)
    return found


def _process_s() -> float:
    """Return the seconds since this process began, on Linux (proc(5), field 22 of stat)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    since_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return since_boot_s - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _prompt_ms(built: BuiltPipeline) -> float:
    request = built.plan.situation.request
    arguments = call_arguments(request, built.plan.situation.model.takes_image)
    started = time.perf_counter()
    built.pipeline.encode_prompt(
        prompt=arguments["prompt"],
        prompt_2=None,
        max_sequence_length=request.max_sequence_length,
    )
    built.synchronize()
    return 1000 * (time.perf_counter() - started)


def _without_encoders(model: str, hardware: Hardware) -> dict[str, Any]:
    """Return peak memory of transformer and VAE, with prompts that were encoded before."""
    planned = _planned(model, hardware, encoder=None)
    request = planned.plan.situation.request
    with build(planned.checkpoint, planned.plan) as built:
        pipeline = built.pipeline
        arguments = call_arguments(request, built.plan.situation.model.takes_image)
        embeds, pooled, _ = pipeline.encode_prompt(
            prompt=arguments["prompt"],
            prompt_2=None,
            max_sequence_length=request.max_sequence_length,
        )
        pipeline.text_encoder = pipeline.text_encoder_2 = None
        free_memory()
        reset_peak_memory(built)
        given = {"prompt": None, "prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
        images_s = [_image_s(built, request, **given) for _ in range(3)]
        return {"images_s": images_s, "peak_memory_gib": peak_memory_gib(built)}


def _packages(model: str, hardware: Hardware) -> dict[str, Any]:
    """Return seconds to export and to load packages, and of the first images with each."""
    planned = _planned(model, hardware, compile="export_aoti")
    request = planned.plan.situation.request
    found: dict[str, Any] = {"optimizations": list(planned.plan.names)}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("exported", "loaded"):
            artifacts = Artifacts(folder=Path(folder), use_cached=name == "loaded")
            with build(planned.checkpoint, planned.plan, artifacts=artifacts) as built:
                images_s = [_image_s(built, request) for _ in range(2)]
                found[name] = {"apply_s": built.apply_s, "images_s": images_s}
    return found


if __name__ == "__main__":
    sys.exit(main())
