"""Goldens of step errors: the figures of each case when a person last accepted them.

Teacher-forced errors repeat. One that becomes 10% larger is a defect, one that becomes 10% smaller
is another computation than the one that was reviewed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from fluxfast.errors import FluxFastError
from fluxfast.files import locked, write_atomically
from fluxfast.files.reading import read_json
from fluxfast.quality.figures import QUALITY_METRICS
from fluxfast.quality.metrics import Quality

KEPT = ("step_error_mean", "prompt_error", "decoder_error")
TOLERANCE = 0.1  # of the golden, in either direction
# Smaller differences are rounding of float32, which depends on the CPU. That of bfloat16 is 0.002.
ROUNDING = 2e-5
FILE = "step_errors.json"


def has_step_goldens(folder: Path) -> bool:
    """Return whether step errors were recorded on this kind of machine."""
    return (folder / FILE).is_file()


def write_step_golden(folder: Path, case_id: str, quality: Quality) -> None:
    """Add the figures of a case to the goldens of this kind of machine, or replace them.

    Raises:
        FluxFastError: a figure is NaN or infinite, which no later run could be compared with.
    """
    figures = {name: quality.figure(name) for name in KEPT}
    if wrong := [f"{name} {x}" for name, x in figures.items() if not math.isfinite(x)]:
        raise FluxFastError(
            "a step error that is not finite is no golden",
            got=f"{case_id}: {', '.join(wrong)}",
            allowed="finite figures",
            remedy="find the network whose output is NaN or infinite",
        )
    with locked(folder / f"{FILE}.lock"):
        known = _read(folder / FILE) if has_step_goldens(folder) else {}
        known[case_id] = {name: float(f"{x:.4g}") for name, x in figures.items()}
        lines = (f"{json.dumps(key)}: {json.dumps(known[key])}" for key in sorted(known))
        write_atomically(folder / FILE, "{\n" + ",\n".join(lines) + "\n}\n")


def check_step_golden(folder: Path, case_id: str, quality: Quality) -> list[str]:
    """Return the figures that moved by more than 10%, in either direction.

    Raises:
        FluxFastError: the case has no golden.
    """
    known = _read(folder / FILE)
    if case_id not in known:
        raise FluxFastError(
            "this case has no golden of its step error",
            got=case_id,
            allowed=f"the cases in {folder / FILE}",
            remedy="look at the figures, then record the case with -k step_error --record",
        )
    moved = []
    for name, golden in known[case_id].items():
        now = quality.figure(name)
        if not abs(now - golden) <= max(TOLERANCE * golden, ROUNDING):
            change = f"{now / golden - 1:+.0%}" if golden else "none before"
            title = QUALITY_METRICS[name].title
            moved.append(
                f"{title} {now:.3g}, accepted {golden:.3g} ({change}): at most 10% in either "
                "direction; if it is intended, accept it with -k step_error --record"
            )
    return moved


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        found: dict[str, dict[str, float]] = read_json(path)
        all_figures = [figures.values() for figures in found.values()]
        if not all(isinstance(f, int | float) for figures in all_figures for f in figures):
            raise ValueError("a figure is not a number")
    except (OSError, ValueError, AttributeError) as error:
        raise FluxFastError(
            "the goldens of step errors cannot be read",
            got=f"{path}: {error}",
            allowed="the file that `pytest correctness_tests -k step_error --record` writes",
            remedy="restore the file from git, or record it again",
        ) from error
    return found
