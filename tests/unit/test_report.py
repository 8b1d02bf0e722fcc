"""The report: effects and attribution, written files, and results that must not be mixed."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from fluxfast.bench.cases.labels import label
from fluxfast.bench.cases.planned import planned_cases
from fluxfast.bench.results.shards import note_shard
from fluxfast.bench.results.sides import write_sides
from fluxfast.bench.results.store import read_results, write_result
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.verdict import Verdict
from fluxfast.cli.main import main
from fluxfast.errors import BaselineError
from fluxfast.hardware import Platform
from fluxfast.report.ablation import ablation_steps
from fluxfast.report.attribution import attributions
from fluxfast.report.charts.ablation import ablation_chart
from fluxfast.report.charts.case import telemetry_chart
from fluxfast.report.combinations import cumulative_chain, default_of
from fluxfast.report.contents import report_json, report_of
from fluxfast.report.effects import effects
from fluxfast.report.environments import environments
from fluxfast.report.inputs import MeasuredCase, read_inputs
from fluxfast.report.markdown import markdown
from fluxfast.report.page import page as page_of
from fluxfast.report.reproduction import matrix_finder
from fluxfast.report.rows import rows_of
from fluxfast.report.sections import sections_of
from tests.support.collecting import collected
from tests.support.machines import H100, H200, machine
from tests.support.results import case, result
from tests.support.synthetic_results import (
    DEFAULT,
    FACTORS,
    ablation,
    write,
    write_artifacts,
    write_baseline,
)
from tests.support.synthetic_sides import two_environments


@pytest.fixture(scope="module")
def baseline_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("baseline") / "nvidia-h200.json"
    write_baseline(ablation(seed=1), path)
    return path


def rows(folder, results, baseline_file):
    return rows_of(read_inputs(write(results, folder)), read_inputs([baseline_file]))


def test_the_speedup_of_each_optimization_is_recovered_with_an_interval(tmp_path, baseline_file):
    found = effects(rows(tmp_path, ablation(), baseline_file))
    compiled = {e.name: e for e in found if e.compiled}
    for name in ("fused_projections", "fa3_fp8", "fp8_per_row", "dbcache", "regional"):
        assert compiled[name].speed == pytest.approx(1 / FACTORS[name], rel=0.01)
        assert compiled[name].low * 0.995 < 1 / FACTORS[name] < compiled[name].high * 1.005
        assert compiled[name].high / compiled[name].low < 1.03
    assert compiled["fp8_per_row"].cases == 8


def test_cases_of_two_profiles_of_weights_are_a_warning(tmp_path):
    one, other = ablation()[:2]
    old, new = replace(one, weights_profile="x-1"), replace(other, weights_profile="y-2")
    assert report_of(write([old], tmp_path / "one")).warnings == []
    (warning,) = report_of(write([old, new], tmp_path / "two")).warnings
    assert "synthetic weights of x-1 and y-2 stand side by side" in warning


def test_a_slowdown_of_one_optimization_is_attributed_in_one_line(tmp_path, baseline_file):
    found = rows(tmp_path, ablation({"fp8_per_row": 1.08}), baseline_file)
    (attribution,) = attributions(found)
    assert attribution.name == "fp8_per_row" and attribution.after == pytest.approx(
        1 / 1.08, rel=0.01
    )
    assert str(attribution) == "fp8_per_row: speedup 1.43× → 1.33× in 10 of 10 cases"


def test_a_slowdown_of_a_model_is_not_attributed_to_an_optimization(tmp_path, baseline_file):
    found = attributions(rows(tmp_path, ablation({"dev": 1.1}), baseline_file))
    assert [b.name.split(" (")[0] for b in found] == ["every case of dev"]
    assert attributions(rows(tmp_path / "same", ablation(seed=5), baseline_file)) == []


def test_optimizations_that_never_vary_apart_are_named_together(tmp_path, baseline_file):
    smoke = [r for r in ablation({"fa3_fp8": 1.3}) if r.case.optimizations in (("bf16",), DEFAULT)]
    (attribution,) = attributions(rows(tmp_path, smoke, baseline_file))
    assert attribution.name == "fused_projections + fa3_fp8 + fp8_per_row + regional"


def test_what_every_verdict_calls_the_same_is_attributed_to_nothing(tmp_path, baseline_file):
    """Two busy images of a comparison were "1.09× as fast as before", and each verdict *same*."""
    found = rows(tmp_path, ablation({"dev": 1.1}), baseline_file)
    assert attributions(found)
    same = Verdict(outcome=Outcome.SAME, reason="")
    assert attributions([replace(row, verdict=same) for row in found]) == []


def test_each_step_of_a_cumulative_ablation_has_a_distinct_name(tmp_path, baseline_file):
    measured = [r for r in ablation() if r.case.optimizations in (("bf16",), DEFAULT)]
    late = (*DEFAULT, "fused_norms", "fused_rotary", "fused_gelu")
    measured += [replace(r, case=replace(r.case, optimizations=late)) for r in measured[-1:]]
    of_one = [r for r in measured if r.case.model == measured[-1].case.model]
    names = [step.name for step in ablation_steps(rows(tmp_path, of_one, baseline_file))]
    assert names == ["bf16", "+ fused_projections to regional", "default"]


def test_cases_without_a_cumulative_ablation_are_shown_by_themselves(tmp_path, baseline_file):
    cached = (*DEFAULT[:3], "dbcache", *DEFAULT[3:])
    combinations = [("bf16",), cached, DEFAULT, ("bf16", "compile")]
    (any_one, *_) = ablation()
    measured = [replace(any_one, case=case(optimizations=names)) for names in combinations]
    found = rows(tmp_path, measured, baseline_file)
    assert [step.name for step in ablation_steps(found)] == [
        "bf16",
        "bf16 + compile",
        "default",
        "default + dbcache",
    ]
    assert "Each case by itself" in ablation_chart(found).about


def test_a_combination_is_labelled_relative_to_the_default():
    known = [(), ("bf16",), DEFAULT[:2], DEFAULT, (*DEFAULT, "x")[1:], ("bf16", "z")]
    assert default_of(known) == DEFAULT
    assert cumulative_chain(DEFAULT, known) == [("bf16",), DEFAULT[:2], DEFAULT]
    cpu_ablation = [(), ("a",), ("a", "c"), ("c",), ("a", "b", "c"), ("a", "x"), ("z", "a", "c")]
    assert default_of(cpu_ablation) == ("a", "c")  # not an addition to it
    assert default_of([(), ("a",), ("a", "c"), ("c",), ("a", "c", "d"), ("a", "b", "c")]) == (
        "a",
        "c",
    )
    assert default_of([(), ("a",), ("a", "c"), ("a", "c", "d")]) == ("a", "c", "d")
    assert default_of([("a",), ("a", "dbcache", "c", "d"), ("a", "c", "d")]) == ("a", "c", "d")
    assert label(DEFAULT, DEFAULT) == "default"
    assert label(DEFAULT[:3] + DEFAULT[4:], DEFAULT) == "default − fp8_per_row"
    assert label((*DEFAULT, "dbcache"), DEFAULT) == "default + dbcache"
    assert label((), DEFAULT) == "eager" and label(("bf16",), DEFAULT) == "bf16"


@pytest.mark.slow
def test_summary_page_and_json_begin_with_the_changes(tmp_path, baseline_file, capsys):
    folders = write(ablation({"fp8_per_row": 1.3}), tmp_path / "results")
    files = {kind: tmp_path / f"report.{kind}" for kind in ("html", "markdown", "json")}
    options = [word for kind, file in files.items() for word in (f"--{kind}", str(file))]
    assert main(["report", *map(str, folders), "--against", str(baseline_file), *options]) == 0
    assert "10 slower" in capsys.readouterr().out

    text = files["markdown"].read_text()
    verdict, sides, changed, *folded = text.split("<details>")[0].split("\n\n")
    assert sides == "abc (3 processes) compared with an accepted baseline (3 processes)."
    assert verdict.startswith("### ❌ 18 cases on NVIDIA H200") and "8 same" in verdict
    assert changed == "- **fp8_per_row: speedup 1.43× → 1.10× in 10 of 10 cases**"
    assert folded[0].count("SLOWER") == 10 and "| same |" not in folded[0]
    assert text.count("```mermaid") == 2 and '"+ fp8_per_row"' in text

    data = json.loads(files["json"].read_text())
    assert data["status"] == "fail" and len(data["cases"]) == 18
    slow = next(c for c in data["cases"] if c["outcome"] == "slower")
    assert slow["change"] == pytest.approx(0.3, abs=0.02) and slow["processes"] == 3

    page = files["html"].read_text()
    assert 'data-outcome="slower"' in page
    assert "<h3>What to do</h3>" in page and "SLOWER: find the commit or the package" in page
    assert "http-equiv" in page and "default-src 'none'" in page  # no network


def test_changes_in_a_step_lead_the_report_and_what_fails_comes_first(tmp_path):
    def counted(results, launches):
        return [replace(r, counters={"launches_in_a_step": launches(r.case)}) for r in results]

    theirs = counted(ablation(seed=1), lambda case: 865)
    ours = counted(ablation(), lambda case: 900 if case.id == theirs[-1].case.id else 703)
    report = report_of(write(ours, tmp_path / "ours"), write(theirs, tmp_path / "theirs"))
    assert report.status == "fail"
    assert report.outcomes == {"changed": len(report.rows) - 1, "broken": 1}
    first, second, *_, last = report.leads
    assert "865 → 900 launches in a step" in first and "865 → 703" in second
    assert last == f"steps of {len(report.rows) - 5} more cases changed"
    assert [line.partition(":")[0] for line in report.remedies] == ["changed", "BROKEN"]


def on_an_h100(results):
    hardware = H100.to_json()
    return [replace(r, environment=r.environment | {"hardware": hardware}) for r in results]


@pytest.mark.slow
def test_two_machines_in_one_report_are_distinguished(tmp_path):
    """Every row, chart and attribution names its machine, as in a nightly report."""
    slower = on_an_h100(ablation({"fp8_per_row": 1.3}))
    before = ablation(seed=1)
    ours = [*write(ablation(), tmp_path / "h200"), *write(slower, tmp_path / "h100")]
    theirs = [*write(before, tmp_path / "a"), *write(on_an_h100(before), tmp_path / "b")]
    report = report_of(ours, theirs)
    assert report.outcomes == {"same": 26, "slower": 10}
    text = markdown(report)
    assert f"- **{H100.name}: fp8_per_row: speedup 1.43× → 1.10× in 10 of 10 cases**" in text
    assert text.count(f"| SLOWER | {H100.name} | dev: ") == 2 * 5
    assert f"| same | {H200.name} | dev: default | " in text
    html = page_of(report)
    titles = re.findall('data-title="([^"]+)"', html)
    assert {title.partition(": ")[0] for title in titles} == {H100.name, H200.name}
    assert len(titles) == 2 * (2 + 1 + 2 + 18)  # ablations, effects, stages, steps
    assert len(set(titles)) == 2 * (2 + 1 + 18)  # a workload has an ablation and stages
    assert 'data-filter="machine"' in html and html.count(f'data-sort="{H100.name}"') == 18


def test_a_baseline_and_a_folder_are_both_read_and_artifacts_are_shown(tmp_path):
    (folder, *_) = write(ablation(), tmp_path)
    write_artifacts(folder)
    baseline = tmp_path / "baseline.json"
    write_baseline(ablation(seed=1)[:3], baseline)  # three more processes of one of the cases
    page = tmp_path / "page.html"
    summary = tmp_path / "summary.md"
    files = ["--html", str(page), "--markdown", str(summary)]
    assert main(["report", str(folder), str(baseline), *files]) == 0
    assert {row.summary.processes for row in report_of([folder, baseline]).rows} == {1, 4}
    folded = summary.read_text().split("All 18 cases")[1]
    _, head, _, *lines = (line for line in folded.splitlines() if line)
    assert head.startswith("| verdict | case | ") and head.endswith("| memory (GiB) | PSNR (dB) |")
    assert sum(line.endswith("| same |") for line in lines) == 2  # the eager images themselves
    text = page.read_text()
    assert "step error against the eager pipeline, for the same inputs: lower is better" in text
    for section in ("quality", "kernels", "roofline", "pictures", "steps", "stages", "staircase"):
        assert f'<section id="{section}"' in text, section
    assert text.count("difference × 8:") == 2 * 8
    assert text.count('data-sort="Infinity">same</td>') == 2  # the eager images themselves
    written = tmp_path / "page.json"
    assert main(["report", str(folder), "--json", str(written)]) == 0

    def no_json(constant):
        raise AssertionError(constant)

    cases = json.loads(written.read_text(), parse_constant=no_json)["cases"]
    assert [c["quality"]["psnr_db"] for c in cases].count(None) == 2
    assert [c["quality"]["step_error"] for c in cases].count(0) == 2
    assert main(["report", "baselines/nvidia-h200.json"]) == 0


def test_the_verdict_of_the_run_itself_is_preferred(tmp_path, baseline_file):
    (folder, *_) = write(ablation()[:1], tmp_path)
    (folder / "verdicts").mkdir()
    told = {"outcome": "invalid runner", "reason": "GEMM canary 0.8 of its band"}
    (folder / "verdicts" / next(folder.glob("*.json")).name).write_text(json.dumps(told))
    report = report_of([folder])
    assert report.rows[0].verdict.outcome == "invalid runner" and report.status == "not judged"
    # With --against the results are compared with others instead.
    assert report_of([folder], [baseline_file]).rows[0].verdict.outcome == "same"


def test_a_sequential_verdict_is_kept_only_for_the_processes_that_it_judged(tmp_path):
    """Without their interim analyses, 13 of 360 unchanged cases were judged differently."""
    ours = write(ablation()[:3], tmp_path / "ours")
    theirs = write([replace_commit(one, "old") for one in ablation()[:3]], tmp_path / "theirs")
    step = {"metric": "step_ms", "before": 70.0, "after": 71.0, "relative": 0.014}
    told = {"outcome": "undecided", "reason": "…", "change": 0.014, "change_of": "step_ms"}
    told["figures"] = [step | {"low": -0.01, "high": 0.04}]
    told |= {"processes": 3, "against": "old", "processes_against": 3}
    (ours[-1] / "verdicts").mkdir()
    (ours[-1] / "verdicts" / next(ours[-1].glob("*.json")).name).write_text(json.dumps(told))

    def outcome(*asked):
        return report_of(*asked).rows[0].verdict.outcome

    assert outcome(ours, theirs) == "undecided"
    shown = report_of(ours, theirs).rows[0].verdict.shown
    assert str(shown) == "step 70.00 → 71.00 ms: +1.4% (−1.0% to +4.0%)"
    assert outcome(ours[1:], theirs) == "same"  # one process is missing
    assert outcome(ours, theirs[:2]) == "same"
    other = write([replace_commit(one, "older") for one in ablation()[:3]], tmp_path / "older")
    assert outcome(ours, other) == "same"


def comparison(folder):
    """Write the results of a comparison, as a run with --against does; return its folder."""
    smoke = [one for one in ablation(processes=1) if one.case.optimizations in (("bf16",), DEFAULT)]
    slower = ablation({"fp8_per_row": 1.3}, seed=1, processes=1)
    for one in smoke:
        if one.case.optimizations == DEFAULT:
            write_result(folder / "A1", replace_commit(one, "0123456789abcdef"))
    ids = {one.case.id for one in smoke}
    for one in (one for one in slower if one.case.id in ids):
        write_result(folder / "B1", replace_commit(one, "f" * 40))
    for side in ("A1", "B1"):
        write_artifacts(folder / side)
    return folder


@pytest.mark.slow
def test_the_folder_of_a_comparison_is_reported_as_one(tmp_path):
    run = comparison(tmp_path / "run")
    (run / "A2").mkdir()  # of a process that was stopped
    report = report_of([run])
    assert report.outcomes == {"slower": 2, "recorded": 2}
    before, after = "0123456789ab (1 process)", "ffffffffffff (1 process)"
    text, page = markdown(report), page_of(report)
    assert f"{after} compared with {before}." in text and f"{after} compared with {before}." in page
    # The change stands with its figure, on the page below the figure itself.
    (changed, *_) = report.changed
    assert changed.verdict.shown.metric == "e2e_s" and f"| {changed.verdict.shown} |" in text
    was, percent = f"{changed.before.e2e_s:.3f}", changed.verdict.shown.percent
    assert f'{changed.summary.e2e_s:.3f}<br><span class="change worse"' in page
    assert f"was {was}<br>{percent}</span>" in page and f">image {percent}" in page
    # What reproduces it is the comparison, of the compared cases alone.
    commands = re.findall("^pytest .*$", text, re.MULTILINE)
    assert len(commands) == 2
    assert all("::test_verdict[" in c and "--against 0123456789ab" in c for c in commands)
    # Charts and images have both sides.
    sections = {section.id: section for section in sections_of(report, has_images=True)}
    for name in ("stages", "kernels"):
        bars = [line[0] for line in sections[name].charts[0].table[1:]]
        assert bars == ["bf16", "default, before", "default, after"]
    assert sections["staircase"].charts[0].table[2][4] == f"{changed.before.e2e_s:.4g}"
    assert sections["steps"].charts[1].table[0][-1] == "before"
    assert page.count("before and after (identical)") >= 2
    assert [line[0].split(": ")[1] for line in sections["serving"].table[1:4]] == bars
    assert "Latency, throughput and start" in text and 'id="serving"' in page
    assert {facts["commit"] for facts in environments(report.rows)} == {"0123456789ab", "f" * 12}
    data = report_json(report)
    assert data["comparisons"][0]["before"] == "0123456789ab"
    assert data["cases"][1]["change_of"] == "e2e_s" and data["cases"][1]["changes"]
    # With --against, this side is judged against something else.
    assert "slower" not in report_of([run], [run / "B1"]).outcomes
    write_result(run, changed.measured.results[0])
    with pytest.raises(BaselineError, match="a comparison and the results of another run"):
        report_of([run])


def test_two_environments_are_named_and_compared_again(tmp_path):
    run = comparison(tmp_path / "run")
    write_sides(
        run, two_environments("2.11.0", "2.12.0", limits={"rounds": 3, "seconds": 1234567.5})
    )
    text = markdown(report_of([run]))
    sides = "0123456789ab (1 process) compared with 0123456789ab (1 process)"
    assert f"{sides}; torch 2.11.0 → 2.12.0." in text
    commands = re.findall("^/B/bin/python -m pytest .*$", text, re.MULTILINE)
    options = "--against-env /A/bin/python --rounds 3 --seconds 1234567.5"
    assert commands and all(command.endswith(options) for command in commands)


def replace_commit(one, commit):
    return replace(one, provenance=one.provenance | {"commit": commit})


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("quality", "[1]"),
        ("quality", '{"psnr_db": "41"}'),
        ("quality", "null"),
        ("kernels", '{"GEMM": null}'),
        ("verdicts", '{"outcome": "same"}'),
        ("roofline", '{"ceilings": {"tflops": 1, "tb_per_s": 1}, "kernels": [{"name": "a"}]}'),
        ("roofline", '{"kernels": []}'),
        ("roofline", '{"ceilings": {"tflops": 1, "tb_per_s": 1}, "kernels": [5]}'),
        ("roofline", '{"ceilings": {"tflops": 1, "tb_per_s": 0}, "kernels": []}'),
        ("verdicts", '{"outcome": "weird", "reason": ""}'),
        ("verdicts", '{"outcome": "same", "reason": "", "change": "x"}'),
        ("verdicts", '{"outcome": "same", "reason": "", "changes": null}'),
        ("verdicts", '{"outcome": "same", "reason": "", "figures": [{"metric": "nosuch"}]}'),
        ("verdicts", '{"outcome": "same", "reason": "", "headline": 1}'),
        ("quality", '{"psnr_db": true}'),
        ("kernels", '{"GEMM": -1}'),
    ],
)
def test_a_malformed_artifact_is_refused(tmp_path, kind, text, capsys):
    (folder, *_) = write(ablation()[:1], tmp_path)
    write_artifacts(folder)
    (path,) = folder.glob("*.json")
    (folder / "verdicts").mkdir(exist_ok=True)
    (folder / kind / path.name).write_text(text)
    assert main(["report", str(folder), "--html", str(tmp_path / "page.html")]) == 2
    assert f"not a valid `{kind}` artifact" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_a_folder_given_twice_is_not_a_second_process(tmp_path):
    (folder, *_) = write(ablation()[:3], tmp_path / "original")
    shutil.copytree(folder, tmp_path / "copy")
    (row,) = report_of([folder, folder, tmp_path / "copy"]).rows
    assert row.summary.processes == 1


def test_results_that_a_baseline_also_has_are_not_a_second_process(tmp_path):
    results = ablation()
    folders = write(results, tmp_path / "results")
    baseline = write_baseline(results, tmp_path / "nvidia-h200.json").path
    assert {len(m.results) for m in read_inputs([*folders, baseline])} == {3}


def test_a_machine_with_two_commits_is_refused_even_if_no_case_has_both(tmp_path):
    one, other = ablation()[0], replace_commit(ablation()[-1], "another")
    folders = write([one], tmp_path / "one") + write([other], tmp_path / "other")
    with pytest.raises(BaselineError, match="do not belong together"):
        report_of(folders)


def test_a_baseline_is_judged_with_against(tmp_path):
    path = tmp_path / "slower.json"
    write_baseline(ablation({"fp8_per_row": 1.3}), path)
    folders = write(ablation(seed=1), tmp_path / "before")
    outcomes = report_of([path], folders).outcomes
    assert outcomes["slower"] == 10 and not outcomes["recorded"]


def test_results_of_another_stack_are_not_attributed(tmp_path, baseline_file):
    packages = {**H200.packages, "torch": "2.99.0"}
    other = replace(H200, packages=packages).to_json()
    results = [
        replace(one, environment=one.environment | {"hardware": other})
        for one in ablation({"fp8_per_row": 1.3})
    ]
    report = report_of(write(results, tmp_path), [baseline_file])
    assert set(report.outcomes) == {"wrong stack"} and report.machines[0].attributions == ()


def test_two_cpu_models_with_equal_cores_are_two_machines(tmp_path):
    folders = []
    for name, image_s in (("CPU A", 1.0), ("CPU B", 2.0)):
        hardware = machine(Platform.CPU, name, "x86_64-avx2", cores=2)
        one = result(image_s, case=case(), hardware=hardware, compiles=False)
        one = replace(one, provenance={"commit": "abc", "dirty": False, "process": 0})
        folders += write([one], tmp_path / name)
    report = report_of(folders)
    assert [row.summary.e2e_s for row in report.rows] == pytest.approx([1.0, 2.0], rel=0.05)
    assert [m.gpu for m in report.machines] == [
        f"{name} (cpu-x86_64-avx2-2cores)" for name in ("CPU A", "CPU B")
    ]


def test_telemetry_is_shown_where_the_gpu_reported_it():
    one = ablation()[0]
    (row,) = rows_of([MeasuredCase(results=(one,))])
    readings = ({"sm_clock_mhz": 1980.0, "throttled": None}, {"sm_clock_mhz": 1700.0})
    object.__setattr__(one, "telemetry", ())
    assert telemetry_chart(row) is None
    object.__setattr__(one, "telemetry", readings)
    assert telemetry_chart(row).table == (("image", "SM clock (MHz)"), ("1", "1980"), ("2", "1700"))
    assert "SM clock (MHz): 1700–1980" in str(telemetry_chart(row).spec)  # the range of the values


def test_each_row_has_a_command_that_reproduces_it(tmp_path, monkeypatch):
    """The command of a CPU case collects that case alone."""
    hardware = machine(Platform.CPU, "a CPU", "x86_64-avx2", cores=2)
    one = case(
        weights="mini",
        optimizations=("fused_projections", "channels_last"),
        height=256,
        width=256,
        num_inference_steps=28,
    )
    write_result(tmp_path, result(case=one, hardware=hardware, reference_e2e_s=(3.0, 3.0, 3.0)))
    command = report_of([tmp_path]).rows[0].command
    assert "--gpu cpu" in command
    assert collected(shlex.split(command)[1:], monkeypatch) == (f"test_latency[{one.id}]",)

    write_result(tmp_path / "gpu", result(hardware=H200))
    assert "--gpu h200" in report_of([tmp_path / "gpu"]).rows[0].command


def test_the_command_of_a_case_names_a_matrix_that_has_it():
    """The full matrix has the small optimizations all or none, so it lacks most of an ablation."""
    find = matrix_finder(H200)
    for kind in ("ablation", "tiers", "smoke", "alone"):
        planned, _ = planned_cases(kind, ["dev", "schnell"], "synthetic", H200)
        for one in planned:
            found = find(one.case, one.role)
            again, _ = planned_cases(found, [one.case.model], "synthetic", H200)
            assert one.case in [other.case for other in again]
    assert find(case(optimizations=("bf16", "fused_rotary")), None) == "full"


@pytest.mark.subprocess
def test_reports_need_no_torch(tmp_path, baseline_file):
    """A machine that only collects results does not have it."""
    program = """
import importlib.abc, sys
class NoTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("torch", "diffusers"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoTorch())
from fluxfast.cli.main import main
baseline, results, database = sys.argv[1:]
history = ["history", "--database", database]
sys.exit(main(["report", baseline]) or main([*history, "--add", results]) or main(history))
"""
    (folder, *_) = write(ablation()[:1], tmp_path)
    words = [sys.executable, "-c", program, baseline_file, folder, tmp_path / "history.sqlite3"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_shards_are_merged_with_their_artifacts(tmp_path, capsys):
    folders = write(ablation(), tmp_path / "in")
    write_artifacts(folders[0])
    output = tmp_path / "out"
    arguments = [*map(str, folders), str(folders[0])]  # one of them twice
    assert main(["merge", *arguments, "--output", str(output)]) == 0
    assert "merged 54 results" in capsys.readouterr().out
    assert len(read_results([output])) == 54
    assert len(list(output.glob("*.png"))) == len(list((output / "kernels").iterdir())) == 18
    assert {r.summary.processes for r in report_of([output]).rows} == {3}
    assert main(["merge", *arguments, "--output", str(output)]) == 2
    assert "output folder of the merge is not empty" in capsys.readouterr().err


def test_an_empty_shard_is_named_and_passed_over(tmp_path, capsys):
    write_result(tmp_path / "a", result())
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "junit.xml").write_text("<testsuites/>")
    for name, part in (("a", "1/2"), ("empty", "2/2")):
        note_shard(tmp_path / name, part)
    folders, output = [str(tmp_path / "a"), str(tmp_path / "empty")], tmp_path / "merged"
    assert main(["merge", *folders, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "merged 1 results of 1 folders" in printed
    assert f"no results in {folders[1]} (shard 2/2)\nmissing shards: 2/2\n" in printed
    assert len(read_results([output])) == 1
    for wrong, problem in ((folders[1], "no results here"), ("/mistyped", "do not exist")):
        assert main(["merge", wrong, "--output", str(tmp_path / "other")]) == 2
        assert problem in capsys.readouterr().err
        assert not (tmp_path / "other").exists()


def test_a_shard_without_cases_is_not_missing(tmp_path, capsys):
    for name, model in (("1", "schnell"), ("2", "dev"), ("3", None)):
        note_shard(tmp_path / name, f"{name}/4", is_empty=model is None)
        if model:
            write_result(tmp_path / name, result(case=case(model=model)))
    folders, output = [str(tmp_path / name) for name in "123"], str(tmp_path / "merged")
    assert main(["merge", *folders, "--output", output]) == 0
    printed = capsys.readouterr().out
    assert f"no cases in {folders[2]} (shard 3/4)\nmissing shards: 4/4\n" in printed
    note_shard(tmp_path / "4", "4/4", is_empty=True)
    again = [output, str(tmp_path / "4"), "--output", str(tmp_path / "again")]
    assert main(["merge", *again]) == 0
    assert "missing" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"hardware": H100}, ["GPU NVIDIA H100 80GB HBM3", "GPU NVIDIA H200"]),
        (
            {
                "hardware": machine(
                    Platform.CUDA, "NVIDIA H200", "sm_90", memory_gib=139.8, packages={"torch": "2"}
                )
            },
            ["stack ", "torch 2"],
        ),
        ({"provenance": {"commit": "def", "dirty": False}}, ["commit abc", "commit def"]),
        ({"provenance": {"commit": "abc", "dirty": True}}, ["uncommitted changes"]),
    ],
    ids=["gpu", "stack", "commit", "dirty"],
)
def test_a_merge_refuses_to_mix_and_names_the_difference(tmp_path, capsys, other, named):
    write_result(tmp_path / "a", result())
    write_result(tmp_path / "b", result(case=case(model="schnell"), **other))
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(["merge", *folders, "--output", str(tmp_path / "c")]) == 2
    error = capsys.readouterr().err
    assert "do not belong together" in error and all(part in error for part in named)
    assert not (tmp_path / "c").exists()


def test_unreadable_results_are_refused(tmp_path, capsys):
    (tmp_path / "x.json").write_text("{")
    for path, problem in ((tmp_path / "none", "no results to report on"), (tmp_path, "corrupt")):
        assert main(["report", str(path), "--html", str(tmp_path / "page.html")]) == 2
        assert problem in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_different_commits_and_truncated_images_are_refused(tmp_path, capsys):
    one, other = ablation()[:1], ablation()[:1]
    folders = [write(one, tmp_path / "one")[0], write(other, tmp_path / "other")[0]]
    changed = next(folders[1].glob("*.json"))
    data = json.loads(changed.read_text())
    data["provenance"]["commit"] = "another"
    changed.write_text(json.dumps(data))
    assert main(["report", *map(str, folders)]) != 0
    error = capsys.readouterr().err
    assert "commit another: 1 results in" in error and "--against" in error
    assert main(["report", str(folders[0]), "--against", str(folders[1])]) == 0
    (whole, *_) = write(ablation(), tmp_path / "whole")
    write_artifacts(whole)
    for image in whole.glob("*.png"):
        image.write_bytes(image.read_bytes()[:100])
    assert main(["report", str(whole), "--html", str(tmp_path / "page.html")]) != 0
    assert "this image cannot be read" in capsys.readouterr().err


def test_against_judges_on_a_gpu_without_a_baseline(tmp_path):
    sides = {}
    for side, slower in (("a", {}), ("b", {"fp8_per_row": 1.3})):
        sides[side] = write(ablation(slower), tmp_path / side)
        for path in (path for folder in sides[side] for path in folder.glob("*.json")):
            data = json.loads(path.read_text())
            data["environment"]["hardware"]["name"] = "NVIDIA B300"
            path.write_text(json.dumps(data))
    outcomes = report_of(sides["b"]).outcomes
    assert set(outcomes) == {"new"}
    assert "slower" in report_of(sides["b"], sides["a"]).outcomes
    for path in (path for folder in sides["a"] for path in folder.glob("*-bf16.json")):
        path.unlink()  # measured on one side only
    outcomes = report_of(sides["b"], sides["a"]).outcomes
    assert outcomes["recorded"] == 2 and "new" not in outcomes  # dev and schnell
