"""`fluxfast doctor`: describe this machine and the state of every optimization on it."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fluxfast.bench.baselines.lookup import baseline_for
from fluxfast.console import out
from fluxfast.errors import FluxFastError
from fluxfast.hardware import Hardware, detect, environment
from fluxfast.models.hub_cache import is_cached
from fluxfast.models.spec import DEV, default_request
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Optimization
from fluxfast.optimizations.registry import (
    default_names,
    optimization_named,
    optimizations,
    why_invalid,
)
from fluxfast.optimizations.situation import Situation
from fluxfast.tables import WIDTH, plain_table, render

STATES = {"on": "on", "available": "available", "absent": "not supported"}


def add_parser(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "doctor", help="hardware, software, and which optimizations this machine supports"
    )
    parser.add_argument(
        "--device",
        choices=["auto", "cuda", "cpu"],
        default="auto",
        help="the device to describe (default: a GPU if there is one)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the machine, its baseline and the optimizations."""
    hardware = detect(options.device)
    rows = optimization_rows(hardware)
    facts = environment(hardware) | {
        "baseline": _baseline_line(hardware),
        "hub_dev": is_cached(DEV.hub_id),
        "without_bytecode": _without_bytecode("torch"),
        "packages": dict(sorted(hardware.packages.items())),
    }
    out(
        json.dumps(facts | {"optimizations": rows}, indent=1)
        if options.json
        else _text(facts, rows)
    )


def optimization_rows(hardware: Hardware) -> list[dict[str, Any]]:
    """Return the state of each optimization for dev at 1024×1024 on this machine.

    The state is `on` (a default), `available` (a plan accepts it when it is enabled, with other
    defaults replaced where they conflict) or `absent`, with the reason.
    """
    situation = Situation(model=DEV, hardware=hardware, request=default_request(DEV, side=1024))
    defaults = default_names(situation)
    return [_row(optimization, defaults, situation) for optimization in optimizations().values()]


def _row(
    optimization: Optimization, defaults: Collection[str], situation: Situation
) -> dict[str, Any]:
    name, hardware = optimization.name, situation.hardware
    reason = optimization.why_unavailable(hardware) or _why_refused(optimization, situation)
    state = "on" if name in defaults else "absent" if reason else "available"
    note = None if state == "on" else reason or optimization.slow_to_build(hardware)
    return {
        "name": name,
        "axis": optimization.axis.value,
        "state": state,
        "why": note or optimization.summary,
    }


def _why_refused(optimization: Optimization, situation: Situation) -> str | None:
    """Return why no plan accepts the optimization: with the defaults, and with what it requires."""
    choice: dict[Axis, str | None] = {optimization.axis: optimization.name}
    required = {
        optimization_named(name).axis: name
        for name in optimization.requires
        if not isinstance(name, Axis)
    }
    reasons = [
        why_invalid(default_names(situation, chosen), situation)
        for chosen in (choice, required | choice)
    ]
    return None if None in reasons else str(reasons[0]).removeprefix(f"{optimization.name}: ")


def _baseline_line(hardware: Hardware) -> str:
    try:
        baseline = baseline_for("auto", hardware)
    except FluxFastError as error:
        return f"{error.problem}: {error.remedy}"
    return f"{baseline.path} ({len(baseline.results)} cases)"


def _without_bytecode(package: str) -> str | None:
    """Return the folder that contains a package without bytecode; None if it has bytecode."""
    spec = find_spec(package)
    if not (spec and spec.cached and spec.origin) or Path(spec.cached).exists():
        return None
    return str(Path(spec.origin).parents[1])


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
    if folder := facts["without_bytecode"]:
        lines.append(
            "start     slow: Python compiles all sources of PyTorch anew; "
            f"run {sys.executable} -m compileall -q {folder}"
        )
    if "gpu" in facts:
        lines.insert(1, f"gpu       {', '.join(f'{k} {v}' for k, v in facts['gpu'].items())}")
    table = plain_table("optimization", "axis", "state", "description, or reason")
    for row in rows:
        table.add_row(row["name"], row["axis"], STATES[row["state"]], row["why"])
    return "\n".join(lines) + "\n\n" + render(table)
