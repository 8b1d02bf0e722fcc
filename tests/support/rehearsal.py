"""Run the documentation's commands as on a GPU that is not here, with synthetic measurements.

The machine is the one that a baseline describes. Only the pipeline and the clock are replaced:
options, plans, cases, files, verdicts, tables and exit statuses are real.
"""

import itertools
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from fluxfast.bench.baselines.lookup import find_baseline
from fluxfast.bench.cases.case import Case
from fluxfast.bench.measurement import Measurement
from fluxfast.bench.results.image_timing import ImageTiming
from fluxfast.bench.results.machine import hardware_of
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.store import write_result
from fluxfast.cli import bench, generate, pipeline_options, roofline, selftest
from fluxfast.hardware import Hardware
from fluxfast.optimizations.base import Plan, ProfiledStep
from fluxfast.profiling.roofline import Ceilings
from tests.support.machines import EVERYTHING
from tests.support.pages import REPOSITORY
from tests.support.results import result

NUMBERS = itertools.count()
CEILINGS = Ceilings(gemm_tflops=1300.0, attention_tflops=900.0, copy_tb_s=4.3)


def described(gpu: str, baselines: Path | None = None) -> Hardware:
    """Return the machine of a GPU's baseline, with every package if the baseline is empty."""
    baseline = find_baseline(gpu, baselines)
    known = [results[-1] for results in baseline.results.values()]
    return hardware_of(known[0]) if known else baseline.gpu.hardware(EVERYTHING)


def synthetic(case: Case, hardware: Hardware, known: CaseResult | None = None) -> CaseResult:
    """Return `known` or a result with any figures, from a commit and a process of its own."""
    origin = {"commit": "synthetic", "dirty": False, "process": next(NUMBERS)}
    if known:
        return replace(known, provenance=origin)
    paired = () if hardware.is_gpu else (2.0, 2.0, 2.0)
    return result(
        1.0, case=case, hardware=hardware, reference_e2e_s=paired, compiles=False, provenance=origin
    )


@dataclass
class Rehearsal:
    """A plugin for `pytest perf_tests` that measures nothing.

    Attributes:
        selected: how many tests were selected.
        failures: the message of each test that failed.
    """

    selected: int = 0
    failures: list[str] = field(default_factory=list)

    def pytest_collection_modifyitems(self, items):
        self.selected = len(items)
        for module in {item.module for item in items}:
            module.measured = measured

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failures.append(report.longreprtext)


def measured(planned, suite, request) -> Measurement:
    """Stand in for `measured` of perf_tests."""
    known = suite.baseline.results.get(planned.case.id, (None,))[-1]
    return Measurement(
        result=synthetic(planned.case, suite.hardware, known),
        step=ProfiledStep(),
        image=Image.new("RGB", (8, 8), "grey"),
        eager_image=None,
    )


def measured_in(installation, request, report):
    """Stand in for a measuring process of either side."""
    machine = described("h200")
    found = {case_id: synthetic(Case.from_id(case_id), machine) for case_id in request.cases}
    for one in found.values():
        write_result(request.results, one)
    return found


def forget_suites() -> None:
    """Forget the test modules of both suites: one process may run those of a copy, too."""
    names = {path.stem for path in REPOSITORY.glob("*_tests/test_*.py")}
    for name in [name for name in sys.modules if name.rpartition(".")[2] in names]:
        del sys.modules[name]


def run_pytest(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, Rehearsal]:
    """Run `pytest perf_tests …` in the working directory, on the GPU it names or on this CPU."""
    gpu = arguments[arguments.index("--gpu") + 1]
    here = [f"--rootdir={Path.cwd()}", "-p", "no:cacheprovider", "-p", "no:faulthandler"]
    if gpu != "cpu":
        here += ["--baselines=baselines"]
        machine = described(gpu, Path("baselines"))
        monkeypatch.setattr(
            "fluxfast.pytest_plugin.session.detect",
            lambda device, gpus: replace(machine, gpus=gpus),
        )
    monkeypatch.setattr("fluxfast.pytest_plugin.baselines.changed_sources", lambda: ())
    monkeypatch.setattr("fluxfast.bench.ab.revision.worktree", lambda *_: nullcontext(Path()))
    monkeypatch.setattr("fluxfast.pytest_plugin.plugin.check_other_side", lambda options: None)
    monkeypatch.setattr(
        "fluxfast.pytest_plugin.comparing.ProcessSettings.describe", lambda settings: None
    )
    monkeypatch.setattr("fluxfast.pytest_plugin.comparing.measure_in", measured_in)
    rehearsal = Rehearsal()
    forget_suites()
    return pytest.main([*arguments, *here], plugins=[rehearsal]), rehearsal


class StandIn:
    """Stand in for a built pipeline; it generates a gradient."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.request = plan, plan.situation.request
        self.pipeline = SimpleNamespace(tokenizer=None, tokenizer_2=None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def generate(self):
        return [Image.linear_gradient("L").convert("RGB")]


def rehearse_commands(gpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands that detect the machine find this GPU from now on."""
    hardware = described(gpu)
    for command in (pipeline_options, roofline, selftest):
        monkeypatch.setattr(command, "detect", lambda device, gpus=1: replace(hardware, gpus=gpus))
    monkeypatch.setattr(pipeline_options, "build", lambda checkpoint, plan, **_: StandIn(plan))
    monkeypatch.setattr(generate, "observed", lambda *_: nullcontext())
    monkeypatch.setattr(bench, "time_image", lambda built: (timing(built), built.generate()))
    monkeypatch.setattr(bench, "reset_peak_memory", lambda built: None)
    monkeypatch.setattr(bench, "peak_memory_gib", lambda built: 25.0)
    monkeypatch.setattr(roofline, "measured_ceilings", lambda *_, **__: CEILINGS)
    monkeypatch.setattr(roofline, "_step_ms", lambda *_: 76.0)
    monkeypatch.setattr(selftest, "local_folder", lambda: Path.cwd() / ".fluxfast")
    monkeypatch.setattr(selftest, "start", self_tested)


def timing(built: StandIn) -> ImageTiming:
    steps = (76.0,) * built.request.num_inference_steps
    return replace(result(2.2).images[0], step_ms=steps)


def self_tested(process: int, options) -> None:
    """Stand in for a process of the self-test in which no fault makes a difference."""
    folder = options.results / str(process)
    hardware = selftest.detect("auto")
    for planned in selftest.planned(options, hardware):
        for fault in selftest.injected_faults(hardware):
            for number in range(options.runs):
                write_result(folder / f"{fault.name} {number}", synthetic(planned.case, hardware))
    (folder / "done").touch()
