"""`fluxfast matrix`: every case of a matrix, and why the others are not there."""

from __future__ import annotations

import argparse
import json
from typing import Any

from fluxfast.bench.baseline import find_baseline
from fluxfast.bench.matrix import MATRICES, Excluded
from fluxfast.bench.planned import PlannedCase, planned_cases
from fluxfast.bench.report import plain_table, render
from fluxfast.console import out
from fluxfast.hardware import STACK, Hardware, detect
from fluxfast.model import MODELS


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("matrix", help="which cases there are, here or on another GPU")
    parser.add_argument(
        "--gpu", default="auto", help="auto, cpu, or a GPU with a file in baselines/"
    )
    parser.add_argument("--matrix", default="ablation", help=", ".join(MATRICES))
    parser.add_argument("--model", action="append", help=f"one of {', '.join(MODELS)} (all)")
    parser.add_argument("--weights", default="auto", help="auto, hub, synthetic or mini")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    hardware = hardware_named(options.gpu)
    cases, left_out = planned_cases(
        options.matrix, options.model or list(MODELS), options.weights, hardware
    )
    out(_json(cases, left_out) if options.json else _tables(cases, left_out, hardware))


def hardware_named(gpu: str) -> Hardware:
    """This machine for `auto` and `cpu`; a described one, with every package on it, for a name."""
    if gpu in ("auto", "cpu"):
        return detect(gpu)
    return find_baseline(gpu).gpu.hardware(dict.fromkeys(STACK, "any"))


def _json(cases: list[PlannedCase], left_out: dict[str, list[Excluded]]) -> str:
    rows: list[dict[str, Any]] = [
        {"case": c.case.id, "label": c.label, "valid": True} | c.case.to_json() for c in cases
    ]
    rows += [
        {"model": model, "optimization": e.name, "valid": False, "reason": e.reason}
        for model, reasons in left_out.items()
        for e in reasons
    ]
    return json.dumps(rows, indent=1)


def _tables(
    cases: list[PlannedCase], left_out: dict[str, list[Excluded]], hardware: Hardware
) -> str:
    valid = plain_table("model", "case", "optimizations")
    for planned in cases:
        valid.add_row(planned.case.model, planned.label, " + ".join(planned.case.optimizations))
    absent = plain_table("model", "left out", "why")
    for model, reasons in left_out.items():
        for reason in reasons:
            absent.add_row(model, reason.name, reason.reason)
    head = f"{len(cases)} cases on {hardware.name} ({hardware.architecture})"
    return f"{head}\n\n{render(valid)}\n\n{render(absent)}"
