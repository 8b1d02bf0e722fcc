"""`fluxfast matrix`: every case of a matrix, and why the others are not there."""

from __future__ import annotations

import argparse
import json
from typing import Any

from fluxfast.bench.baselines.baseline import find_baseline
from fluxfast.bench.cases.matrix import MATRICES, Excluded, Names, invalid
from fluxfast.bench.cases.planned import PlannedCase, planned_cases, situation_of
from fluxfast.console import out
from fluxfast.hardware import Hardware, detect
from fluxfast.models.spec import MODELS
from fluxfast.models.weights import resolve
from fluxfast.optimizations.registry import optimizations
from fluxfast.tables import plain_table, render

MOST_INVALID_SHOWN = 40


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
    models = options.model or list(MODELS)
    cases, left_out = planned_cases(options.matrix, models, options.weights, hardware)
    not_valid = {
        model: invalid(
            options.matrix, situation_of(resolve(model, options.weights, hardware), hardware)
        )
        for model in models
    }
    if options.json:
        out(_json(cases, left_out, not_valid))
    else:
        out(_tables(cases, left_out, not_valid, hardware))


def hardware_named(gpu: str) -> Hardware:
    """This machine for `auto` and `cpu`; a described one, with every package on it, for a name."""
    if gpu in ("auto", "cpu"):
        return detect(gpu)
    needed = [package.name for o in optimizations().values() for package in o.packages]
    return find_baseline(gpu).gpu.hardware(dict.fromkeys(["torch", *needed], "any"))


def _json(
    cases: list[PlannedCase],
    left_out: dict[str, list[Excluded]],
    not_valid: dict[str, dict[Names, str]],
) -> str:
    rows: list[dict[str, Any]] = [
        {"case": c.case.id, "label": c.label, "valid": True} | c.case.to_json() for c in cases
    ]
    rows += [
        {"model": model, "optimizations": list(names), "valid": False, "reason": reason}
        for model, reasons in not_valid.items()
        for names, reason in reasons.items()
    ]
    rows += [
        {"model": model, "optimizations": [e.name], "valid": False, "reason": e.reason}
        for model, reasons in left_out.items()
        for e in reasons
    ]
    return json.dumps(rows, indent=1)


def _tables(
    cases: list[PlannedCase],
    left_out: dict[str, list[Excluded]],
    not_valid: dict[str, dict[Names, str]],
    hardware: Hardware,
) -> str:
    valid = plain_table("model", "case", "optimizations")
    for planned in cases:
        valid.add_row(planned.case.model, planned.label, " + ".join(planned.case.optimizations))
    absent = plain_table("model", "left out", "why")
    for model, excluded_here in left_out.items():
        for one in excluded_here:
            absent.add_row(model, one.name, one.reason)
    counted = sum(map(len, not_valid.values()))
    if counted <= MOST_INVALID_SHOWN:
        for model, reasons in not_valid.items():
            for names, reason in reasons.items():
                absent.add_row(model, " + ".join(names), reason)
    else:
        absent.add_row("", f"{counted} invalid combinations", "--json has each with its reason")
    head = f"{len(cases)} cases on {hardware.name} ({hardware.architecture})"
    return f"{head}\n\n{render(valid)}\n\n{render(absent)}"
