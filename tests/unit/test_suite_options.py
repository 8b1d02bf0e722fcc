"""Options of the suite, of pytest and of pytest-benchmark: what is selected, what is refused."""

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.baselines.file import write_baseline
from fluxfast.bench.results.machine import cpu_slug, gpu_from_hardware
from fluxfast.hardware import detect
from fluxfast.mini import WEIGHTS
from fluxfast.optimizations.axis import Axis
from fluxfast.pytest_plugin import benchmark, plugin
from fluxfast.pytest_plugin.items import keeps_compiled_code
from fluxfast.pytest_plugin.options import Options
from fluxfast.pytest_plugin.planning import default_matrix, plan_session
from tests.support.collecting import QUIET
from tests.support.machines import CPU, H200
from tests.support.pages import REPOSITORY

SUITE = str(REPOSITORY / "perf_tests")
OF_THE_SUITE = {path.stem for path in Path(SUITE).glob("*.py")} - {"conftest"}
ON_A_CPU = [SUITE, "--gpu", "cpu"]


class Selected:
    """A pytest plugin that keeps the names of the selected tests."""

    def __init__(self):
        self.names, self.keeps_compiled_code = [], None

    def pytest_collection_finish(self, session):
        self.keeps_compiled_code = keeps_compiled_code(session.items)
        self.names = [item.name for item in session.items]


@pytest.fixture
def collect(monkeypatch, tmp_path, capsys):
    """Collect the tests of a command from another directory; return status, names and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(
        "PYTEST_XDIST_WORKER", raising=False
    )  # pytest-benchmark would disable itself

    def run(*words):
        # Another test of this process may have imported the modules of a copy of the suite.
        for name in [name for name in sys.modules if name.rpartition(".")[2] in OF_THE_SUITE]:
            monkeypatch.delitem(sys.modules, name)
        plugin = Selected()
        status = pytest.main([*words, *QUIET], plugins=[plugin])
        run.keeps_compiled_code = plugin.keeps_compiled_code
        return status, plugin.names, capsys.readouterr().err

    return run


def test_the_suite_runs_from_any_directory(collect):
    status, names, _ = collect(*ON_A_CPU)
    assert status == 0 and len(names) == 12
    assert not any(Path.cwd().iterdir())


SELECTIONS = {
    ("-k", "schnell and eager"): 2,
    ("--deselect", "perf_tests/test_latency.py::test_verdict", "-k", "eager"): 3,
    ("-x", "--maxfail=1"): 12,
}


@pytest.mark.parametrize("words", SELECTIONS, ids=" ".join)
def test_pytest_selects_cases(collect, words):
    status, names, _ = collect(*ON_A_CPU, *words)
    assert (status, len(names)) == (0, SELECTIONS[words])


def test_options_come_from_the_environment_too(collect, monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "--gpu cpu --model schnell -k eager")
    assert len(collect(SUITE)[1]) == 2
    monkeypatch.setenv("PYTEST_ADDOPTS", "--gpu")  # takes the folder for the name
    status, _, errors = collect(SUITE)
    assert status == pytest.ExitCode.USAGE_ERROR and "no baseline is named /" in errors


def test_lora_swaps_are_timed_where_their_file_is_named(collect):
    """`test_the_suite_runs_from_any_directory` counts what the folder selects without them."""
    status, names, _ = collect(f"{SUITE}/test_lora_swap.py", "--gpu", "cpu")
    assert status == 0 and len(names) == 6  # two ranks of three models
    assert all(name.startswith("test_lora_swap[") for name in names)


def test_other_sizes_are_timed_where_their_file_is_named(collect):
    status, names, _ = collect(f"{SUITE}/test_other_sizes.py", "--gpu", "cpu")
    assert status == 0 and len(names) == 3
    assert all(name.startswith("test_other_sizes[") for name in names)


def test_loras_are_compared_on_schnell_alone_on_a_cpu(collect):
    file = str(REPOSITORY / "correctness_tests" / "test_lora.py")
    for words, model in (((), "[schnell-"), (("--model", "dev"), "[dev-")):
        status, names, _ = collect(file, "--gpu", "cpu", *words)
        assert status == 0 and len(names) == 3 and all(model in name for name in names)


@pytest.mark.parametrize(
    ("hardware", "asked", "without_a_cache", "with_a_cache"),
    [(CPU, None, 10, 28), (CPU, 12, 12, 12), (H200, None, 28, 28)],
    ids=["CPU", "option", "GPU"],
)
def test_a_cpu_generates_few_steps_unless_a_cache_decides_between_them(
    hardware, asked, without_a_cache, with_a_cache
):
    options = Options(
        models=("dev",),
        weights="mini",
        num_inference_steps=asked,
        baselines=REPOSITORY / "baselines",
    )
    cases = plan_session(options, hardware, "alone", 2, most_steps_on_a_cpu=10).cases
    found = {(one.plan.on(Axis.CACHE) is None, one.case.num_inference_steps) for one in cases}
    assert found == {(True, without_a_cache), (False, with_a_cache)}


@pytest.mark.parametrize(
    ("suites", "keeps"),
    [
        (["perf_tests"], False),
        (["correctness_tests"], True),
        (["perf_tests", "correctness_tests"], False),
    ],
)
def test_compiled_code_is_kept_from_case_to_case_where_none_is_timed(suites, keeps, collect):
    """Compiling kernels anew for each case took some 50 s of correctness tests on an H200."""
    status, _, _ = collect("--gpu", "cpu", *(str(REPOSITORY / suite) for suite in suites))
    assert status == 0 and collect.keeps_compiled_code is keeps


@pytest.mark.parametrize(
    ("weights", "matrix"),
    [("mini", "alone"), ("synthetic", "tiers"), ("synthetic_outliers", "tiers")],
)
def test_full_size_is_compared_as_presets(weights, matrix):
    """Each optimization alone takes 20 minutes at full size, and mini weights judge it."""
    options = Options(models=("dev", "schnell"), weights=weights, baselines=REPOSITORY)
    module = SimpleNamespace(MATRIX="alone", SYNTHETIC_MATRIX="tiers")
    assert default_matrix(module, options, H200) == matrix
    assert default_matrix(SimpleNamespace(MATRIX="default"), options, H200) == "default"


@pytest.mark.parametrize(
    ("name", "prepared", "refused"),
    [
        ("test_latency.py::test_verdict", False, True),
        ("test_latency.py::test_verdict", True, False),
        ("test_lora_swap.py::test_lora_swap", True, True),
        ("test_other_sizes.py::test_other_sizes", True, True),
    ],
)
def test_workers_time_only_cases_and_only_where_each_has_a_gpu(name, prepared, refused):
    manager = SimpleNamespace(has_plugin=lambda name: prepared)
    node = SimpleNamespace(config=SimpleNamespace(pluginmanager=manager))
    expected = pytest.raises(pytest.UsageError, match=name) if refused else nullcontext()
    with expected:
        plugin.pytest_xdist_node_collection_finished(node, [f"perf_tests/{name}[dev]"])


CASES = "cases: [{checkpoint: my-dev, resolution: 64, optimizations: [sdpa]}]"
MISTAKES = {
    ("--benchmark-json=nowhere/b.json",): "there is no folder",
    ("--benchmark-min-rounds=5",): "--benchmark-min-rounds has no effect",
    ("--benchmark-compare-fail=mean:5%",): "--benchmark-compare-fail judges times without",
    ("--baselines=nowhere",): "there is no such folder",
    ("--baselines=.",): "--baselines has no effect: the folder has no baseline of this CPU",
    ("--results=",): "the path is empty",
    ("--cases=nothing.yaml",): "No such file",
    ("--cases=my.yaml", "--model=dev"): "--model has no effect with --cases",
    ("--cases=my.yaml", "--resolution=64"): "--resolution has no effect with --cases",
    ("--cases=my.yaml", "--against=HEAD"): "--against compares the project's cases",
    ("--cases=my.yaml", "--against-env=/nope"): "--against-env compares the project's cases",
    ("--record", "--against-env=/nope"): "--against-env compares and --record judges nothing",
    ("--against-env=/nope",): "this is no Python interpreter that can be run",
    ("--against-env=",): "give it the path of a Python, or leave it out",
    ("--cases=my.yaml", "--matrix=tiers"): "--matrix has no effect: every case",
    ("--cases=my.yaml", "--gpu=h200"): "not the GPU that --gpu names",
}


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_mistake_is_a_usage_error_before_anything_is_measured(collect, words):
    Path("my.yaml").write_text(CASES)
    Path("my-dev").symlink_to(WEIGHTS / "mini-dev")
    status, _, errors = collect(*ON_A_CPU, *words)
    assert status == pytest.ExitCode.USAGE_ERROR and MISTAKES[words] in errors
    assert "Traceback" not in errors


def test_a_folder_with_a_baseline_of_this_cpu_is_taken(collect):
    gpu = gpu_from_hardware(hardware := detect("cpu"), slug := cpu_slug(hardware))
    Path("baselines").mkdir()
    write_baseline(Baseline(gpu=gpu, results={}, path=Path("baselines") / f"{slug}.json"))
    assert collect(*ON_A_CPU, "--baselines=baselines")[0] == 0
    assert collect(*ON_A_CPU, f"--baselines={REPOSITORY / 'baselines'}")[0] == 0


def test_cases_of_ones_own_are_selected_in_place_of_the_projects(collect):
    Path("my.yaml").write_text(CASES)
    Path("my-dev").symlink_to(WEIGHTS / "mini-dev")
    status, names, _ = collect(*ON_A_CPU, "--cases", "my.yaml")
    assert status == 0 and [name.partition("[")[0] for name in names] == [
        "test_latency",
        "test_verdict",
    ]
    assert "dev-my_dev_" in names[0] and names[0].endswith("-64x64-b1-s28-sdpa]")
    status, names, _ = collect(str(REPOSITORY / "correctness_tests"), "--cases", "my.yaml")
    assert status == 0 and sum("test_quality_is_within_budget[dev-my_dev_" in n for n in names) == 1
    swaps = str(REPOSITORY / "perf_tests" / "test_lora_swap.py")
    status, _, errors = collect(swaps, "--gpu=cpu", "--cases", "my.yaml")
    assert status == pytest.ExitCode.USAGE_ERROR and "takes no cases of your own" in errors


def test_a_mistake_in_the_file_has_got_allowed_and_remedy(collect):
    Path("my.yaml").write_text("cases: [{checkpoint: mini-dev, optimizations: [fast]}]")
    status, _, errors = collect(*ON_A_CPU, "--cases=my.yaml")
    assert status == pytest.ExitCode.USAGE_ERROR
    for part in ("case 1 of my.yaml: unknown optimization", "got:     fast", "allowed:", "remedy:"):
        assert part in errors


@pytest.mark.parametrize(
    ("option", "is_quiet"), [("benchmark_compare", False), ("benchmark_json", True)]
)
def test_pytest_benchmark_prints_what_its_options_ask_for(option, is_quiet, tmp_path):
    given = SimpleNamespace(benchmark_quiet=True, **{option: True})
    config = SimpleNamespace(option=given, getoption=lambda name, default: vars(given).get(name))
    benchmark.configure(config, tmp_path)
    assert given.benchmark_quiet is is_quiet
