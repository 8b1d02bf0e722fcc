"""A run with `-n`: pytest-xdist's workers measure, this process judges. No torch.

The main process collects the tests, too. It reports mistakes before a worker starts, locks the
folder of results, and runs `test_verdict` itself when every case is measured.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import pytest

from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.bench.results.artifacts import write_missing_quality
from fluxfast.bench.results.store import read_result, result_path
from fluxfast.errors import FluxFastError
from fluxfast.hardware import available_cores, detect
from fluxfast.pytest_plugin import benchmark
from fluxfast.pytest_plugin.items import judges, planned_of
from fluxfast.pytest_plugin.placement import Place, places, visible_gpus
from fluxfast.pytest_plugin.progress import left_text
from fluxfast.pytest_plugin.session import Suite
from fluxfast.pytest_plugin.worker import KEY, Worker, is_worker, measured_case, worker_input


def configure(suite: Suite) -> None:
    """Prepare this process if pytest-xdist measures in workers; otherwise do nothing."""
    config = suite.config
    distributes = config.getoption("dist", "no") != "no" and not config.option.collectonly
    if distributes:
        benchmark.disable(config)
        config.pluginmanager.register(Workers(suite=suite), Workers.__name__)
    elif is_worker(config) and KEY in config.workerinput:  # type: ignore[attr-defined]
        benchmark.disable(config)
        config.pluginmanager.register(Worker.started(suite), Worker.__name__)


def auto_workers(config: pytest.Config) -> int:
    """Return how many workers `-n auto` starts: one for each GPU, and none on a CPU."""
    device = "cpu" if config.getoption("--gpu") == "cpu" else "auto"
    hardware = detect(device, config.getoption("--gpus"))
    return len(places(hardware, available_cores())) if hardware.is_gpu else 0


def why_unusable(suite: Suite, specs: Sequence[Any]) -> FluxFastError | None:
    """Return why these workers cannot measure the cases, whatever the machine; None if they can.

    Args:
        suite: the session.
        specs: the workers, as pytest-xdist describes them.
    """
    dist = suite.config.option.dist
    if suite.options.compares:
        return FluxFastError(
            "a comparison measures both sides in turn, in processes of its own",
            got=f"-n with {suite.options.comparing}",
            allowed="workers without --against and --against-env",
            remedy="leave -n out",
        )
    if dist == "each" or not all(spec.popen for spec in specs):
        return FluxFastError(
            "workers share the cases on this machine",
            got=f"--dist {dist} --tx {specs[0]}",
            allowed="-n N",
            remedy="leave --dist and --tx out; share cases between machines with --shard",
        )
    if needless := benchmark.recording_option(suite.config):
        return FluxFastError(
            "pytest-benchmark records nothing in workers",
            got=f"-n with {needless}",
            allowed="options of pytest-benchmark in a run without workers",
            remedy="leave the option or -n out: --results has every time",
        )
    return None


def why_no_room(suite: Suite, count: int, found: Sequence[Place]) -> FluxFastError | None:
    """Return why the machine has no place for each of `count` workers; None if it has."""
    if not suite.hardware.is_gpu:
        return FluxFastError(
            "cases that run in parallel on a CPU slow each other down",
            got=f"-n {count} on {suite.hardware.name}",
            allowed="-n on a machine with GPUs",
            remedy="leave -n out",
        )
    if len(found) == count:
        return None
    gpus = visible_gpus(suite.hardware.platform, os.environ)[1]
    each = "a GPU" if suite.hardware.gpus == 1 else f"{suite.hardware.gpus} GPUs"
    return FluxFastError(
        f"each worker needs {each} and a CPU core of its own",
        got=f"-n {count} with {len(gpus)} GPUs ({', '.join(gpus)}) and {available_cores()} CPUs",
        allowed=f"up to -n {len(found)}",
        remedy="use -n auto",
    )


@dataclass(kw_only=True)
class Workers:
    """The pytest plugin of the process that starts the workers.

    Attributes:
        suite: the session, which judges.
        places: a place for each worker.
        taken: the place of each running worker, by the worker's name.
        planned: the case of each test, by node id.
        seconds: how long the tests of each case took in a worker, by the case's id.
    """

    suite: Suite
    places: tuple[Place, ...] = ()
    taken: dict[str, Place] = field(default_factory=dict)
    planned: dict[str, PlannedCase | None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def pytest_xdist_setupnodes(self, config: pytest.Config, specs: Sequence[Any]) -> None:
        """Check options and machine, collect the tests, and lock the folder of results."""
        if self.suite.hardware.is_gpu:
            self.places = places(self.suite.hardware, len(specs))
        why = why_unusable(self.suite, specs) or why_no_room(self.suite, len(specs), self.places)
        if why:
            raise pytest.UsageError(f"fluxfast: {why}")
        session: Any = config.pluginmanager.get_plugin("session")
        session.perform_collect()
        self.planned = {item.nodeid: planned_of(item) for item in session.items}

    @pytest.hookimpl(tryfirst=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Give a worker one case after the other, so that none waits at the end.

        Other schedulers of pytest-xdist 3.8 wait forever for a worker that replaces a crashed one.
        """
        from xdist.scheduler import LoadScheduling

        config.option.maxschedchunk = 1
        return LoadScheduling(config, log)

    def pytest_report_collectionfinish(self) -> list[str]:
        """Print what each worker has; nothing with -q."""
        if not self.suite.selected or self.suite.config.get_verbosity() < 0:
            return []
        gpus = ", ".join(place.gpu_name for place in self.places)
        cpus = len(self.places[0].cpus)
        return [f"fluxfast: each worker has one of {gpus}, and {cpus} CPUs of its own"]

    def pytest_configure_node(self, node: Any) -> None:
        """Give a worker, or the one that replaces it after a crash, a place that is free."""
        place = next(place for place in self.places if place not in self.taken.values())
        self.taken[node.gateway.id] = place
        node.workerinput[KEY] = worker_input(place, self.suite.results_folder)

    def pytest_testnodedown(self, node: Any) -> None:
        """Free the place of a worker that has ended."""
        self.taken.pop(node.gateway.id, None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note which case a worker has measured, or could not measure."""
        planned = self.planned.get(report.nodeid)
        if planned is None or not hasattr(report, "node"):  # of this process
            return
        case_id, suite = planned.case.id, self.suite
        if case_id in suite.measured:
            return
        self.seconds[case_id] = self.seconds.get(case_id, 0.0) + report.duration
        if measured_case(report):
            suite.measured[case_id] = read_result(result_path(suite.results_folder, planned.case))
            suite.failed.discard(case_id)
            self._print_progress(planned, report)
        elif report.failed:
            suite.failed.add(case_id)

    def _print_progress(self, planned: PlannedCase, report: Any) -> None:
        suite, worker = self.suite, report.node.gateway.id
        done, total = len(suite.measured.keys() | suite.failed), len(suite.selected)
        each_s = statistics.mean(self.seconds[case_id] for case_id in suite.measured)
        left = left_text(each_s * (total - done) / len(self.places)) if done < total else ""
        images = len(suite.measured[planned.case.id].images)
        suite.progress.line(
            f"[{done}/{total}{left}] {planned.case.model}, {planned.label}: {images} images "
            f"({worker}, {self.taken[worker].gpu_name})"
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, Any, Any]:
        """Judge when the workers are done."""
        done = yield
        self._judge(session)
        return done

    def _judge(self, session: pytest.Session) -> None:
        suite = self.suite
        selected = {planned.case.id for planned in suite.selected}
        lost = sorted(selected - suite.measured.keys() - suite.failed)
        suite.failed |= set(lost)
        measured = [result.case for result in suite.measured.values()]
        write_missing_quality(suite.results_folder, measured)
        verdicts = [item for item in session.items if judges(item)]
        for item, following in zip_longest(verdicts, verdicts[1:]):
            if session.shouldfail:  # with -x, also because of a worker
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if lost:
            raise session.Failed(f"no worker measured {', '.join(lost)}")
