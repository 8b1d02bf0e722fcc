"""The self-test: injected faults have their size, and a case that cannot see may not gate."""

import itertools
from types import SimpleNamespace

import pytest

from fluxfast.bench.baselines.baseline import PROCESSES
from fluxfast.bench.measurement import injected_faults
from fluxfast.bench.measurement.injected_faults import Delay
from fluxfast.bench.selftest import UNCHANGED, Rate, case_report, report_text
from fluxfast.cli import selftest
from fluxfast.cli.main import main
from fluxfast.pipeline.observe import Region
from tests.support.machines import CPU
from tests.support.processes import process


def runs(factor=1.0, between=0.001, count=2, seed=0):
    """Return the runs of three processes, the same processes for every factor."""
    levels = (1 + between, 1 - between, 1 + between / 2)
    return [
        [process(100 * level * factor, seed=seed + 10 * p + r) for r in range(count)]
        for p, level in enumerate(levels)
    ]


OTHERS = [[own[0] for own in runs(seed=1000 * n)] for n in range(8)]


def test_a_quiet_case_may_gate_and_its_detections_are_counted():
    faults = {UNCHANGED: runs(), "+10%": runs(1.1, seed=5), "+0.1%": runs(1.001, seed=6)}
    report = case_report("dev, default", faults, OTHERS)
    assert report.may_gate and report.figure == "step_ms" and report.visible < 0.02
    assert report.alarms == Rate(count=0, total=6)
    assert report.seen["+10%"].count == 6 and report.seen["+0.1%"].count == 0
    text = report_text([report], {"regional silently not applied": Rate(count=3, total=3)})
    assert "6/6 (61%–100%)" in text and "0/6 (0%–39%)" in text and "3/3" in text


def test_a_case_that_sees_less_than_its_tolerance_is_not_allowed_to_gate():
    report = case_report("noisy", {UNCHANGED: runs(between=0.05)}, [])
    assert not report.may_gate
    text = report_text([report], {})
    assert "NO: its MDC is 33.3%" in text and "may it gate?" in text


@pytest.mark.parametrize("on_device", [True, False])
def test_a_delay_takes_its_time_in_every_step_and_nowhere_else(on_device, monkeypatch):
    milliseconds = itertools.count()  # a clock that each reading moves on
    clock = SimpleNamespace(perf_counter=lambda: next(milliseconds) / 1e3)
    monkeypatch.setattr(injected_faults, "time", clock)
    delay = Delay(ms=30.0, on_device=on_device, hardware=CPU)
    delay.enter(Region.DECODING)
    delay.exit(Region.DENOISING_STEP)
    assert next(milliseconds) == 0
    for _ in range(2):
        started = next(milliseconds)
        delay.enter(Region.DENOISING_STEP)
        assert 30 <= next(milliseconds) - started <= 35


def test_too_few_processes_are_refused(capsys):
    assert main(["selftest", "--gpu", "cpu", "--processes", "2"]) == 2
    assert "too few processes" in capsys.readouterr().err


def test_two_self_tests_at_one_moment_do_not_share_a_folder(monkeypatch, tmp_path, capsys):
    """Each would take the other's processes for its own; so would a second one with --results."""
    begun = []

    def start(process, options):
        begun.append(options.results)
        if len(begun) == 1:
            assert main(["selftest", "--gpu", "cpu"]) == 0
        assert main(["selftest", "--gpu", "cpu", f"--results={options.results}"]) == 2

    monkeypatch.setattr(selftest, "local_folder", lambda: tmp_path)
    monkeypatch.setattr(selftest, "start", start)
    monkeypatch.setattr(selftest, "_report", lambda *_: "")
    assert main(["selftest", "--gpu", "cpu"]) == 0
    assert [begun.count(folder) for folder in dict.fromkeys(begun)] == [PROCESSES] * 2
    assert "another run writes into this folder" in capsys.readouterr().err
