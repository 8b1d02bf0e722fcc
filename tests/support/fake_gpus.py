"""A plugin for `pytest perf_tests -p tests.support.fake_gpus`: H200s that measure nothing.

The machine and the measurement are replaced, in the main process and in workers; everything else is
real. The GPUs are those of CUDA_VISIBLE_DEVICES. Two variables name cases by a part of their id:
`CRASHES` ends the process that measures such a case, `SLOWER` measures 1.5 times as long.
"""

import os
import shlex
import sys
from dataclasses import replace
from types import SimpleNamespace

from PIL import Image

from fluxfast.bench.baselines.lookup import find_baseline
from fluxfast.bench.results.machine import hardware_of
from fluxfast.optimizations.base import ProfiledStep
from fluxfast.pytest_plugin import session
from tests.support.results import CANARIES, result

H200 = hardware_of(next(iter(find_baseline("h200").results.values()))[-1])


def pytest_configure():
    session.detect = lambda device, gpus: replace(H200, gpus=gpus)


def pytest_collection_modifyitems(items):
    for module in {item.module for item in items}:
        module.measured = measured


def named(variable, case):
    return (text := os.environ.get(variable)) and text in case.id


def synthetic(case, e2e_s=2.0, **environment):
    """Return the result of a case on one of these H200s."""
    machine = {"hardware": H200.to_json(), "python": "3.12"}
    return result(
        e2e_s, case=case, canaries=CANARIES, compiles=False, environment=machine | environment
    )


def measured(planned, suite, request):
    """Stand in for `measured` of perf_tests."""
    if named("CRASHES", planned.case):
        os._exit(1)
    gpu = {"uuid": os.environ["CUDA_VISIBLE_DEVICES"]}
    process = {
        "command": shlex.join(["pytest", *sys.argv[1:]]),
        "cpus": sorted(os.sched_getaffinity(0)),
    }
    found = synthetic(planned.case, 3.0 if named("SLOWER", planned.case) else 2.0, gpu=gpu)
    return SimpleNamespace(
        result=replace(found, provenance=found.provenance | process),
        step=ProfiledStep(),
        image=Image.new("RGB", (16, 16), "grey"),
        eager_image=None,
        inactive=(),
        step_errors={},
    )
