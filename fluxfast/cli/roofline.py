"""`fluxfast roofline`: ceilings of this machine, the floor of a step, a case's distance from it."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.planned import PlannedCase, planned_case, planned_from_id, situation_of
from fluxfast.bench.measurement.stages import time_image
from fluxfast.bench.results.artifacts import Figures, figures_path, write_figures
from fluxfast.bench.verdicts.artifacts import read_artifact
from fluxfast.console import Console, out
from fluxfast.errors import FluxFastError
from fluxfast.files import stated_path
from fluxfast.hardware import detect
from fluxfast.models.weights import WeightsKind, resolve
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Attend, Plan
from fluxfast.optimizations.registry import default_names
from fluxfast.pipeline.build import build
from fluxfast.profiling.ceilings import measured_ceilings
from fluxfast.profiling.roofline import (
    Bottleneck,
    Ceilings,
    Work,
    by_category,
    floor_ms,
    shape_of,
    step_work,
)
from fluxfast.tables import plain_table, render


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "roofline", help="the least time a step can take on this machine, and how far a case is"
    )
    parser.add_argument(
        "case",
        nargs="?",
        metavar="CASE",
        help="a case id, as `fluxfast matrix` lists them (default: dev, default optimizations)",
    )
    parser.add_argument(
        "--time", action="store_true", help="time the case as well, for its distance from the floor"
    )
    parser.add_argument(
        "--device",
        choices=["auto", "cuda", "cpu"],
        default="auto",
        help="where to run (default: a GPU if there is one)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--results",
        type=stated_path,
        metavar="DIR",
        help="write the roofline for `fluxfast report` next to the case's result in this folder",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure the ceilings, and print the floor and, with --time, the measured step."""
    planned, console = _planned(options), Console()
    plan = planned.plan
    times_ms = _times_ms(options.results, planned.case) if options.results else {}
    architecture = planned.checkpoint.architecture
    shape = shape_of(architecture, plan.situation.model, plan.situation.request)
    console.stage("measuring ceilings")
    fp8 = _is_fp8(plan, Axis.QUANTIZATION)
    ceilings = measured_ceilings(
        shape,
        architecture.transformer["num_attention_heads"],
        plan.situation.hardware,
        fp8=fp8,
        attend=_attention(plan),
    )
    work = step_work(shape, fp8=fp8, fp8_attention=_is_fp8(plan, Axis.ATTENTION))
    step_ms = _step_ms(planned, console) if options.time else None
    if options.results:
        found = for_report(ceilings, work, times_ms)
        write_figures(options.results, "roofline", planned.case, found)
    figures = _figures(plan, planned, ceilings, work, step_ms)
    out(json.dumps(figures, indent=1) if options.json else text_of(figures))


def _planned(options: argparse.Namespace) -> PlannedCase:
    hardware = detect(options.device)
    if options.case is not None:
        return planned_from_id(options.case, hardware)
    checkpoint = resolve("dev", "auto", hardware)
    situation = situation_of(checkpoint, hardware)
    return planned_case(default_names(situation), checkpoint, situation)


def _is_fp8(plan: Plan, axis: Axis) -> bool:
    number_format = plan.number_format(axis)
    return number_format is not None and number_format.is_fp8


def _attention(plan: Plan) -> Attend:
    """Return the attention of the plan; without one, PyTorch's own on the same tensors."""
    import torch.nn.functional as F

    chosen = plan.on(Axis.ATTENTION)
    if chosen and chosen.attention:
        return chosen.attention()
    return lambda query, key, value: F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    ).transpose(1, 2)


def _times_ms(results: Path, case: Case) -> Figures:
    """Return milliseconds of one step by category, as `pytest perf_tests` profiled it."""
    times_ms: Figures | None = read_artifact(results, "kernels", case)
    if times_ms is None:
        raise FluxFastError(
            "no kernel times of this case",
            got=figures_path(results, "kernels", case),
            allowed="a folder in which pytest perf_tests --results has measured the case",
            remedy="measure it first, or leave --results out",
        )
    return times_ms


def for_report(ceilings: Ceilings, work: Sequence[Work], times_ms: Figures) -> dict[str, Any]:
    """Return the content of roofline/CASE.json: work and time of GEMMs and attention in a step.

    Memory-bound kernels do no arithmetic that counts, so they have no point under a roofline. The
    GEMM time includes modulation and embeddings, which `work` does not.

    Args:
        ceilings: the measured ceilings.
        work: the kernels of a step.
        times_ms: milliseconds of a step by kernel category.
    """
    kernels = []
    for category in (Bottleneck.GEMM, Bottleneck.ATTENTION):
        if ms := times_ms.get(category.value):
            done = [one for one in work if one.category is category]
            tflop = sum(one.count * one.operations for one in done) / 1e12
            gb = sum(one.count * one.bytes for one in done) / 1e9
            kernels.append({"name": category.value, "tflop": tflop, "gb": gb, "ms": ms})
    return {
        "ceilings": {
            "tflops": ceilings.gemm_tflops,
            "attention_tflops": ceilings.attention_tflops,
            "tb_per_s": ceilings.copy_tb_s,
        },
        "kernels": kernels,
    }


def _step_ms(planned: PlannedCase, console: Console) -> float:
    """Return the median step of two images in milliseconds, after two images to warm up."""
    with build(planned.checkpoint, planned.plan, progress=console.stage) as built:
        console.stage("timing four images")
        timings = [time_image(built)[0] for _ in range(4)][2:]
    return statistics.median(ms for timing in timings for ms in timing.step_ms)


def _figures(
    plan: Plan,
    planned: PlannedCase,
    ceilings: Ceilings,
    work: list[Work],
    step_ms: float | None,
) -> dict[str, Any]:
    hardware = plan.situation.hardware
    floor = floor_ms(work, ceilings)
    return {
        "case": planned.case.id,
        "machine": f"{hardware.name} ({hardware.architecture})",
        "weights": planned.checkpoint.kind.value,
        "is_gpu": hardware.is_gpu,
        "ceilings": asdict(ceilings),
        "kernels": [asdict(one) | {"floor_ms": one.floor_ms(ceilings)} for one in work],
        "floor_by_category_ms": by_category(work, ceilings),
        "floor_ms": floor,
        "step_ms": step_ms,
        "gap_ms": step_ms - floor if step_ms is not None else None,
    }


def text_of(figures: dict[str, Any]) -> str:
    """Return the figures of `--json` as text."""
    ceilings = figures["ceilings"]
    lines = [
        f"{figures['case']} on {figures['machine']}",
        f"measured ceilings: GEMM {ceilings['gemm_tflops']:.3g} TFLOP/s, "
        f"attention {ceilings['attention_tflops']:.3g} TFLOP/s, "
        f"copy {ceilings['copy_tb_s']:.3g} TB/s",
    ]
    if figures["weights"] == WeightsKind.MINI:
        lines.append("these are the shapes of a mini model, not of Flux.1")
    if not figures["is_gpu"]:
        lines.append("on a CPU, copies stay in the caches and the clock varies: indicative only")
    numbers = ("runs", "GFLOP", "MB", "floor ms")
    table = plain_table("kernel", "bottleneck", *numbers, numbers=numbers)
    for one in figures["kernels"]:
        table.add_row(
            one["name"],
            one["category"],
            str(one["count"]),
            f"{one['operations'] / 1e9:.3g}",
            f"{one['bytes'] / 1e6:.3g}",
            f"{one['floor_ms']:.3f}",
        )
    lines += ["", render(table), "", f"floor of a step: {figures['floor_ms']:.3g} ms"]
    if figures["step_ms"] is None:
        lines.append("--time also times the case and prints its distance from the floor")
    else:
        step_ms, gap_ms = figures["step_ms"], figures["gap_ms"]
        ratio = step_ms / figures["floor_ms"]
        lines.append(f"measured: {step_ms:.4g} ms, {gap_ms:.3g} ms above the floor ({ratio:.2f}×)")
    return "\n".join(lines)
