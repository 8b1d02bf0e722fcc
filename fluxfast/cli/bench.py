"""`fluxfast bench`: time an image, as run_benchmark.py of flux-fast does."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from fluxfast.bench.measurement.stages import peak_memory_gib, reset_peak_memory, time_image
from fluxfast.bench.results.image_timing import ImageTiming
from fluxfast.bench.results.serving import percentile
from fluxfast.cli.arguments import add_options
from fluxfast.cli.finish import finish
from fluxfast.cli.pipeline_options import (
    build_from,
    enough_memory,
    planned_from,
    save,
)
from fluxfast.console import Console, out
from fluxfast.pipeline.build import BuiltPipeline
from fluxfast.tables import plain_table, render

WARMUP_IMAGES = 3
TIMED_IMAGES = 10


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("bench", help="time ten images after warm-up")
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(run=run, output_file=None)


def run(options: argparse.Namespace) -> None:
    """Build the pipeline, time it, print the figures, and save the images."""
    console = Console()
    if options.output_file is None and not options.json:
        options.output_file = Path("output.png")
    planned = planned_from(options)
    with enough_memory(planned), build_from(options, planned, console) as built:
        first_image_s, timings, images = _time(built, console)
        figures = {
            "case": planned.case.id,
            "unquantized": options.unquantized,
            "first_image_s": first_image_s,
            "peak_memory_gib": peak_memory_gib(built),
            "stages": _statistics(timings),
            "e2e_s": [timing.e2e_s for timing in timings],
            **_latency([timing.e2e_s for timing in timings], planned.case.batch_size),
        }
        out(json.dumps(figures, indent=1) if options.json else _table(figures))
        save(images, built, options, console)
        finish(images, built, console)


def _time(built: BuiltPipeline, console: Console) -> tuple[float, list[ImageTiming], list[Any]]:
    first, images = time_image(built)
    console.stage(f"first image in {first.e2e_s:.2f} s")
    since = time.monotonic()
    reset_peak_memory(built)
    total = WARMUP_IMAGES - 1 + TIMED_IMAGES
    timings = []
    for number in range(total):
        timing, images = time_image(built)
        timings.append(timing)
        console.progress("image", number + 1, total, since)
    return first.e2e_s, timings[-TIMED_IMAGES:], images


def _latency(calls_s: list[float], batch_size: int) -> dict[str, float | None]:
    """Return percentiles of the time of a call in seconds, and images per second."""
    p50_s = statistics.median(calls_s)
    return {
        "p50_s": p50_s,
        "p90_s": percentile(calls_s, 90),
        "images_per_s": batch_size / p50_s,
    }


def _statistics(timings: list[ImageTiming]) -> dict[str, dict[str, float]]:
    """Return mean, median and variance of the image and of each stage in milliseconds."""
    columns = {
        "image": [t.e2e_s * 1e3 for t in timings],
        "encode": [t.encode_ms for t in timings],
        "prepare": [t.prepare_ms for t in timings],
        "denoising step": [step for t in timings for step in t.step_ms],
        "decode": [t.decode_ms for t in timings],
        "postprocess": [t.postprocess_ms for t in timings],
    }
    return {
        name: {
            "mean_ms": statistics.fmean(values),
            "median_ms": statistics.median(values),
            "variance_ms2": statistics.variance(values) if len(values) > 1 else 0.0,
        }
        for name, values in columns.items()
    }


def _table(figures: dict[str, Any]) -> str:
    numbers = ("mean ms", "median ms", "variance ms²")
    table = plain_table("stage", *numbers, numbers=numbers)
    for stage, values in figures["stages"].items():
        table.add_row(stage, *(f"{value:.2f}" for value in values.values()))
    memory = figures["peak_memory_gib"]
    peak = f", peak memory {memory:.1f} GiB" if memory else ""
    first = f"first image {figures['first_image_s']:.2f} s{peak}, then {TIMED_IMAGES} images:"
    latency = f"p50 {figures['p50_s']:.3f} s, p90 {figures['p90_s']:.3f} s"
    throughput = f"{figures['images_per_s']:.3f} images/s"
    left_out = ", ".join(figures["unquantized"])
    case = f"{figures['case']}, unquantized: {left_out}" if left_out else figures["case"]
    return f"{case}\n{first}\n{render(table)}\n{latency}, {throughput}"
