"""`fluxfast selftest`: inject slowdowns of a known size and count how often the gate sees them."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from fluxfast.bench.baselines.baseline import PROCESSES
from fluxfast.bench.baselines.lookup import baseline_for
from fluxfast.bench.cases.planned import PlannedCase, parse_resolution, planned_cases
from fluxfast.bench.measurement.paired import one_thread_on_a_cpu, paired_references
from fluxfast.bench.results.folders import locked, new_folder
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.store import read_result, result_path
from fluxfast.bench.selftest import UNCHANGED, CaseReport, Rate, case_report, report_text
from fluxfast.bench.selftest_process import (
    SEEN,
    drop_optimizations,
    injected_faults,
    measure_faults,
)
from fluxfast.console import Console, out
from fluxfast.errors import FluxFastError
from fluxfast.files import local_folder, stated_path
from fluxfast.hardware import Hardware, detect
from fluxfast.models.spec import MODELS
from fluxfast.models.weights import WEIGHTS_CHOICES
from fluxfast.processes import end_with_parent


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "selftest", help="inject slowdowns and report which of them the gate detects"
    )
    parser.add_argument(
        "--gpu",
        default="auto",
        help="name of the machine's baseline (%(default)s)",
    )
    parser.add_argument("--matrix", default="smoke", help="which cases (%(default)s)")
    parser.add_argument(
        "--model", action="append", choices=list(MODELS), help="repeat for more (all)"
    )
    parser.add_argument(
        "--weights", default="auto", help=f"{', '.join(WEIGHTS_CHOICES)} (%(default)s)"
    )
    parser.add_argument("--resolution", help="HEIGHTxWIDTH in pixels (the weights' own)")
    parser.add_argument("--num-inference-steps", type=int, help="denoising steps (the model's own)")
    parser.add_argument(
        "--processes", type=int, default=PROCESSES, help="processes, at least 3 (%(default)s)"
    )
    parser.add_argument(
        "--runs", type=int, default=2, help="runs of each fault in a process (%(default)s)"
    )
    parser.add_argument("--images", type=int, help="images of a run (as many as the noise needs)")
    parser.add_argument(
        "--results", type=stated_path, help="folder of the runs (a new one in .fluxfast/selftest)"
    )
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure all faults in several processes and print the report."""
    if options.process is not None:
        end_with_parent()  # before anything that takes time
    if options.processes < PROCESSES:
        raise FluxFastError(
            "too few processes to know their scatter",
            got=options.processes,
            allowed=f"{PROCESSES} or more",
            remedy="leave --processes out",
        )
    for name in ("runs", "images"):
        count = getattr(options, name)
        if count is not None and count < 1:
            raise FluxFastError(
                f"a self-test without {name}",
                got=count,
                allowed="1 or more",
                remedy=f"leave --{name} out",
            )
    hardware = detect("cpu" if options.gpu == "cpu" else "auto")
    baseline = baseline_for(options.gpu, hardware)
    cases = planned(options, hardware)
    if options.process is not None:
        measure_all(cases, options, Console())
        return
    options.results = options.results or new_folder(local_folder() / "selftest")
    with locked(options.results):
        for process in range(options.processes):
            if not (options.results / str(process) / "done").exists():
                start(process, options)
    out(_report(cases, options, list(baseline.results.values())))
    out(f"\nruns: {options.results}")


def planned(options: argparse.Namespace, hardware: Hardware) -> list[PlannedCase]:
    """Return the cases that the options ask for."""
    height, width = (
        parse_resolution(options.resolution) if options.resolution is not None else (None, None)
    )
    cases, _ = planned_cases(
        options.matrix,
        options.model or list(MODELS),
        options.weights,
        hardware,
        height=height,
        width=width,
        num_inference_steps=options.num_inference_steps,
    )
    return cases


def start(process: int, options: argparse.Namespace) -> None:
    """Measure in a process of its own, with this one's options."""
    arguments = [*sys.argv[1:], f"--process={process}", f"--results={options.results}"]
    command = [sys.executable, "-m", "fluxfast", *arguments]
    done = subprocess.run(command)
    if done.returncode:
        raise FluxFastError(
            "a process of the self-test failed",
            got=f"exit status {done.returncode} of {' '.join(command[1:])}",
            allowed="all of them complete",
            remedy=f"see above; go on with --results {options.results}",
        )


def measure_all(cases: list[PlannedCase], options: argparse.Namespace, console: Console) -> None:
    """Measure every fault in every case, as one process."""
    folder = options.results / str(options.process)
    hardware = cases[0].plan.situation.hardware
    with one_thread_on_a_cpu(hardware), paired_references() as references:
        for case in cases:
            console.stage(f"process {options.process + 1}: {case.case.id}")
            measure_faults(case, references, folder, runs=options.runs, images=options.images)
            drop_optimizations(case, folder)
    (folder / "done").touch()


def _report(
    cases: list[PlannedCase], options: argparse.Namespace, known: list[tuple[CaseResult, ...]]
) -> str:
    """Return the report.

    Args:
        cases: the cases.
        options: the command line, for the folders of results.
        known: the baseline's processes of each case, which also show the noise.
    """
    folders = [options.results / str(process) for process in range(options.processes)]
    unchanged = {
        case.case.id: [runs[0] for runs in _runs(case, UNCHANGED, folders, options.runs)]
        for case in cases
    }
    reports = [_case_report(case, folders, options.runs, known, unchanged) for case in cases]
    return report_text(reports, _dropped(folders))


def _runs(
    planned: PlannedCase, fault: str, folders: list[Path], count: int
) -> list[list[CaseResult]]:
    """Return the runs of a fault, for each process."""
    return [
        [read_result(result_path(folder / f"{fault} {n}", planned.case)) for n in range(count)]
        for folder in folders
    ]


def _case_report(
    planned: PlannedCase,
    folders: list[Path],
    count: int,
    known: list[tuple[CaseResult, ...]],
    unchanged: dict[str, list[CaseResult]],
) -> CaseReport:
    names = [fault.name for fault in injected_faults(planned.plan.situation.hardware)]
    others = [other for case_id, other in unchanged.items() if case_id != planned.case.id]
    return case_report(
        f"{planned.case.model}, {planned.label}",
        {fault: _runs(planned, fault, folders, count) for fault in names},
        [*known, *others],
    )


def _dropped(folders: list[Path]) -> dict[str, Rate]:
    """Return how often a proof saw that an optimization was silently not applied."""
    words: dict[str, list[str]] = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.dropped"))):
        name = path.stem.rpartition(" ")[2]
        words.setdefault(f"{name} silently not applied", []).append(path.read_text())
    return {what: Rate(count=seen.count(SEEN), total=len(seen)) for what, seen in words.items()}
