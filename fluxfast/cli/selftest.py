"""`fluxfast selftest`: put known slowdowns in, and see what the gate says."""

from __future__ import annotations

import argparse
import subprocess
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from fluxfast.bench.baselines.baseline import PROCESSES, REPOSITORY, baseline_for
from fluxfast.bench.cases.planned import PlannedCase, parse_resolution, planned_case, planned_cases
from fluxfast.bench.measurement.canary import FixedWork, canaries
from fluxfast.bench.measurement.faults import Delay, block_twice, without_applying
from fluxfast.bench.measurement.sampler import (
    Sampler,
    case_result,
    peak_memory_gib,
    reset_peak_memory,
)
from fluxfast.bench.measurement.sampling import limits_on
from fluxfast.bench.results.result import (
    CaseResult,
    ImageTiming,
    read_result,
    result_path,
    write_result,
)
from fluxfast.bench.selftest import UNCHANGED, Rate, case_report, report_text
from fluxfast.console import Console, out
from fluxfast.errors import FluxFastError
from fluxfast.hardware import Hardware, detect
from fluxfast.models.spec import MODELS
from fluxfast.optimizations.base import Axis
from fluxfast.optimizations.compilation._compiler import comparable_compile_time
from fluxfast.pipeline.build import build
from fluxfast.profiling.evidence import dynamo_counters, gather_evidence, proofs
from fluxfast.profiling.telemetry import reader

PERCENTS = (1, 2, 5, 10)
PERCENTS_ON_CPU = (5, 10, 15, 25)
SEEN, UNSEEN = "seen", "unseen"
TWICE = "one block run twice"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`share` of a step that each step takes longer."""

    name: str
    share: float = 0.0
    on_device: bool = False


def faults(hardware: Hardware) -> list[Fault]:
    delays = [
        Fault(name=f"+{percent}% on the {where}", share=percent / 100, on_device=where == "device")
        for where in ("device", "host")
        for percent in (PERCENTS if hardware.is_gpu else PERCENTS_ON_CPU)
    ]
    return [Fault(name=UNCHANGED), *delays, Fault(name=TWICE)]


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("selftest", help="what the gate sees of slowdowns put in")
    parser.add_argument("--gpu", default="auto")
    parser.add_argument("--matrix", default="smoke")
    parser.add_argument("--model", action="append", choices=list(MODELS))
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--resolution")
    parser.add_argument("--num-inference-steps", type=int)
    parser.add_argument("--processes", type=int, default=PROCESSES, help="three at least (3)")
    parser.add_argument("--runs", type=int, default=2, help="runs of each fault in a process (2)")
    parser.add_argument("--images", type=int, help="of a run (as many as the gate takes at first)")
    parser.add_argument("--results", type=Path, help="where runs go (in .fluxfast/selftest)")
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    if options.processes < PROCESSES:
        raise FluxFastError(
            "too few processes to know their scatter",
            got=options.processes,
            allowed=f"{PROCESSES} or more",
            remedy="leave --processes out",
        )
    hardware = detect("cpu" if options.gpu == "cpu" else "auto")
    baseline = baseline_for(options.gpu, hardware)
    cases = _cases(options, hardware)
    if options.process is not None:
        _measure_all(cases, options, Console())
        return
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    options.results = options.results or REPOSITORY / ".fluxfast" / "selftest" / now
    for process in range(options.processes):
        if not (options.results / str(process) / "done").exists():
            _start(process, options)
    out(_report(cases, options, list(baseline.results.values())))
    out(f"\nruns: {options.results}")


def _cases(options: argparse.Namespace, hardware: Hardware) -> list[PlannedCase]:
    height, width = parse_resolution(options.resolution) if options.resolution else (None, None)
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


def _start(process: int, options: argparse.Namespace) -> None:
    """A process of its own, with this one's options."""
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


def _measure_all(cases: list[PlannedCase], options: argparse.Namespace, console: Console) -> None:
    import torch

    folder = options.results / str(options.process)
    if not cases[0].plan.situation.hardware.is_gpu:
        torch.set_num_threads(1)  # as perf_tests does
    for planned in cases:
        console.stage(f"process {options.process + 1}: {planned.case.id}")
        _measure(planned, options, folder)
        _drop(planned, folder)
    (folder / "done").touch()


def _measure(planned: PlannedCase, options: argparse.Namespace, folder: Path) -> None:
    """Every fault in turn, again and again, in one built pipeline."""
    with ExitStack() as stack:
        situation = planned.plan.situation
        stack.enter_context(comparable_compile_time(situation.hardware))
        built = stack.enter_context(build(planned.checkpoint, planned.plan))
        beside: dict[str, Any] = {"read_gpu": reader(situation.hardware)}
        if not situation.hardware.is_gpu:
            eager = planned_case((), planned.checkpoint, situation)
            beside["eager"] = stack.enter_context(build(eager.checkpoint, eager.plan))
            beside["fixed_work"] = FixedWork()
        limits = replace(limits_on(situation.hardware.is_gpu), rounds=options.images)
        warm = Sampler(built=built, limits=limits)
        first = warm.first_image()
        warm.warm_up()
        warm_graphs = dynamo_counters()["unique_graphs"]
        for number in range(options.runs):
            for fault in faults(situation.hardware):
                sampler = Sampler(built=built, limits=warm.limits, why_warm=warm.why_warm, **beside)
                write_result(
                    folder / f"{fault.name} {number}",
                    _run(sampler, planned, fault, warm.steady_step_ms, first, warm_graphs),
                )


def _run(
    sampler: Sampler,
    planned: PlannedCase,
    fault: Fault,
    step_ms: float,
    first: ImageTiming,
    warm_graphs: int,
) -> CaseResult:
    built, hardware = sampler.built, planned.plan.situation.hardware
    if fault.share:
        delay = Delay(ms=fault.share * step_ms, on_device=fault.on_device, hardware=hardware)
        sampler.faults = (delay,)
    reset_peak_memory(built)
    with block_twice(built.pipeline) if fault.name == TWICE else nullcontext():
        sampler.discard_boosted_images()
        while not sampler.why_enough:
            sampler.sample()
        peak_gib = peak_memory_gib(built)
        evidence = gather_evidence(built)
    return case_result(
        sampler,
        planned.case,
        first=first,
        warm_graphs=warm_graphs,
        evidence=evidence,
        proofs=proofs(evidence),
        canaries={name: (value,) for name, value in canaries(hardware).items()},
        peak_memory_gib=peak_gib,
        package_mib=None,
    )


def _drop(planned: PlannedCase, folder: Path) -> None:
    """Each of cache and compiler silently not applied: does its proof notice?"""
    dropped = [o.name for o in planned.plan.optimizations if o.axis in (Axis.CACHE, Axis.COMPILE)]
    for name in dropped:
        with build(planned.checkpoint, without_applying(planned.plan, name)) as built:
            built.generate()
            seen = proofs(gather_evidence(built))
        folder.mkdir(parents=True, exist_ok=True)
        word = UNSEEN if seen[name].is_active else SEEN
        (folder / f"{planned.case.id} {name}.dropped").write_text(word)


def _report(
    cases: list[PlannedCase], options: argparse.Namespace, known: list[tuple[CaseResult, ...]]
) -> str:
    """`known`: the baseline's processes of each case, which tell the gate of the noise."""
    folders = [options.results / str(process) for process in range(options.processes)]
    names = [fault.name for fault in faults(cases[0].plan.situation.hardware)]

    def runs(planned: PlannedCase, fault: str) -> list[list[CaseResult]]:
        return [
            [
                read_result(result_path(folder / f"{fault} {number}", planned.case))
                for number in range(options.runs)
            ]
            for folder in folders
        ]

    unchanged = {p.case.id: [own[0] for own in runs(p, UNCHANGED)] for p in cases}
    reports = [
        case_report(
            f"{planned.case.model}, {planned.label}",
            {fault: runs(planned, fault) for fault in names},
            [
                *known,
                *(other for case_id, other in unchanged.items() if case_id != planned.case.id),
            ],
        )
        for planned in cases
    ]
    dropped: dict[str, list[str]] = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.dropped"))):
        name = path.stem.rpartition(" ")[2]
        dropped.setdefault(f"{name} silently not applied", []).append(path.read_text())
    rates = {what: Rate(count=s.count(SEEN), total=len(s)) for what, s in dropped.items()}
    return report_text(reports, rates)
