"""`pytest perf_tests -n 2` on a machine that pretends to have two H200s, with real workers."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fluxfast.bench.cases.own import planned_own_cases
from fluxfast.bench.results.store import read_results
from fluxfast.hardware import available_cores
from fluxfast.mini import WEIGHTS
from tests.support import fake_gpus
from tests.support.forked import run_module
from tests.support.pages import REPOSITORY
from tests.support.synthetic_results import write_baseline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.subprocess,
    pytest.mark.skipif(available_cores() < 2, reason="each worker needs a core of its own"),
]
COMMAND = ["perf_tests", "--gpu=h200", "--cases=my.yaml", "-p", "tests.support.fake_gpus"]
# Other plugins of this environment take half a second of each process.
PLUGINS = ["-p", "xdist.plugin", "-p", "pytest_benchmark.plugin"]
CARDS = ("GPU-a", "MIG-b")
# A case of each resolution. One worker begins with the first two, the other with the last two.
SAME, CRASHES, SLOWER, NEW = 64, 128, 192, 256


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a folder with the suite and four cases, of which the baseline knows all but NEW."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("FLUXFAST_COMMIT", "tests")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(CARDS))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    Path("conftest.py").write_text((REPOSITORY / "conftest.py").read_text())
    Path("perf_tests").mkdir()
    for name in ("conftest.py", "test_latency.py"):
        text = (REPOSITORY / "perf_tests" / name).read_text()
        Path("perf_tests", name).write_text(text)
    Path("my-dev").symlink_to(WEIGHTS / "mini-dev")
    sizes = [SAME, CRASHES, SLOWER, NEW]
    Path("my.yaml").write_text(
        f"cases: [{{checkpoint: my-dev, resolution: {sizes}, optimizations: [sdpa]}}]"
    )
    planned, _ = planned_own_cases(Path("my.yaml"), "smoke", fake_gpus.H200, [])
    known = [one.case for one in planned if one.case.height != NEW]
    cards = [{"uuid": uuid} for uuid in CARDS] * 2
    measured = [fake_gpus.synthetic(case, gpu=card) for case in known for card in cards]
    write_baseline(measured, Path("my.nvidia-h200.json"))
    return tmp_path


def test_workers_measure_on_a_gpu_each_and_the_main_process_judges_once(project, monkeypatch):
    monkeypatch.setenv("CRASHES", f"{CRASHES}x")
    monkeypatch.setenv("SLOWER", f"{SLOWER}x")
    files = ["--results=results", "--junitxml=junit.xml", "--shard=1/1"]
    done = run_module("pytest", [*COMMAND, *PLUGINS, "-n", "2", *files], project)
    assert done.ret == pytest.ExitCode.TESTS_FAILED, done.outlines + done.errlines
    done.assert_outcomes(passed=5, failed=2, skipped=1)

    found = {one.case.height: one for one in read_results([Path("results")])}
    assert found.keys() == {SAME, SLOWER, NEW}
    cpus = {one.card: one.provenance["cpus"] for one in found.values()}
    assert cpus.keys() == set(CARDS) and not set.intersection(*map(set, cpus.values()))
    assert all("pytest perf_tests --gpu=h200" in r.provenance["command"] for r in found.values())
    assert not Path("results", ".lock").exists()

    lines = done.outlines
    assert sum(line.startswith("model ") for line in lines) == 1  # one table
    verdicts = {SAME: "same", SLOWER: "SLOWER", NEW: "recorded"}
    for size, verdict in verdicts.items():
        done.stdout.re_match_lines([rf"dev +my_dev {size}×{size}: sdpa .* {verdict}"])
    unmeasured = f"no figures: dev, my_dev {CRASHES}×{CRASHES}: sdpa"
    assert unmeasured in lines and any("replacing crashed worker" in line for line in lines)
    assert (
        sum(bool(re.match(r".*\[[1-4]/4.*\] dev, my_dev .* 3 images \(gw", x)) for x in lines) == 3
    )

    known = json.loads(Path("my.nvidia-h200.json").read_text())["cases"]
    assert sorted(len(case["processes"]) for case in known) == [1, 4, 4, 4]  # NEW, once
    tests = ElementTree.parse("junit.xml").getroot().iter("testcase")
    names = [test.get("name", "").partition("[")[0] for test in tests]
    assert names.count("test_verdict") == 4
