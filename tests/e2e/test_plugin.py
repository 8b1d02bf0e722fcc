"""`pytest perf_tests` as users run it: what passes, what fails, and with which exit status."""

import json
import os
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from fluxfast.bench.results.artifacts import image_path, read_figures
from fluxfast.bench.results.folders import locked
from fluxfast.bench.results.machine import cpu_slug
from fluxfast.bench.results.shards import has_no_cases, shards_in
from fluxfast.bench.results.store import read_result
from fluxfast.bench.verdicts.outcome import NOT_JUDGED_STATUS
from fluxfast.hardware import detect
from tests.support.forked import run_module
from tests.support.rehearsal import forget_suites
from tests.support.results import steady

REPOSITORY = Path(__file__).parents[2]
pytest_plugins = ["pytester"]
pytestmark = pytest.mark.subprocess

# One quick case: the unoptimized pipeline on a small image.
EAGER = ["perf_tests", "--model=schnell", "--resolution=64", "--rounds=2", "-k", "eager"]


@pytest.fixture
def project(pytester, monkeypatch):
    """Return a folder with the suite and local baselines of its own."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("FLUXFAST_COMMIT", "tests")  # also where this checkout has changes
    # pytest-benchmark disables itself in what it takes for a worker of pytest-xdist.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    pytester.makeconftest('pytest_plugins = ["fluxfast.pytest_plugin.plugin"]')
    pytester.mkdir("perf_tests")
    for name in ("conftest.py", "test_latency.py"):
        text = (REPOSITORY / "perf_tests" / name).read_text()
        (pytester.path / "perf_tests" / name).write_text(text)
    return pytester


def local_baseline(project) -> Path:
    return project.path / ".fluxfast" / "baselines" / f"{cpu_slug(detect('cpu'))}.json"


def forked_pytest(project, *arguments):
    return run_module("pytest", [*arguments], project.path)


def run(project, *arguments):
    return forked_pytest(project, *EAGER, "--gpu=cpu", *arguments)


def refused(project, *arguments):
    """Run in this process a command that stops before it measures anything."""
    words = ("perf_tests", *arguments, "-p", "no:faulthandler")
    forget_suites()
    result = project.runpytest_inprocess(*words)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.no_fnmatch_line("*building*")
    return result


def test_a_cpu_records_on_the_first_run_and_gates_from_the_second(project, monkeypatch):
    files = ("--benchmark-json=benchmark.json", "--junitxml=junit.xml")
    first = run(project, *files)
    first.assert_outcomes(passed=2)
    first.stdout.fnmatch_lines(
        [
            "*this CPU has no baseline yet: this run records commit tests and passes",
            "fluxfast: * optimizations left out: `fluxfast matrix --gpu cpu --matrix smoke` *",
            "*they gate from the next run on*",
        ]
    )
    assert first.stdout.str().count("left out") == 1
    assert not (project.path / ".benchmarks").exists()
    benchmark = json.loads((project.path / "benchmark.json").read_text())["benchmarks"][0]
    assert len(benchmark["stats"]["data"]) == 2
    assert len(benchmark["extra_info"]["images"][0]["step_ms"]) == 4
    assert benchmark["extra_info"]["environment"]["hardware"]["platform"] == "cpu"

    first.stdout.re_match_lines(
        [
            r"\[1/1\] schnell, eager: building the eager pipeline for paired timing",
            r"\[1/1\] schnell, eager: building$",
            r"\[1/1\] schnell, eager: first image",
            r"\[1/1\] schnell, eager: warming up",
            r"\[1/1\] schnell, eager: sampling: 2 images",
            r"schnell +eager .* same .* recorded",  # the same image as the eager pipeline
        ],
        consecutive=False,
    )
    assert junit_outcomes(project) == [[], []]
    measured, judged = junit_properties(project)
    assert float(measured["e2e_s"]) > 0 and float(measured["step_ms"]) > 0
    assert judged == {"outcome": "recorded"}

    # `make test` installs triton in between, which no case on a CPU can use.
    (environment,) = json.loads(local_baseline(project).read_text())["environments"].values()
    assert "triton" not in environment["hardware"]["packages"]
    install_metadata(project, monkeypatch, "triton", "99.0")

    # Other work on the machine may change its canaries between two runs.
    rewrite(local_baseline(project), lambda process: process.update(canaries={}))
    quiet = run(project, "-q", "--benchmark-disable", "--record", "--results=second")
    assert quiet.ret == 0 and "eager: sampling" not in quiet.stdout.str()
    assert "fluxfast:" not in quiet.stdout.str()
    (path,) = (project.path / "second").glob("*.json")
    assert len(read_result(path).images) == 2
    measured = json.loads(path.read_text())
    times = steady(measured)
    path.write_text(json.dumps(measured | times))
    path = local_baseline(project)
    # Both sides a thousandth slower: it would be this very result otherwise.
    images = [image | {"e2e_s": 1.001 * image["e2e_s"]} for image in times["images"]]
    references = [1.001 * seconds for seconds in times["reference_e2e_s"]]
    before = times | {"images": images, "reference_e2e_s": references}
    rewrite(path, lambda process: process.update(before))
    second = run(project, "--benchmark-disable", "--results=second", "--resume")
    second.stdout.re_match_lines(
        [r"schnell\s+eager.*same", r"1 cases added to .* \(up to 3 processes per"]
    )
    second.stdout.no_fnmatch_line("*they gate from the next run on*")
    recorded = path.read_text()
    assert len(json.loads(recorded)["cases"][0]["processes"]) == 2

    # The pipeline got a thousand times slower than its baseline.
    rewrite(
        path,
        lambda p: p.update(reference_e2e_s=[s * 1000 for s in p["reference_e2e_s"]], canaries={}),
    )
    slower = run(project, "--junitxml=junit.xml", "--results=second", "--resume")
    assert slower.ret == pytest.ExitCode.TESTS_FAILED
    assert junit_outcomes(project) == [[], ["failure"]]
    assert junit_properties(project)[1]["outcome"] == "slower"
    assert float(junit_properties(project)[1]["change"]) > 1
    slower.assert_outcomes(passed=1, failed=1)
    slower.stdout.fnmatch_lines(
        ["*SLOWER: whole image: eager_ratio *", "*remedy: *baseline accept*"]
    )

    # The machine got slower: no figure of the case is judged.
    path.write_text(recorded)
    rewrite(path, lambda process: process.update(canaries={"python_ms": [0.01]}))
    invalid = run(project, "--lf")  # the verdict alone, and it measures the case by itself
    assert invalid.ret == NOT_JUDGED_STATUS
    invalid.assert_outcomes(skipped=1)
    invalid.stdout.fnmatch_lines(["*INVALID RUNNER: canary python_ms *"])


def install_metadata(project, monkeypatch, name, version):
    """Let Python find a distribution of this version; its modules are not there."""
    info = project.path / "installed" / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.setenv("PYTHONPATH", f"{info.parent}{os.pathsep}{REPOSITORY}")


def junit_tests(project) -> list[ElementTree.Element]:
    return list(ElementTree.parse(project.path / "junit.xml").getroot().iter("testcase"))


def junit_outcomes(project) -> list[list[str]]:
    """Return the tags of each test case; none where it passed."""
    return [
        [element.tag for element in test if element.tag != "properties"]
        for test in junit_tests(project)
    ]


def junit_properties(project) -> list[dict[str, str]]:
    """Return the properties of each test case."""
    return [
        {one.attrib["name"]: one.attrib["value"] for one in test.iter("property")}
        for test in junit_tests(project)
    ]


def rewrite(path, change):
    """Change each process of a baseline."""
    data = json.loads(path.read_text())
    for process in data["cases"][0]["processes"]:
        change(process)
    path.write_text(json.dumps(data))


def test_recording_judges_nothing_and_leaves_a_candidate(project):
    recorded = run(project, "--record", "--results=candidate")
    recorded.assert_outcomes(skipped=2)
    recorded.stdout.fnmatch_lines(["*accept them with: fluxfast baseline accept*candidate"])
    (path,) = (project.path / "candidate").glob("*.json")
    case = read_result(path).case
    assert case.num_inference_steps == 4
    folder = project.path / "candidate"
    with Image.open(image_path(folder, case)) as image:
        assert image.size == (64, 64)
    quality = read_figures(folder, "quality", case)
    assert (quality["psnr_db"], quality["ssim"], quality["step_error"]) == (None, 1.0, 0.0)
    assert read_figures(folder, "kernels", case)["GEMM"] > 0
    assert not local_baseline(project).exists()


def test_a_shard_without_cases_leaves_its_note_for_the_merge(project):
    words = ("perf_tests", "--gpu=cpu", "--model=schnell", "--record", "--results=3")
    result = forked_pytest(project, *words, "--shard=3/4")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["fluxfast: shard 3/4 has no cases"])
    assert has_no_cases(project.path / "3") and shards_in(project.path / "3") == ["3/4"]


def test_a_corrupt_baseline_stops_the_run_before_it_begins(project):
    path = local_baseline(project)
    path.parent.mkdir(parents=True)
    path.write_text("{")
    result = refused(project, "--gpu=cpu")
    result.stderr.fnmatch_lines(["*corrupt or truncated*"])
    assert path.read_text() == "{"


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("--gpu=h200", "not the GPU that --gpu names"),
        ("--gpu=h300", "no baseline is named h300"),
        ("--matrix=huge", "unknown matrix"),
        ("--model=flux2", "unknown model"),
        ("--weights=random", "unknown kind of weights"),
        ("--shard=3/2", "this is no shard"),
        ("--resolution=100", "multiple of 16"),
        ("--resume", "--resume needs the --results DIR"),
        ("--against=", "--against is empty"),
        ("--against=nosuchref", "git cannot find the other revision"),
        ("--results=perf_tests/conftest.py/r", "nothing can be written in"),
        ("--benchmark-only", "--benchmark-only would skip cases"),
        ("--benchmark-skip", "--benchmark-skip would skip cases"),
        ("--rounds=0", "--rounds is 0"),
        ("--seconds=nan", "--seconds is nan"),
        ("--batch-size=0", "batch_size"),
    ],
)
def test_a_mistake_on_the_command_line_is_reported_at_once(project, argument, problem):
    result = refused(project, argument)
    assert any(problem in line for line in result.errlines)


def test_cases_are_not_timed_in_parallel_on_a_cpu(project):
    result = run(project, "--numprocesses=1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    problem = "ERROR: fluxfast: cases that run in parallel on a CPU slow each other down"
    assert problem in result.errlines
    assert not (project.path / ".fluxfast" / "results").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_measuring(project):
    (project.path / ".fluxfast").touch()  # as root, only a file in its place refuses
    result = refused(project, "--gpu=cpu")
    result.stderr.fnmatch_lines(["*results would go to *nothing can be written in *"])


def test_cases_of_every_suite_run_on_one_thread_of_a_cpu(project):
    (project.path / "perf_tests" / "test_latency.py").write_text(
        "import torch\n\ntorch.set_num_threads(2)\n\n"
        "def test_threads(planned):\n    assert torch.get_num_threads() == 1\n"
    )
    assert run(project).ret == pytest.ExitCode.OK


def test_a_second_run_into_a_folder_is_refused_with_the_process_of_the_first(project):
    with locked(project.path / "results"):
        result = run(project, "--results=results")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*another run writes into this folder*", f"*process {os.getpid()}"]
    )


OTHER_CONFTEST = """
def pytest_addoption(parser):
    for name in ("--gpu", "--model", "--matrix", "--results", "--rounds", "--record"):
        parser.addoption(name, default="theirs")
"""
OTHER_TEST = """
import sys

def test_theirs(pytestconfig):
    assert pytestconfig.getoption("--gpu") == "mine"
    assert pytestconfig.getoption("--model") == "theirs"
    assert "torch" not in sys.modules and "fluxfast.bench" not in sys.modules
"""


def other_project(pytester, monkeypatch, *arguments):
    """Run pytest in a project of somebody else, with the module of the entry point loaded."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    plugins = () if is_entry_point() else ("-p", "fluxfast.pytest_plugin")
    return pytester.runpytest_subprocess(*plugins, *arguments)


def is_entry_point() -> bool:
    """Return whether pytest loads the module by itself in this environment."""
    return any(e.value == "fluxfast.pytest_plugin" for e in entry_points(group="pytest11"))


def test_the_entry_point_does_nothing_in_a_project_that_does_not_use_it(pytester, monkeypatch):
    pytester.makeconftest(OTHER_CONFTEST)
    pytester.makepyfile(OTHER_TEST)
    result = other_project(pytester, monkeypatch, "--gpu=mine")
    result.assert_outcomes(passed=1)
    assert not (pytester.path / ".fluxfast").exists()


def test_a_project_that_asks_for_the_suite_has_its_options(pytester, monkeypatch):
    pytester.makeini("[pytest]\nfluxfast = true")
    pytester.makepyfile("def test_nothing(suite): assert suite.options.gpu == 'cpu'")
    shown = other_project(pytester, monkeypatch, "--help").stdout.str()
    assert "--gpu=GPU" in shown and "--against=REF" in shown
    other_project(pytester, monkeypatch, "--gpu=cpu").assert_outcomes(passed=1)
    pytester.makeini("[pytest]")
    assert "--gpu=GPU" not in other_project(pytester, monkeypatch, "--help").stdout.str()


def test_a_gpu_case_without_a_baseline_fails_and_the_message_shows_how_to_record_one(project):
    """The machine pretends to be an L20, whose baseline is empty; the pipeline runs on the CPU."""
    project.makeconftest(
        """
        import dataclasses
        pytest_plugins = ["fluxfast.pytest_plugin.plugin"]
        from fluxfast import hardware
        from fluxfast.pytest_plugin import session as suite
        from fluxfast.bench.measurement import measure, stages
        from fluxfast.hardware import Hardware, Platform

        class PretendedL20(Hardware):
            device = "cpu"
            is_gpu = False

        real = hardware.detect("cpu")
        measure.environment = lambda machine: {"hardware": machine.to_json()}
        measure.momentary = lambda machine: {}
        measure.gpu_reader = lambda machine: None
        stages.is_clock_readable = lambda machine: False
        suite.detect = lambda device, gpus: PretendedL20(**{
            **vars(real), "platform": Platform.CUDA, "name": "NVIDIA L20", "architecture": "sm_89",
        })
        """
    )
    result = forked_pytest(project, *EAGER, "--gpu=l20", "--weights=mini")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*NEW: no baseline for this case in nvidia-l20.json*--record*"])


def test_an_optimization_that_is_not_active_fails(project):
    words = (
        *("-p", "tests.support.sabotage.quantization_dropped", *EAGER[:-1]),
        "int8 and not regional and not compile and not export_aoti and not dbcache",
        *("--matrix=full", "--gpu=cpu", "--shard=1/1", "-x"),
    )
    result = forked_pytest(project, *words)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*requested but not active: int8: 0 of 37 block layers*"])
    result.assert_outcomes(failed=1)  # and nothing of the other cases after it
    result.stdout.fnmatch_lines(["*stopping after 1 failures*"])


def test_ctrl_c_keeps_the_results_so_far_and_resume_goes_on_from_them(project):
    # In a step of the second case. Between two, CPython 3.11 may give the interrupt's traceback no
    # line number, and pytest fails to print it; and a shell's background ignores the signal.
    project.makepyfile(
        ctrl_c="""
        import signal
        from pathlib import Path
        from diffusers import FluxTransformer2DModel

        step = FluxTransformer2DModel.forward

        def interrupted(self, *arguments, **named):
            if list(Path("kept").glob("*.json")):
                signal.signal(signal.SIGINT, signal.default_int_handler)
                signal.raise_signal(signal.SIGINT)
            return step(self, *arguments, **named)

        FluxTransformer2DModel.forward = interrupted
        """
    )
    command = [
        "perf_tests", "--gpu=cpu", "--resolution=64", "--rounds=1", "--num-inference-steps=2",
        "-k", "eager and not kontext", "--results=kept", "-p", "no:cacheprovider",
    ]  # fmt: skip
    ended = forked_pytest(project, *command, "-p", "ctrl_c")
    folder = project.path / "kept"
    kept = list(folder.glob("*.json"))
    assert ended.ret == pytest.ExitCode.INTERRUPTED
    assert all(read_result(path) for path in kept) and not list(folder.glob(".*"))
    assert len(kept) == 1
    ended.stdout.re_match_lines([".*schnell", "results: "], consecutive=False)

    assert forked_pytest(project, *command, "--resume").ret == 0
    assert len(list(folder.glob("*.json"))) == 2
