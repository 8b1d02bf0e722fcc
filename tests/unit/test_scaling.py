"""Several numbers of GPUs that share an image: figures, warnings, report and the suite's lines."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.baselines.file import write_baseline
from fluxfast.bench.cases.role import Role
from fluxfast.bench.results.machine import gpu_from_hardware
from fluxfast.bench.results.scaling import Degree, scalings
from fluxfast.bench.results.store import write_result
from fluxfast.cli.main import main
from fluxfast.pytest_plugin.options import Options
from fluxfast.pytest_plugin.printing import _warnings
from fluxfast.report.charts.scaling import scaling_charts
from fluxfast.report.contents import report_json, report_of
from fluxfast.report.markdown import markdown
from fluxfast.report.page import page
from fluxfast.report.reproduction import reproduction_command
from fluxfast.report.scaling import remark
from tests.support.machines import H100, H200
from tests.support.results import case, result


def on(
    gpus, image_s, hardware=H200, role=Role.DEFAULT, date="2026-12-01T02:00:00+00:00", **changes
):
    """Return a result on several GPUs, with optimizations that one GPU does not have."""
    names = {Role.DEFAULT: ("bf16", "regional"), Role.EAGER: ("bf16",)}.get(role, ("bf16", "sdpa"))
    shared = names if gpus == 1 else (*names, "ulysses")
    kept = {k: changes.pop(k) for k in ("weights_profile",) if k in changes}
    return result(
        image_s,
        hardware=replace(hardware, gpus=gpus),
        case=case(**{"gpus": gpus, "optimizations": shared, **changes}),
        role=role,
        provenance={"commit": "abc", "dirty": False, "date": date},
        **kept,
    )


def degrees(*results, **changes):
    return [Degree(results=(one,), **changes) for one in results]


def test_the_speedup_is_over_one_gpu_and_the_efficiency_per_gpu():
    (found,) = scalings(degrees(on(4, 1.0), on(1, 2.4), on(2, 1.5)))
    assert [d.gpus for d in found.degrees] == [1, 2, 4]
    assert [found.speedup(d) for d in found.degrees] == pytest.approx([1.0, 1.6, 2.4])
    assert [found.efficiency(d) for d in found.degrees] == pytest.approx([1.0, 0.8, 0.6])
    assert [found.warning(d) for d in found.degrees] == [None] * 3


def test_without_one_gpu_there_is_no_speedup():
    (found,) = scalings(degrees(on(2, 1.5), on(4, 1.0)))
    assert [found.speedup(d) for d in found.degrees] == [None, None]
    assert [found.efficiency(d) for d in found.degrees] == [None, None]


def test_a_batch_counts_seconds_of_an_image():
    (found,) = scalings(degrees(on(1, 8.0, batch_size=4), on(2, 6.0, batch_size=4)))
    assert [d.image_s for d in found.degrees] == [2.0, 1.5]


@pytest.mark.parametrize(
    "other",
    [
        {"height": 512},
        {"batch_size": 2},
        {"num_inference_steps": 4},
        {"model": "schnell"},
        {"weights": "mini"},
        {"hardware": H100},
        {"role": Role.LOSSLESS},
        {"role": None},
        {"weights_profile": "trained-1"},
    ],
    ids=str,
)
def test_only_cases_that_differ_in_gpus_alone_are_compared(other):
    assert scalings(degrees(on(1, 2.0), on(2, 3.0, **other))) == []
    assert scalings(degrees(on(2, 3.0, **other)), degrees(on(1, 2.0), is_accepted=True)) == []


def test_a_slower_degree_names_the_fastest_of_fewer_gpus():
    (found,) = scalings(degrees(on(1, 2.02), on(2, 1.4), on(4, 1.41), on(8, 1.6)))
    assert [found.warning(d) for d in found.degrees] == [
        None,
        None,
        "4 GPUs take 1.410 s, 2 GPUs take 1.400 s: use --gpus 2",
        "8 GPUs take 1.600 s, 2 GPUs take 1.400 s: use --gpus 2",
    ]


@pytest.mark.parametrize(
    ("two_s", "is_slower"), [(1.0, False), (1.99, False), (2.0, False), (2.005, False), (2.1, True)]
)
def test_a_degree_that_is_faster_or_equal_is_no_warning(two_s, is_slower):
    (found,) = scalings(degrees(on(2, two_s)), degrees(on(1, 2.0), is_accepted=True))
    assert [bool(found.warning(d)) for d in found.degrees] == [False, is_slower]


def test_another_stack_is_named_and_results_count_before_the_baseline():
    newer = replace(H200, packages={**H200.packages, "torch": "2"})
    stored = degrees(on(1, 2.0), is_accepted=True)
    (found,) = scalings(degrees(on(2, 2.5, hardware=newer)), stored)
    assert found.warning(found.degrees[1]).endswith("2.000 s (baseline; torch 1 → 2): use --gpus 1")
    (found,) = scalings(degrees(on(2, 1.5, hardware=newer)), stored)
    assert [remark(found, d) for d in found.degrees] == ["", "torch 1 → 2"]
    (found,) = scalings(degrees(on(2, 2.5), on(1, 3.0)), stored)
    assert not any(map(found.warning, found.degrees))


def test_of_two_cases_of_a_role_the_newest_counts_in_any_order():
    # An old run with other defaults, next to a new one.
    old, new = (
        on(1, 9.0, date="2026-11-01T02:00:00+00:00"),
        on(1, 2.0, date="2026-12-01T02:00:00+00:00"),
    )
    for one_gpu in ((old, new), (new, old)):
        (found,) = scalings(degrees(*one_gpu, on(2, 1.0)))
        assert found.speedup(found.degrees[1]) == 2.0


def test_stored_cases_alone_are_not_reported():
    stored = degrees(on(1, 2.0), on(2, 3.0), on(1, 1.0, model="schnell"), is_accepted=True)
    assert scalings([], stored) == []
    (found,) = scalings(degrees(on(4, 1.0)), stored)
    assert [d.is_accepted for d in found.degrees] == [True, True, False]


@pytest.fixture
def no_baselines(monkeypatch, tmp_path):
    folder = tmp_path / "baselines"
    monkeypatch.setattr("fluxfast.bench.baselines.lookup.shipped_baselines", lambda: folder)


def runs(folder, *results):
    for one in results:
        write_result(folder / str(one.case.gpus), one)
    return sorted(folder.iterdir())


def test_a_report_of_runs_on_one_two_and_four_gpus(tmp_path, no_baselines):
    found = [on(1, 2.4), on(2, 1.5), on(4, 1.62), on(1, 5.0, role=Role.EAGER)]
    found += [on(2, 2.5, role=Role.EAGER), on(1, 0.5, model="schnell")]
    report = report_of(runs(tmp_path / "runs", *found))
    warning = (
        "NVIDIA H200: dev (synthetic), 2 steps, 1024×1024, default: 4 GPUs take 1.620 s, "
        "2 GPUs take 1.500 s: use --gpus 2"
    )
    assert report.warnings == [warning]
    lines = report_json(report)["scaling"]
    by_key = {(line["role"], line["gpus"]): line for line in lines}
    assert by_key.keys() == {("default", n) for n in (1, 2, 4)} | {("eager", 1), ("eager", 2)}
    assert by_key["default", 2]["speedup"] == pytest.approx(1.6)
    assert by_key["default", 2]["efficiency"] == pytest.approx(0.8)
    assert by_key["default", 4]["warning"] in warning and not by_key["default", 2]["warning"]
    text = markdown(report)
    prefix = "| NVIDIA H200: dev (synthetic), 2 steps, 1024×1024, default"
    assert f"{prefix} | 2 | 1.500 | 1.60× | 80% | results |  |" in text
    assert f"{prefix} | 4 | 1.620 | 1.48× | 37% | results | slower than 2 GPUs: use" in text
    assert f"⚠️ **{warning}**" in text.replace("\\", "")
    html = page(report)
    assert '<section id="scaling"' in html and warning in html
    (chart,) = scaling_charts(report.scalings)
    assert len(chart.table) == 1 + 5
    points = next(iter(rows for rows in chart.spec["datasets"].values() if "kind" in rows[0]))
    assert [p["kind"][:6] for p in points if p["role"] == "default"] == ["faster"] * 2 + ["slower"]


def test_a_report_of_one_number_of_gpus_has_no_scaling(tmp_path, no_baselines):
    report = report_of(runs(tmp_path / "runs", on(2, 1.5)))
    assert report.scalings == () and report_json(report)["scaling"] == []
    assert "Scaling over GPUs" not in markdown(report) and 'id="scaling"' not in page(report)


def test_a_report_of_two_gpus_takes_one_gpu_from_the_stored_baseline(tmp_path, capsys):
    two = on(2, 99.0, num_inference_steps=28, weights_profile="trained-1")
    written = tmp_path / "report.json"
    assert main(["report", *map(str, runs(tmp_path / "run", two)), "--json", str(written)]) == 0
    one_gpu, two_gpus = json.loads(written.read_text())["scaling"]
    assert one_gpu["is_accepted"] and one_gpu["gpus"] == 1 and not two_gpus["is_accepted"]
    assert two_gpus["warning"].endswith("use --gpus 1") and "(baseline" in two_gpus["warning"]


def suite_of(folder, *results, **changes):
    """Return what the warnings at the end of a session read of it, and its cases."""
    hardware = replace(H200, gpus=results[0].case.gpus)
    shown = [SimpleNamespace(case=one.case, label=str(one.role), role=one.role) for one in results]
    suite = SimpleNamespace(
        hardware=hardware,
        options=Options(baselines=folder, **{"gpu": "h200", **changes}),
        folder=folder,
        measured={one.case.id: one for one in results},
        sides={},
        outcomes={},
    )
    return suite, shown


@pytest.fixture
def stored(tmp_path):
    """A folder with the baseline of one H200."""
    path = tmp_path / "nvidia-h200.json"
    baseline = Baseline(gpu=gpu_from_hardware(H200, path.stem), results={}, path=path)
    write_baseline(baseline.accept([on(1, 2.02), on(1, 5.0, role=Role.EAGER)]))
    return tmp_path


def test_a_session_on_two_gpus_says_that_one_is_faster(stored):
    session = suite_of(stored, on(2, 2.31), on(2, 3.0, role=Role.EAGER))
    assert list(_warnings(*session)) == [
        "WARNING: dev, default: 2 GPUs take 2.310 s, 1 GPU takes 2.020 s (baseline): use --gpus 1"
    ]
    session = suite_of(stored, on(2, 2.31), gpu="h200-x2")
    assert len(list(_warnings(*session))) == 1


def test_a_session_that_is_faster_alone_or_compared_with_another_side_says_nothing(stored):
    for session in (
        suite_of(stored, on(2, 1.5)),
        suite_of(stored, on(2, 2.31, height=512)),
        suite_of(stored, on(1, 9.0)),
        suite_of(stored, on(2, 2.31), against="HEAD"),
        suite_of(stored / "without", on(2, 2.31)),
    ):
        assert list(_warnings(*session)) == []


def test_the_command_of_a_row_names_its_number_of_gpus():
    assert " --gpus 2 " in reproduction_command(on(2, 1.0).case, "h200-x2")
    assert "--gpus" not in reproduction_command(on(1, 1.0).case, "h200")
