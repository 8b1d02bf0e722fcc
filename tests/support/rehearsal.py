"""A GPU that is not here, for the commands of the documentation: what is measured on it is made.

The machine is the one that a baseline describes. Everything is the real thing but the pipeline and
the clock: options, plans, cases, files, verdicts, tables, exit statuses. No GPU was near them.
"""

import itertools
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from PIL import Image

from fluxfast.bench.baselines.baseline import SHIPPED, find_baseline
from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.machine import hardware_of
from fluxfast.bench.results.result import CaseResult, ImageTiming, write_result
from fluxfast.cli import bench, generate, pipeline_options, roofline, selftest
from fluxfast.hardware import Hardware
from fluxfast.optimizations.base import Plan
from fluxfast.profiling.roofline import Ceilings
from tests.support.machines import EVERYTHING
from tests.support.results import result

NUMBERS = itertools.count()
CEILINGS = Ceilings(gemm_tflops=1300.0, attention_tflops=900.0, copy_tb_s=4.3)


def described(gpu: str, baselines: Path = SHIPPED) -> Hardware:
    """As the results of its baseline have it, or with every package where it has none."""
    baseline = find_baseline(gpu, baselines)
    known = [results[-1] for results in baseline.results.values()]
    return hardware_of(known[0]) if known else baseline.gpu.hardware(EVERYTHING)


def made(case: Case, hardware: Hardware, known: CaseResult | None = None) -> CaseResult:
    """As it is `known`, else a result of any figures; of a commit, and of a process of its own."""
    told = {"commit": "made", "dirty": False, "process": next(NUMBERS)}
    if known:
        return replace(known, provenance=told)
    beside = () if hardware.is_gpu else (2.0, 2.0, 2.0)
    return result(
        1.0, case=case, hardware=hardware, reference_e2e_s=beside, compiles=False, provenance=told
    )


@dataclass
class Rehearsal:
    """A plugin for `pytest perf_tests`; `failures`: what each failing test said."""

    selected: int = 0
    failures: list[str] = field(default_factory=list)

    def pytest_collection_modifyitems(self, items):
        self.selected = len(items)
        for module in {item.module for item in items}:
            module.measured = measured
            module.measure_in = measured_in

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failures.append(report.longreprtext)


def measured(planned, suite, request):
    """In the place of `measured` of perf_tests."""
    known = suite.baseline.results.get(planned.case.id, (None,))[-1]
    found = made(planned.case, suite.hardware, known)
    write_result(suite.results_folder, found)
    return found


def measured_in(tree, cases, options, results, say):
    """In the place of a process of another revision, or of this one beside it."""
    found = {case.id: made(case, described("h200")) for case in cases}
    for one in found.values():
        write_result(results, one)
    return found


def run_pytest(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, Rehearsal]:
    """`pytest perf_tests …` in the folder where we are, on the GPU that it names or on this CPU."""
    gpu = arguments[arguments.index("--gpu") + 1]
    if gpu != "cpu":
        machine = described(gpu, Path("baselines"))
        monkeypatch.setattr("fluxfast.pytest_plugin.session.detect", lambda device: machine)
    monkeypatch.setattr("fluxfast.bench.ab.against.worktree", lambda *_: nullcontext(Path()))
    rehearsal = Rehearsal()
    here = [f"--rootdir={Path.cwd()}", "--baselines=baselines", "-p", "no:cacheprovider"]
    return pytest.main([*arguments, *here, "-p", "no:faulthandler"], plugins=[rehearsal]), rehearsal


class StandIn:
    """Of a built pipeline, which draws a grey picture."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.request, self.pipeline = plan, plan.situation.request, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def generate(self):
        return [Image.new("RGB", (self.request.width, self.request.height), "grey")]


def rehearse_commands(gpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`fluxfast generate`, `bench`, `roofline` and `selftest` are on this GPU from now on."""
    hardware = described(gpu)
    for command in (pipeline_options, roofline, selftest):
        monkeypatch.setattr(command, "detect", lambda device: hardware)
    monkeypatch.setattr(pipeline_options, "build", lambda checkpoint, plan, **_: StandIn(plan))
    monkeypatch.setattr(generate, "observed", lambda *_: nullcontext())
    monkeypatch.setattr(bench, "time_image", lambda built: (timing(built), built.generate()))
    monkeypatch.setattr(bench, "reset_peak_memory", lambda built: None)
    monkeypatch.setattr(bench, "peak_memory_gib", lambda built: 25.0)
    monkeypatch.setattr(roofline, "measured_ceilings", lambda *_, **__: CEILINGS)
    monkeypatch.setattr(roofline, "_step_ms", lambda *_: 76.0)
    monkeypatch.setattr(selftest, "REPOSITORY", Path.cwd())
    monkeypatch.setattr(selftest, "_start", self_tested)


def timing(built: StandIn) -> ImageTiming:
    steps = (76.0,) * built.request.num_inference_steps
    return replace(result(2.2).images[0], step_ms=steps)


def self_tested(process: int, options) -> None:
    """In the place of a process of the self-test: no fault makes a difference."""
    folder = options.results / str(process)
    hardware = selftest.detect("auto")
    for planned in selftest._cases(options, hardware):
        for fault in selftest.faults(hardware):
            for number in range(options.runs):
                write_result(folder / f"{fault.name} {number}", made(planned.case, hardware))
    (folder / "done").touch()
