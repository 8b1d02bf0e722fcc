"""`pytest perf_tests` and `pytest correctness_tests`: hooks and fixtures; no torch until a test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from fluxfast.bench.ab.environment import check_same_device
from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.bench.results.folders import why_not_writable
from fluxfast.bench.results.shards import WHOLE
from fluxfast.bench.verdicts.outcome import NOT_JUDGED_STATUS, Outcome
from fluxfast.bench.verdicts.tables import failure_text
from fluxfast.bench.verdicts.verdict import Verdict
from fluxfast.console import quiet_libraries
from fluxfast.errors import FluxFastError
from fluxfast.pytest_plugin import baselines, benchmark, printing
from fluxfast.pytest_plugin.comparing import check_other_side
from fluxfast.pytest_plugin.items import cases_of, judges, keeps_compiled_code, planned_of, turn
from fluxfast.pytest_plugin.neighbours import announced
from fluxfast.pytest_plugin.options import Options, add_options
from fluxfast.pytest_plugin.planning import check_takes_cases, check_times
from fluxfast.pytest_plugin.session import Suite
from fluxfast.pytest_plugin.worker import is_worker, lock_own_results
from fluxfast.pytest_plugin.workers import Workers

SUITE = pytest.StashKey[Suite]()
OTHER_RUNS = pytest.StashKey[Callable[[], list[str]]]()
WARNINGS = pytest.StashKey[list[str]]()
# The tables of their times are printed by the process that runs them.
UNSUITED_FOR_WORKERS = ("::test_lora_swap[", "::test_other_sizes[")
TIMING = ("::test_verdict[", *UNSUITED_FOR_WORKERS)  # tests that depend on times


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suite."""
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Check the options, before anything is collected."""
    quiet_libraries()
    config.addinivalue_line("filterwarnings", "ignore::FutureWarning:copyreg")
    suite = config.stash[SUITE] = Suite(config=config, options=Options.of(config))
    benchmark.configure(config, suite.folder / "benchmarks")
    if suite.options.results and (why := why_not_writable(suite.options.results)):
        raise pytest.UsageError(f"--results is {suite.options.results}: {why}")
    if suite.options.compares:
        try:
            suite.other_environment = check_other_side(suite.options)
        except FluxFastError as error:
            raise pytest.UsageError(f"fluxfast: {error}") from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize every test that takes `planned` with the cases of its module's matrix."""
    if "planned" not in metafunc.fixturenames:
        return
    suite = metafunc.config.stash[SUITE]
    cases: Iterable[PlannedCase] = ()
    try:
        check_takes_cases(suite.options, metafunc.module)
        check_times(metafunc.module, suite.hardware)
        cases = suite.plan(metafunc.module)
        # A wrong machine, a corrupt file or a folder without effect stops before a build.
        baselines.check_folder(suite.options, suite.hardware, suite.baseline)
        if suite.other_environment:
            gpu = suite.hardware.name if suite.hardware.is_gpu else ""
            check_same_device(suite.other_environment, gpu)
    except FluxFastError as error:
        cases, suite.mistake = (), error
    metafunc.parametrize("planned", cases, ids=[c.case.id for c in cases], scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put tests that judge last, when everything has been measured; stop at a mistake."""
    items.sort(key=turn)
    if mistake := config.stash[SUITE].mistake:
        raise pytest.UsageError(f"fluxfast: {mistake}")
    if cases_of(items) and (why := benchmark.why_unusable(config)):
        raise pytest.UsageError(f"fluxfast: {why}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: Iterable[str]) -> None:
    """Refuse workers that share a GPU: nothing prepares them where perf_tests is not named."""
    prepared = node.config.pluginmanager.has_plugin(Workers.__name__)
    refused = UNSUITED_FOR_WORKERS if prepared else TIMING
    if found := next((id for id in ids if any(name in id for name in refused)), None):
        error = FluxFastError(
            "workers of pytest-xdist cannot run this test",
            got=f"-n or --dist with {found}",
            allowed="pytest perf_tests -n N, which gives each worker a GPU and measures cases",
            remedy="name perf_tests on the command line, or leave -n and --dist out",
        )
        raise pytest.UsageError(f"fluxfast: {error}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Note the selected cases; check and lock the folder of results before a case is measured.

    A shard without cases notes that in its folder, so that a merge does not miss it.
    """
    suite = session.config.stash[SUITE]
    suite.selected = cases_of(session.items)
    if session.config.option.collectonly or not (suite.selected or is_empty_shard(suite)):
        return
    if is_worker(session.config):
        lock_own_results(suite)
        return
    try:
        suite.open_results(judges=any(judges(item) for item in session.items if planned_of(item)))
        session.config.stash[OTHER_RUNS] = suite.opened.enter_context(announced())
    except FluxFastError as error:
        raise pytest.UsageError(f"fluxfast: {error}") from None


def is_empty_shard(suite: Suite) -> bool:
    """Return whether the session's part of the cases has none, whatever -k selects."""
    plans = suite.plans.values()
    return suite.options.shard != WHOLE and bool(plans) and not any(plan.cases for plan in plans)


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Print what is measured where; nothing with -q."""
    suite = config.stash[SUITE]
    if config.get_verbosity() >= 0 and is_empty_shard(suite):
        return [f"fluxfast: shard {suite.options.shard} has no cases"]
    if not suite.selected or config.get_verbosity() < 0:
        return []
    lines = [*printing.header(suite, judges=any(map(judges, items))), *_other_runs(config)]
    return [f"fluxfast: {line}" for line in lines]


def _other_runs(config: pytest.Config) -> list[str]:
    """Return a warning for each other run that has used this machine at the same time so far."""
    return [
        f"WARNING: another run times on this machine at the same time, {name}"
        for name in config.stash.get(OTHER_RUNS, list[str])()
    ]


@pytest.fixture(scope="session")
def suite(pytestconfig: pytest.Config) -> Suite:
    """The session: its options, folders, results and verdicts."""
    return pytestconfig.stash[SUITE]


@pytest.fixture(scope="session", autouse=True)
def one_thread(suite: Suite) -> Iterator[None]:
    """On a CPU, run PyTorch on one thread in sessions that measure cases."""
    if not suite.selected or suite.hardware.is_gpu:
        yield
        return
    from fluxfast.bench.measurement.paired import one_thread_on_a_cpu

    with one_thread_on_a_cpu(suite.hardware):
        yield


@pytest.fixture(scope="session")
def built(planned: PlannedCase, suite: Suite, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The pipeline of a case, built once for all tests of the case."""
    from fluxfast.bench.measurement.measure import built_case

    suite.report(planned, "building")
    is_cold = not keeps_compiled_code(request.session.items)
    with ExitStack() as stack:
        try:
            case = built_case(planned, suite.artifacts, is_cold=is_cold)
            pipeline = stack.enter_context(case)
        except FluxFastError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        yield pipeline


def fail(planned: PlannedCase, verdict: Verdict, suite: Suite) -> None:
    """Fail a test with its verdict."""
    is_against = planned.case.id in suite.sides
    pytest.fail(failure_text(planned.case, verdict, is_against=is_against), pytrace=False)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Close the session; set the exit status of what could not be recorded or judged."""
    suite = session.config.stash[SUITE]
    session.config.stash[WARNINGS] = _other_runs(session.config)
    suite.close()
    if suite.unsaved and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    elif exitstatus == pytest.ExitCode.OK and Outcome.INVALID_RUNNER in suite.outcomes.values():
        session.exitstatus = NOT_JUDGED_STATUS


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table and the lines that belong to it."""
    suite = config.stash[SUITE]
    if not printing.has_summary(suite):
        return
    terminalreporter.section("fluxfast")
    for line in (*printing.summary(suite), *config.stash.get(WARNINGS, [])):
        terminalreporter.write_line(line)
