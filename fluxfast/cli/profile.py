"""`fluxfast profile`: the kernels of a step, the layers of a step error, two traces compared."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fluxfast.bench.cases.planned import planned_from_id
from fluxfast.console import Console, out
from fluxfast.errors import FluxFastError
from fluxfast.files import check_writable, stated_path
from fluxfast.hardware import detect
from fluxfast.optimizations.facts import KernelCategory
from fluxfast.pipeline.build import build
from fluxfast.profiling.kernel_profile import (
    KernelChange,
    StepProfile,
    difference,
    read_profile,
)
from fluxfast.profiling.trace import write_trace
from fluxfast.quality.layer_errors import ErrorProfile, error_profile
from fluxfast.tables import plain_table, render

MOST_SHOWN = 25


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "profile",
        help="the kernels of a denoising step, the layers of a step error, or two traces compared",
    )
    parser.add_argument(
        "case", nargs="?", metavar="CASE", help="a case id, as `fluxfast matrix` lists them"
    )
    parser.add_argument(
        "--diff",
        nargs=2,
        type=stated_path,
        metavar=("A", "B"),
        help="compare two traces instead: what changed from A to B",
    )
    parser.add_argument(
        "--error",
        action="store_true",
        help="list the quantized layers of CASE by their step error, and the time each one saves",
    )
    parser.add_argument(
        "--trace-file",
        type=stated_path,
        help="where the trace of CASE is written (default: CASE.json.gz)",
    )
    parser.add_argument(
        "--device",
        choices=["auto", "cuda", "cpu"],
        default="auto",
        help="where to run CASE (default: a GPU if there is one)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Profile a case or its step error, or compare two traces.

    Raises:
        FluxFastError: neither or both were requested, or a trace cannot be read or written.
    """
    if bool(options.case) == bool(options.diff):
        raise FluxFastError(
            "profile needs one case, or two traces to compare",
            got="both" if options.case else "neither",
            allowed="CASE, or --diff A B",
            remedy="for example: fluxfast profile dev-mini-256x256-b1-s28-eager",
        )
    if options.trace_file and (options.diff or options.error):
        raise FluxFastError(
            "this option has no effect here",
            got=f"--trace-file with {'--diff' if options.diff else '--error'}",
            allowed="--trace-file with a case alone",
            remedy="leave --trace-file out",
        )
    if options.diff:
        before, after = (read_profile(path) for path in options.diff)
        changes = difference(before, after)
        out(_changes_json(before, after, changes) if options.json else _changes(before, after))
        return
    if options.error:
        found = _errors(options.case, options.device)
        out(_errors_json(found) if options.json else _error_table(found))
        return
    path = options.trace_file or Path(f"{options.case}.json.gz")
    check_writable(path, creates_folder=True)
    _trace(options.case, path, options.device)
    profile = read_profile(path)
    out(json.dumps(to_json(profile), indent=1) if options.json else _table(profile))


def _trace(case: str, path: Path, device: str) -> None:
    console, planned = Console(), planned_from_id(case, detect(device))
    with build(planned.checkpoint, planned.plan, progress=console.stage) as built:
        console.stage("warming up")
        built.generate()
        built.generate()
        console.stage("profiling one image")
        write_trace(built, path)
    console.print(f"wrote {path}")


def _errors(case: str, device: str) -> ErrorProfile:
    console, planned = Console(), planned_from_id(case, detect(device))
    return error_profile(planned.checkpoint, planned.plan, progress=console.stage)


def _error_table(found: ErrorProfile) -> str:
    numbers = ("step error", "share", "eager ms", "quantized ms", "saves ms")
    table = plain_table("layer quantized alone", *numbers, numbers=numbers)
    for layer in found.layers[:MOST_SHOWN]:
        times = (layer.eager_ms, layer.quantized_ms, layer.saves_ms)
        error, share = f"{layer.step_error:.2g}", f"{found.share(layer):.1%}"
        table.add_row(layer.name, error, share, *(f"{ms:.3f}" for ms in times))
    head = f"{found.quantization}: step error {found.step_error:.2g}, {len(found.layers)} layers"
    return f"{head}; share: of the sum of squared errors\n\n{render(table)}"


def _errors_json(found: ErrorProfile) -> str:
    layers = [
        asdict(one) | {"share": found.share(one), "saves_ms": one.saves_ms} for one in found.layers
    ]
    return json.dumps(asdict(found) | {"layers": layers}, indent=1)


def to_json(profile: StepProfile) -> dict[str, Any]:
    """Return the profile for `--json`, in milliseconds of a step."""
    return asdict(profile) | {"by_category_ms": profile.by_category}


def _table(profile: StepProfile) -> str:
    numbers = ("ms/step", "share", "runs")
    categories = plain_table("category", *numbers[:2], numbers=numbers)
    for category, ms in profile.by_category.items():
        if ms:
            categories.add_row(category.value, f"{ms:.2f}", f"{ms / profile.step_ms:.0%}")
    kernels = plain_table("category", numbers[0], numbers[2], "kernel", numbers=numbers)
    for kernel in profile.kernels[:MOST_SHOWN]:
        figures = f"{kernel.step_ms:.3f}", f"{kernel.runs:.0f}"
        kernels.add_row(kernel.category.value, *figures, _short(kernel.name))
    head = f"step: {profile.step_ms:.2f} ms, mean of {profile.steps} steps"
    return f"{head}\n\n{render(categories)}\n\n{render(kernels)}"


def _changes(before: StepProfile, after: StepProfile) -> str:
    numbers = ("A ms", "B ms", "change ms")
    categories = plain_table("category", *numbers, numbers=numbers)
    for category in KernelCategory:
        old, new = before.by_category[category], after.by_category[category]
        if old or new:
            categories.add_row(category.value, f"{old:.2f}", f"{new:.2f}", f"{new - old:+.2f}")
    kernels = plain_table("category", *numbers, "kernel", numbers=numbers)
    for change in difference(before, after)[:MOST_SHOWN]:
        kernels.add_row(
            change.category.value,
            f"{change.before_ms:.3f}",
            f"{change.after_ms:.3f}",
            f"{change.change_ms:+.3f}",
            _short(change.name),
        )
    head = f"step: {before.step_ms:.2f} → {after.step_ms:.2f} ms"
    return f"{head}\n\n{render(categories)}\n\n{render(kernels)}"


def _changes_json(before: StepProfile, after: StepProfile, changes: list[KernelChange]) -> str:
    rows = [asdict(change) | {"change_ms": change.change_ms} for change in changes]
    totals = {"before_step_ms": before.step_ms, "after_step_ms": after.step_ms}
    return json.dumps(totals | {"kernels": rows}, indent=1)


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:57]}…"
