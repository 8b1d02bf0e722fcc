"""`fluxfast doctor`: what this machine is, and which optimizations it has."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Collection
from typing import Any

from fluxfast.bench.baselines.baseline import baseline_for
from fluxfast.console import out
from fluxfast.errors import FluxFastError
from fluxfast.hardware import Hardware, detect, environment
from fluxfast.models.spec import DEV, default_request
from fluxfast.models.weights import is_cached
from fluxfast.optimizations.base import Optimization, Situation
from fluxfast.optimizations.registry import default_names, optimizations
from fluxfast.tables import WIDTH, plain_table, render


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor", help="hardware, stack, and which optimizations are available"
    )
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    hardware = detect(options.device)
    rows = optimization_rows(hardware)
    facts = environment(hardware) | {
        "baseline": _baseline_line(hardware),
        "hub_dev": is_cached(DEV.hub_id),
    }
    out(
        json.dumps(facts | {"optimizations": rows}, indent=1)
        if options.json
        else _text(facts, rows)
    )


def optimization_rows(hardware: Hardware) -> list[dict[str, Any]]:
    """Each optimization: on by default for dev here or not, or what would make it available."""
    situation = Situation(model=DEV, hardware=hardware, request=default_request(DEV, side=1024))
    on = default_names(situation)
    return [
        {
            "name": o.name,
            "axis": o.axis.value,
            "state": "on"
            if o.name in on
            else "absent"
            if o.why_unavailable(hardware)
            else "available",
            "why": o.why_unavailable(hardware) or o.slow_to_build(hardware) or o.summary,
        }
        for o in optimizations().values()
    ]


def _state(optimization: Optimization, on: Collection[str], hardware: Hardware) -> str:
    if optimization.name in on:
        return "on"
    return "absent" if optimization.why_unavailable(hardware) else "available"


def _baseline_line(hardware: Hardware) -> str:
    try:
        baseline = baseline_for("auto", hardware)
    except FluxFastError as error:
        return f"{error.problem}: {error.remedy}"
    return f"{baseline.path} ({len(baseline.results)} cases)"


def _text(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    hardware = facts["hardware"]
    lines = [
        f"machine   {hardware['name']} ({hardware['architecture']}), "
        f"{hardware['memory_gib']:.0f} GiB, {hardware['cores']} cores, Python {facts['python']}",
        textwrap.fill(
            ", ".join(f"{name} {version}" for name, version in hardware["packages"].items()),
            width=WIDTH,
            initial_indent="stack     ",
            subsequent_indent="          ",
        ),
        f"baseline  {facts['baseline']}",
    ]
    if "gpu" in facts:
        lines.insert(1, f"gpu       {', '.join(f'{k} {v}' for k, v in facts['gpu'].items())}")
    table = plain_table("optimization", "decides", "state", "what it is, or what it lacks")
    for row in rows:
        table.add_row(row["name"], row["axis"], row["state"], row["why"])
    return "\n".join(lines) + "\n\n" + render(table)
