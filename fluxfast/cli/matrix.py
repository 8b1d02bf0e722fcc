"""`fluxfast matrix`: list the cases of a matrix and what it excludes."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

from fluxfast.bench.baselines.lookup import find_baseline
from fluxfast.bench.cases.matrix import MATRICES, Excluded, Names, invalid
from fluxfast.bench.cases.planned import PlannedCase, planned_cases, situation_of
from fluxfast.console import out
from fluxfast.errors import FluxFastError
from fluxfast.hardware import Hardware, detect
from fluxfast.models.spec import MODELS
from fluxfast.models.weights import WEIGHTS_CHOICES, resolve
from fluxfast.optimizations.registry import optimizations
from fluxfast.tables import plain_table, render

MOST_INVALID_SHOWN = 40


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "matrix", help="list the cases of a matrix, for this machine or another GPU"
    )
    parser.add_argument(
        "--gpu",
        default="auto",
        help="auto, cpu, or a GPU with a baseline file, such as h200 (%(default)s)",
    )
    parser.add_argument(
        "--gpus", type=int, default=1, help="GPUs that share an image (%(default)s)"
    )
    parser.add_argument(
        "--matrix", default="ablation", help=f"one of {', '.join(MATRICES)} (%(default)s)"
    )
    parser.add_argument(
        "--model",
        action="append",
        help=f"one of {', '.join(MODELS)}; repeat for several (default: all)",
    )
    parser.add_argument(
        "--weights", default="auto", help=f"{', '.join(WEIGHTS_CHOICES)} (%(default)s)"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON, with a reason for every excluded combination",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the matrix as tables or as JSON."""
    hardware = hardware_named(options.gpu, options.gpus)
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


def hardware_named(gpu: str, gpus: int = 1) -> Hardware:
    """Return this machine for `auto` and `cpu`; else the named GPU with every package installed."""
    if gpu in ("auto", "cpu"):
        return detect(gpu, gpus)
    needed = [package.name for o in optimizations().values() for package in o.packages]
    if gpus < 1:
        raise FluxFastError(
            "invalid number of GPUs", got=gpus, allowed="1 or more", remedy="leave --gpus out"
        )
    named = find_baseline(gpu).gpu.hardware(dict.fromkeys(["torch", *needed], "any"))
    return replace(named, gpus=max(named.gpus, gpus))


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
        valid.add_row(planned.case.model, planned.label, " + ".join(planned.case.combination))
    missing = plain_table("model", "excluded", "reason")
    for model, excluded_here in left_out.items():
        for one in excluded_here:
            missing.add_row(model, one.name, one.reason)
    counted = sum(map(len, not_valid.values()))
    if counted <= MOST_INVALID_SHOWN:
        for model, reasons in not_valid.items():
            for names, reason in reasons.items():
                missing.add_row(model, " + ".join(names), reason)
    else:
        missing.add_row("", f"{counted} invalid combinations", "--json lists each with its reason")
    head = f"{len(cases)} cases on {hardware.name} ({hardware.architecture})"
    return f"{head}\n\n{render(valid)}\n\n{render(missing)}"
