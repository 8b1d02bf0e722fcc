"""Load the plugin of the performance suite; tell pytest-xdist which tests belong together."""

import gc
import os
import sys
from functools import cache, partial
from pathlib import Path

import pytest

pytest_plugins = ["fluxfast.pytest_plugin.plugin"]

LONG = ("slow", "subprocess", "compile")  # markers of tests that take seconds
MANY_OBJECTS = 50_000
MODELS = 3  # a case's id begins with its model
GARBAGE = 20_000  # objects since the last collection; Python's 700 take a tenth of a compilation
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if IS_WORKER:
    gc.disable()  # until it has imported everything, which makes no garbage and takes a sixth less

COMPILER = Path(__file__).parent / "tests" / "support" / "compiler"
# Settings of the workers' processes, unless each of them has cores of its own to measure on.
ONE_CORE_EACH = {
    "OMP_NUM_THREADS": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    # Inductor compiles a probe for the CPU's vector instructions in each process, and the wrapper
    # of a package with optimizations that a package called twice does not repay.
    "TORCHINDUCTOR_VEC_ISA_OK": "1",
    "AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL": "O0",
    "COMPILER_PATH": str(COMPILER),
}
if sys.platform == "linux":  # elsewhere Inductor prefers other compilers
    ONE_CORE_EACH["CXX"] = str(COMPILER / "g++")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Let each worker of pytest-xdist compute on one core, because together they use all."""
    if not config.pluginmanager.has_plugin("Workers"):  # of perf_tests
        for name, value in ONE_CORE_EACH.items():
            os.environ.setdefault(name, value)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the workers of pytest-xdist begin with long groups, so that none waits at the end."""
    if IS_WORKER:
        group = partial(group_of, workers=int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
        long = {group(item.nodeid) for item in items if any(map(item.get_closest_marker, LONG))}
        items.sort(key=lambda item: group(item.nodeid) not in long)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Collect garbage from now on, of which compiling makes little for its many objects."""
    gc.enable()
    if IS_WORKER and not measures(session.config):
        gc.freeze()
        gc.set_threshold(GARBAGE)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Let garbage collections skip what stays, such as the libraries: a pipeline starts two.

    With PyTorch, diffusers and Inductor a collection takes 0.3 s, without them nothing. A worker of
    perf_tests collects as a run without workers does; what is frozen may hold a case's memory.
    """
    if IS_WORKER and not measures(item.config) and len(gc.get_objects()) > MANY_OBJECTS:
        gc.collect()
        gc.freeze()


def measures(config: pytest.Config) -> bool:
    """Return whether this is a worker of perf_tests."""
    return config.pluginmanager.has_plugin("Worker")


def group_of(nodeid: str, workers: int) -> str:
    """Return the group of tests that share what is expensive.

    Fixtures of a module, or the process that tests/support/forked.py forks: importing the libraries
    takes it several seconds. Models of correctness_tests compile the same blocks, and so do tests
    with benchmarks/variants.py: one after another they find them in Inductor's cache. With more
    workers than models, cases are groups.
    """
    file, _, test = nodeid.partition("::")
    if Path(file).parts[:1] == ("correctness_tests",) and "[" in test:
        return test[test.index("[") :] if workers > MODELS else "correctness_tests"
    return _shared_by(file) or nodeid


@cache
def _shared_by(file: str) -> str | None:
    path = Path(__file__).parent / file
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for module in ("tests.support.forked", "benchmarks.variants"):
        if f"from {module} import" in text:
            return module
    return file if 'scope="module"' in text else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep the tests of a group in one worker.

    The groups of `--dist loadgroup` have no effect with pytest 9.2 and pytest-xdist 3.8: xdist
    writes them into node ids, which pytest no longer reads.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid, workers=config.option.numprocesses or 1)

    config.option.loadscopereorder = False  # keep the order of pytest_collection_modifyitems
    return ByGroup(config, log)
