"""`fluxfast profile`: which kernels a step of a case is made of, and which made it slower."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fluxfast.bench.cases.planned import planned_from_id
from fluxfast.console import Console, out
from fluxfast.errors import FluxFastError
from fluxfast.hardware import detect
from fluxfast.optimizations.base import KernelCategory
from fluxfast.pipeline.build import build
from fluxfast.profiling.kernel_profile import (
    KernelChange,
    StepProfile,
    difference,
    read_profile,
)
from fluxfast.profiling.trace import write_trace
from fluxfast.tables import plain_table, render

MOST_SHOWN = 25


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("profile", help="which kernels a denoising step is made of")
    parser.add_argument("case", nargs="?", metavar="CASE", help="as `fluxfast matrix` names it")
    parser.add_argument(
        "--diff", nargs=2, type=Path, metavar=("A", "B"), help="two traces: what changed from A"
    )
    parser.add_argument("--trace-file", type=Path, help="where the trace goes (CASE.json.gz)")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    if bool(options.case) == bool(options.diff):
        raise FluxFastError(
            "a case to profile, or two traces to compare",
            got="both" if options.case else "neither",
            allowed="CASE, or --diff A B",
            remedy="as: fluxfast profile dev-mini-256x256-b1-s28-eager",
        )
    if options.diff:
        before, after = (read_profile(path) for path in options.diff)
        changes = difference(before, after)
        out(_changes_json(before, after, changes) if options.json else _changes(before, after))
        return
    path = options.trace_file or Path(f"{options.case}.json.gz")
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
    console.say(f"wrote {path}")


def to_json(profile: StepProfile) -> dict[str, Any]:
    return asdict(profile) | {"by_category_ms": profile.by_category}


def _table(profile: StepProfile) -> str:
    numbers = ("ms a step", "share", "runs")
    categories = plain_table("category", *numbers[:2], numbers=numbers)
    for category, ms in profile.by_category.items():
        if ms:
            categories.add_row(category.value, f"{ms:.2f}", f"{ms / profile.step_ms:.0%}")
    kernels = plain_table("category", numbers[0], numbers[2], "kernel", numbers=numbers)
    for kernel in profile.kernels[:MOST_SHOWN]:
        figures = f"{kernel.step_ms:.3f}", f"{kernel.runs:.0f}"
        kernels.add_row(kernel.category.value, *figures, _short(kernel.name))
    head = f"a step takes {profile.step_ms:.2f} ms, mean of {profile.steps}"
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
    head = f"a step: {before.step_ms:.2f} → {after.step_ms:.2f} ms"
    return f"{head}\n\n{render(categories)}\n\n{render(kernels)}"


def _changes_json(before: StepProfile, after: StepProfile, changes: list[KernelChange]) -> str:
    rows = [asdict(change) | {"change_ms": change.change_ms} for change in changes]
    totals = {"before_step_ms": before.step_ms, "after_step_ms": after.step_ms}
    return json.dumps(totals | {"kernels": rows}, indent=1)


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:57]}…"
