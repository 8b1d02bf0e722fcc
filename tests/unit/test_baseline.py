"""Summaries, baselines, the files that hold them, and their provenance."""

import dataclasses
import errno
import json
import math
import re
import shutil
import subprocess
from functools import cache

import pytest

from fluxfast.bench.baselines.file import read_baseline, write_baseline
from fluxfast.bench.baselines.lookup import (
    baseline_for,
    find_baseline,
    known_baselines,
    local_baselines,
)
from fluxfast.bench.results import provenance as provenance_module
from fluxfast.bench.results.machine import cpu_slug, profile_of
from fluxfast.bench.results.provenance import provenance
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.store import read_result, read_results, write_result
from fluxfast.bench.results.summary import summarize
from fluxfast.bench.verdicts.comparison import compare_sides
from fluxfast.bench.verdicts.noise import noises
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.tables import baseline_rows, verdict_table
from fluxfast.bench.verdicts.verdict import decide
from fluxfast.cli.main import main
from fluxfast.errors import BaselineError, FluxFastError
from fluxfast.files import checkout, required_checkout, shipped_baselines, write_atomically
from fluxfast.hardware import Platform, detect, installed_packages, stack_of
from tests.support.machines import CPU, EVERYTHING, H100, H200, L20, MI300X
from tests.support.results import CANARIES, case, result


def test_a_summary_is_the_median_over_processes_of_medians_within():
    summary = summarize([result(2.0), result(2.2), result(9.0)])
    assert (summary.e2e_s, summary.processes, summary.step_ms) == (2.2, 3, pytest.approx(990.0))
    assert summary.compile_s == pytest.approx(10.5) and summary.spread == pytest.approx(3.5)
    assert summarize([result(compiles=False)]).compile_s is None


def test_a_cpu_is_judged_by_the_ratio_to_the_paired_eager_image():
    summary = summarize([result(2.0, reference_e2e_s=(4.0, 2.0, 5.0))])
    assert summary.eager_ratio == pytest.approx(0.5)


def processes(e2e_s=2.0, count=3, **changes):
    """Return results that may become a baseline: no two have the same samples."""
    return [
        result(e2e_s + (n - count // 2) / 1e4, **{"canaries": CANARIES, **changes})
        for n in range(count)
    ]


@pytest.fixture
def baseline(tmp_path):
    empty = dataclasses.replace(
        find_baseline("h200"), results={}, path=tmp_path / "nvidia-h200.json"
    )
    return empty.accept([result(e2e_s, canaries=CANARIES) for e2e_s in (2.0, 2.1, 2.2)])


def test_a_baseline_survives_writing_and_reading(baseline):
    write_baseline(baseline)
    again = read_baseline(baseline.path)
    assert again.summaries()[0].e2e_s == 2.1
    write_baseline(again)
    assert read_baseline(baseline.path) == again
    lines = baseline.path.read_text().splitlines()
    assert sum('"images"' in line for line in lines) == 3  # one line a process, for version control


def test_accepting_replaces_a_case_and_keeps_the_others(baseline):
    other = result(case=case(model="schnell"))
    updated = baseline.accept([other]).accept([result(9.0)])
    assert {s.case.model: s.processes for s in updated.summaries()} == {"dev": 1, "schnell": 1}
    assert updated.judge([result(9.0)] * 3).outcome is not Outcome.SLOWER


def accept(folders, *options):
    return main(["baseline", "accept", *map(str, folders), *options])


@pytest.fixture
def shipped(baseline, tmp_path, monkeypatch):
    """A folder of baselines that contains the H200's."""
    lookup = "fluxfast.bench.baselines.lookup"
    monkeypatch.setattr(f"{lookup}.shipped_baselines", lambda: tmp_path)
    monkeypatch.setattr(f"{lookup}.local_baselines", lambda: tmp_path / "local")
    write_baseline(baseline)
    return tmp_path


def write_all(folder, results):
    return [write_result(folder / str(n), r).parent for n, r in enumerate(results)]


SLOW = CANARIES | {"gemm_ms": (0.6,)}
A_PROCESS = {"commit": "abc", "dirty": False, "process": 7, "date": "2026-11-27T09:13:42+00:00"}


@pytest.mark.parametrize("e2e_s", [1.0, 3.0], ids=["down", "up"])
def test_accepting_takes_slower_and_faster_figures_and_keeps_a_history(shipped, capsys, e2e_s):
    assert accept(write_all(shipped, processes(e2e_s))) == 0
    change = f"{e2e_s / 2.1 - 1:+.2%}"
    assert change in capsys.readouterr().out
    assert read_baseline(shipped / "nvidia-h200.json").summaries()[0].e2e_s == e2e_s
    history = (shipped / "nvidia-h200.history.tsv").read_text().splitlines()
    assert history[0].startswith("date\tcommit\tcase") and change in history[1]
    assert accept(write_all(shipped, processes(e2e_s))) == 0
    again = (shipped / "nvidia-h200.history.tsv").read_text().splitlines()
    assert again[: len(history)] == history and len(again) > len(history)
    assert len(set(again)) == len(again)  # also after an `accept` that was killed


@pytest.mark.parametrize(
    ("results", "told"),
    [
        (
            processes(provenance={"commit": "abc", "dirty": True}),
            "uncommitted changes of commit abc",
        ),
        (processes(provenance={"commit": None, "dirty": None}), "the commit is unknown"),
        (processes(count=2), "too few processes"),
        (processes(hardware=H100), "another machine"),
        (
            [*processes(count=2), *processes(3.0, 1, canaries=SLOW)],
            "the machine of a result differs from that of the others",
        ),
        (
            processes(canaries=SLOW, case=case(model="schnell")),
            "the machine of a result differs from that of the others",
        ),
        (processes(canaries={}), "lacks canaries"),
        (processes(canaries={"gemm_ms": (0.52,)}), "no attention_ms, copy_ms, launch_us"),
        ([result(canaries=CANARIES)] * 3, "one process would count as two"),
        (
            processes(provenance=A_PROCESS),
            "one process would count as two",
        ),
    ],
    ids=[
        "dirty",
        "no commit",
        "two processes",
        "another gpu",
        "another runner",
        "another runner of a new case",
        "no canaries",
        "not all canaries",
        "the same samples",
        "the same process",
    ],
)
def test_refused_results_change_nothing(shipped, capsys, results, told):
    before = (shipped / "nvidia-h200.json").read_text()
    assert accept(write_all(shipped, results), "--gpu", "h200") == 2
    assert told in capsys.readouterr().err
    assert (shipped / "nvidia-h200.json").read_text() == before
    assert not (shipped / "nvidia-h200.history.tsv").exists()


def test_a_folder_given_twice_is_one_process(shipped, capsys):
    folders = write_all(shipped, [result(canaries=CANARIES)])
    assert accept(folders * 3) == 2
    path = folders[0] / f"{case().id}.json"
    assert f"got:     {path} and {path}" in capsys.readouterr().err


def test_processes_with_one_id_and_date_on_two_cards_are_two(shipped):
    """Containers that start together use the same process ids."""
    cards = [
        one.environment | {"gpu": {"uuid": card}}
        for one, card in zip(processes(), "abc", strict=True)
    ]
    found = [
        dataclasses.replace(one, environment=environment)
        for one, environment in zip(processes(provenance=A_PROCESS), cards, strict=True)
    ]
    assert accept(write_all(shipped, found)) == 0


def test_a_new_case_is_accepted_from_a_machine_like_that_of_the_others(shipped):
    assert accept(write_all(shipped, processes(case=case(model="schnell")))) == 0
    assert len(read_baseline(shipped / "nvidia-h200.json").results) == 2


def test_a_cpu_needs_no_canaries(shipped):
    found = processes(hardware=CPU, reference_e2e_s=(1.0,) * 3, canaries={})
    assert accept(write_all(shipped, found)) == 0


def test_a_truncated_row_of_the_history_stays_a_row_of_its_own(shipped):
    history = shipped / "nvidia-h200.history.tsv"
    history.write_text("date\tcommit\n2026-11-27\tab")
    assert accept(write_all(shipped, processes())) == 0
    lines = history.read_text().splitlines()
    assert lines[:2] == ["date\tcommit", "2026-11-27\tab"] and all(
        case().id in x for x in lines[2:]
    )


def test_a_history_that_is_no_text_is_reported_before_anything_is_written(shipped, capsys):
    history = shipped / "nvidia-h200.history.tsv"
    history.write_bytes(b"\xff\xfe")
    before = (shipped / "nvidia-h200.json").read_text()
    assert accept(write_all(shipped, processes())) == 2
    told = capsys.readouterr().err
    assert "this history cannot be read" in told and str(history) in told
    assert (shipped / "nvidia-h200.json").read_text() == before
    assert history.read_bytes() == b"\xff\xfe"


def starts_again(monkeypatch, folder):
    """The commit is read again, as a new process in the checkout `folder` reads it."""
    monkeypatch.delenv("FLUXFAST_COMMIT", raising=False)
    monkeypatch.setattr(provenance_module, "checkout", lambda: folder)
    fresh = cache(provenance_module.running_commit.__wrapped__)
    monkeypatch.setattr(provenance_module, "running_commit", fresh)


def git_in(folder, *words):
    subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True)


def commit_all(folder):
    git_in(folder, "add", "--all")
    author = ("-c", "user.name=tests", "-c", "user.email=tests@example.org")
    git_in(folder, *author, "commit", "-m", "one")


def test_a_changed_source_makes_a_tree_dirty_and_a_document_does_not(tmp_path, monkeypatch):
    starts_again(monkeypatch, tmp_path)
    assert provenance()["dirty"] is provenance()["commit"] is None  # no repository

    def written(name, text="1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        return provenance()["dirty"]

    written(".gitignore", "__pycache__/\n")
    written("docs/one.md")
    written("fluxfast/optimizations/one.py")
    git_in(tmp_path, "init")
    commit_all(tmp_path)
    starts_again(monkeypatch, tmp_path)
    first = provenance()["commit"]
    assert written("docs/one.md", "2") is False
    for name in ("r/1/case.json", "results/1/case.json", "fluxfast/__pycache__/one.pyc"):
        assert written(name) is False
    for name in ("fluxfast/optimizations/two.py", "perf_tests/a.py", "conftest.py"):
        assert written(name) is True
        (tmp_path / name).unlink()
    assert provenance()["dirty"] is False
    assert written("fluxfast/optimizations/one.py", "2") is True
    commit_all(tmp_path)  # while cases are measured: their code is still that of the first one
    assert provenance()["dirty"] is True and provenance()["commit"] == first
    starts_again(monkeypatch, tmp_path)
    assert provenance()["dirty"] is False and provenance()["commit"] != first
    assert "why_commit_unknown" not in provenance()


def test_an_unreadable_repository_is_reported_in_the_words_of_git(
    shipped, tmp_path, monkeypatch, capsys
):
    """A clone of another user: git's safe.directory refuses to read it."""
    clone = tmp_path / "clone"
    clone.mkdir()
    git_in(clone, "init")
    (clone / "conftest.py").write_text("")
    commit_all(clone)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    starts_again(monkeypatch, clone)
    origin = provenance()
    assert origin["commit"] is origin["dirty"] is None
    assert "detected dubious ownership" in origin["why_commit_unknown"]
    assert "safe.directory" in origin["why_commit_unknown"]
    several = processes(provenance=origin | {"process": None})
    assert accept(write_all(shipped, several)) == 2
    assert "detected dubious ownership" in capsys.readouterr().err


def test_an_installed_package_has_no_commit_unless_it_is_named(monkeypatch):
    starts_again(monkeypatch, None)
    assert provenance()["commit"] is None
    assert "installed from a wheel" in provenance()["why_commit_unknown"]
    starts_again(monkeypatch, None)
    monkeypatch.setenv("FLUXFAST_COMMIT", "abc")
    assert provenance()["commit"] == "abc" and provenance()["dirty"] is None


def test_the_shipped_baseline_is_read_judged_and_written_as_it_was(tmp_path):
    old = read_baseline(shipped_baselines() / "nvidia-h200.json")
    first = next(iter(old.results.values()))[0]
    assert old.judge([first]).outcome in (Outcome.SAME, Outcome.UNDECIDED)
    new = dataclasses.replace(old, path=tmp_path / "new.json")
    write_baseline(new)
    assert read_baseline(new.path).results == old.results


def test_results_of_another_gpu_are_not_accepted(baseline):
    with pytest.raises(BaselineError, match="another machine"):
        baseline.accept([result(hardware=H100)])


def test_judging_against_a_baseline(baseline):
    assert baseline.judge([result(2.1)] * 3).outcome is not Outcome.SLOWER
    assert baseline.judge([result(3.0)]).outcome is Outcome.SLOWER
    new = baseline.judge([result(case=case(model="schnell"))])
    assert new.outcome is Outcome.NEW and not new.passes and "--record" in new.reason
    upgraded = dataclasses.replace(H200, packages=H200.packages | {"torch": "9"})
    verdict = baseline.judge([result(2.1, hardware=upgraded)])
    assert verdict.outcome is Outcome.WRONG_STACK and "torch 1 → 9" in verdict.reason


def test_another_profile_of_synthetic_weights_is_another_stack(baseline):
    """Results from before profiles name none: theirs was the first, as the shipped ones' is."""
    same = baseline.judge([result(2.1, weights_profile="normal-1")])
    assert same.outcome is not Outcome.WRONG_STACK
    verdict = baseline.judge([result(2.1, weights_profile="trained-1")])
    assert verdict.outcome is Outcome.WRONG_STACK
    assert "synthetic weights normal-1 → trained-1" in verdict.reason
    written = result(weights_profile="trained-1").to_json()
    assert CaseResult.from_json(written, "").weights_profile == "trained-1"
    del written["weights_profile"]
    assert profile_of(CaseResult.from_json(written, "")) == "normal-1"


@pytest.mark.parametrize(
    ("platform", "unused"),
    [("cpu", {"triton", "fa3-fwd", "amd-aiter"}), ("cuda", {"amd-aiter"}), ("rocm", {"fa3-fwd"})],
)
def test_the_stack_of_a_platform_is_what_its_cases_can_use(platform, unused):
    stack = stack_of(Platform(platform), EVERYTHING)
    assert set(stack) == set(EVERYTHING) - unused


def test_installing_what_no_cpu_case_can_use_is_no_other_stack(tmp_path):
    """`make perf`, then `make test` (which installs triton), then `make perf`."""

    def measured_with(**installed):
        packages = {"torch": "2.13.0", "diffusers": "0.42.0", **installed}
        hardware = dataclasses.replace(CPU, packages=packages)
        return result(hardware=hardware, reference_e2e_s=(1.0,) * 3)

    empty = baseline_for("cpu", CPU, local=tmp_path)
    first = measured_with()
    assert first.environment["hardware"]["packages"] == {"torch": "2.13.0", "diffusers": "0.42.0"}
    recorded = empty.accept([first])
    verdict = recorded.judge([measured_with(triton="3.6.0")])
    assert verdict.outcome in (Outcome.SAME, Outcome.UNDECIDED), verdict.reason
    upgraded = recorded.judge([measured_with(torch="2.14.0", triton="3.6.0")])
    assert upgraded.outcome is Outcome.WRONG_STACK and "torch 2.13.0 → 2.14.0" in upgraded.reason


def test_an_old_cpu_result_that_records_triton_still_compares(tmp_path):
    environment = {"hardware": CPU.to_json() | {"packages": {"torch": "1", "triton": "3.6.0"}}}
    old = result(environment=environment, reference_e2e_s=(1.0,) * 3)
    new = result(hardware=CPU, reference_e2e_s=(1.0,) * 3)
    new = dataclasses.replace(
        new, environment={"hardware": CPU.to_json() | {"packages": {"torch": "1"}}}
    )
    for before, now in ((old, new), (new, old)):
        recorded = baseline_for("cpu", CPU, local=tmp_path).accept([before])
        assert recorded.judge([now]).outcome is not Outcome.WRONG_STACK


def test_a_gpu_is_compared_with_the_triton_of_its_baseline(baseline):
    upgraded = dataclasses.replace(H200, packages=H200.packages | {"triton": "9"})
    verdict = baseline.judge([result(2.1, hardware=upgraded)])
    assert verdict.outcome is Outcome.WRONG_STACK and "triton 1 → 9" in verdict.reason


def test_the_recorded_version_is_that_of_the_distribution_that_python_imports(
    tmp_path, monkeypatch
):
    for folder, version in (("first", "1.5.2"), ("second", "1.5.3")):
        info = tmp_path / folder / f"cache_dit-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: Cache_DiT\nVersion: {version}\n"
        )
    for folder in ("second", "first"):
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    assert installed_packages()["cache-dit"] == "1.5.2"


def test_all_verdicts_of_a_run_are_decided_together(baseline):
    new = case(model="schnell")
    measured = {case().id: [result(3.0)], new.id: [result(case=new)]}
    verdicts = baseline.judge_all(measured)
    assert {key: v.outcome for key, v in verdicts.items()} == {
        case().id: Outcome.SLOWER,
        new.id: Outcome.NEW,
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "corrupt or truncated"),
        ("[]", "no result or baseline of fluxfast"),
        ('{"schema": 99}', "newer than this version of fluxfast can read"),
        ('{"schema": 1}', "older than this version of fluxfast can read"),
        ('{"schema": "2"}', "no result or baseline of fluxfast"),
        ('{"schema": 2}', "incomplete"),
        ('{"schema": 2, "gpu": {"slug": "x"}}', "incomplete"),
    ],
)
def test_a_damaged_baseline_is_an_error_with_a_remedy(tmp_path, text, told):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(BaselineError, match=told) as error:
        read_baseline(path)
    assert str(path) in str(error.value) and error.value.remedy


IMAGE = dataclasses.asdict(result().images[0])


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data["cases"][0].update(processes=[]),
        lambda data: data["cases"][0]["processes"][0].update(images=[]),
        lambda data: data["cases"][0]["processes"][0].pop("pace_ms"),
        lambda data: next(iter(data["environments"].values())).pop("hardware"),
    ],
    ids=["no process", "no image", "no pace", "no hardware"],
)
def test_an_incomplete_baseline_is_refused(baseline, damage):
    write_baseline(baseline)
    data = json.loads(baseline.path.read_text())
    damage(data)
    baseline.path.write_text(json.dumps(data))
    with pytest.raises(BaselineError, match="incomplete"):
        read_baseline(baseline.path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        *(
            ({"images": [{**IMAGE, **image}]}, told)
            for image, told in (
                ({"step_ms": []}, "without steps"),
                ({"step_ms": "fast"}, "step_ms is 'f'"),
                ({"step_ms": 450.0}, "not iterable"),
                ({"step_ms": [450.0, math.inf]}, "Infinity is not valid JSON"),
                ({"e2e_s": 0}, "e2e_s is 0"),
                ({"e2e_s": -2.0}, "e2e_s is -2.0"),
                ({"decode_ms": math.nan}, "NaN is not valid JSON"),
                ({"decode_ms": "80"}, "decode_ms is '80'"),
                ({"decode_ms": None}, "decode_ms is None"),
            )
        ),
        ({"images": [5]}, "incomplete"),
        ({"reference_e2e_s": [0.0]}, "reference_e2e_s is 0.0"),
        ({"first_image_s": "12"}, "first_image_s is '12'"),
        ({"peak_memory_gib": math.nan}, "NaN is not valid JSON"),
        ({"canaries": {"gemm_ms": [0.0]}}, "gemm_ms is 0.0"),
        ({"canaries": []}, "incomplete"),
        ({"sampling": 5}, "incomplete"),
        ({"environment": {"hardware": {"platform": "cuda"}}}, "incomplete"),
        ({"environment": result().environment | {"gpu": []}}, "gpu of the environment"),
        ({"environment": result().environment | {"gpu": {"uuid": [1]}}}, "uuid is [1]"),
        ({"provenance": {"date": "30 Nov 2026"}}, "30 Nov 2026"),
        ({"provenance": {"date": "2026-11-30T02:00:00"}}, "no time zone"),
        ({"provenance": {"commit": 7}}, "commit is '7', which is no text"),
        ({"provenance": {"process": []}}, "process is []"),
        ({"proofs": {"bf16": None}}, "bf16 is 'None', which is no text"),
        ({"kernels": {"gemm": [1]}}, "gemm is '1', which is no text"),
    ],
    ids=str,
)
def test_a_wrong_value_is_reported_with_its_file(tmp_path, changes, told):
    path = write_result(tmp_path, result())
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"images": data["images"][:1]} | changes))
    with pytest.raises(BaselineError, match=re.escape(told)) as error:
        read_result(path)
    assert str(path) in str(error.value) and "again" in error.value.remedy


@pytest.mark.parametrize("key", ["slug", "device_names", "platform", "memory_gib"])
def test_a_missing_key_of_a_gpu_is_named(baseline, key):
    write_baseline(baseline)
    data = json.loads(baseline.path.read_text())
    del data["gpu"][key]
    baseline.path.write_text(json.dumps(data))
    with pytest.raises(BaselineError, match=f"the key '{key}' is missing") as error:
        read_baseline(baseline.path)
    assert str(baseline.path) in str(error.value) and "device_names" in error.value.allowed


def test_an_installed_package_has_its_own_baselines_and_writes_to_the_working_directory(
    tmp_path, monkeypatch
):
    package = tmp_path / "site-packages" / "fluxfast"
    monkeypatch.setattr("fluxfast.files.PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    assert checkout() is None
    assert shipped_baselines() == package / "_baselines"
    assert local_baselines() == tmp_path / ".fluxfast" / "baselines"
    with pytest.raises(FluxFastError, match="fluxfast selftest needs a checkout"):
        required_checkout("fluxfast selftest")
    (package.parent / "pyproject.toml").parent.mkdir()
    (package.parent / "pyproject.toml").touch()
    assert checkout() == required_checkout("it") == package.parent
    assert shipped_baselines() == package.parent / "baselines"


@pytest.mark.parametrize(
    "changes", [{"memory_gib": "139.8"}, {"memory_gib": 0}, {"device_names": []}], ids=str
)
def test_a_wrong_value_of_a_gpu_is_reported_with_its_file(baseline, changes):
    write_baseline(baseline)
    data = json.loads(baseline.path.read_text())
    data["gpu"].update(changes)
    baseline.path.write_text(json.dumps(data))
    with pytest.raises(BaselineError, match=next(iter(changes))) as error:
        read_baseline(baseline.path)
    assert str(baseline.path) in str(error.value)


def test_every_truncation_of_a_baseline_is_refused(baseline):
    write_baseline(baseline)
    text = baseline.path.read_text().rstrip()
    for length in range(0, len(text), 211):
        baseline.path.write_text(text[:length])
        with pytest.raises(BaselineError):
            read_baseline(baseline.path)


@pytest.mark.parametrize("path", sorted(set(known_baselines().values())), ids=lambda p: p.stem)
def test_every_shipped_baseline_is_readable_and_named_after_its_gpu(path):
    baseline = read_baseline(path)
    assert baseline.gpu.slug == path.stem


def test_a_gpu_is_found_by_its_names_and_by_the_machine():
    assert find_baseline("nvidia-h200").path == find_baseline("h200").path
    for hardware, slug in ((H200, "nvidia-h200"), (H100, "nvidia-h100"), (L20, "nvidia-l20")):
        assert baseline_for("auto", hardware).gpu.slug == slug
    assert baseline_for("auto", MI300X).gpu.slug == "amd-mi300x"


def test_a_wrong_or_unknown_gpu_is_refused():
    with pytest.raises(BaselineError, match="not the GPU that --gpu names"):
        baseline_for("h200", H100)
    with pytest.raises(BaselineError, match=r"h100.*h200"):
        baseline_for("h300", H100)
    slice_of_it = {"name": "NVIDIA H200 MIG 1g.18gb", "memory_gib": 16.0}
    for change in ({"name": "NVIDIA B300"}, {"name": "NVIDIA H200 NVL"}, slice_of_it):
        with pytest.raises(BaselineError, match="no baseline describes this GPU"):
            baseline_for("auto", dataclasses.replace(H200, **change))


def test_a_damaged_file_of_another_gpu_is_ignored(tmp_path):
    for path in shipped_baselines().glob("*.json"):
        shutil.copy(path, tmp_path)
    (tmp_path / "nvidia-h100.json").write_text('{"schema": 2, "gpu"')
    for hardware, slug in ((H200, "nvidia-h200"), (L20, "nvidia-l20")):  # read after it
        assert baseline_for("auto", hardware, tmp_path).gpu.slug == slug
    with pytest.raises(BaselineError, match=r"corrupt or truncated(.|\n)*nvidia-h100\.json"):
        baseline_for("auto", H100, tmp_path)  # it may be the file of this machine


def test_a_cpu_without_a_shipped_baseline_has_its_own(tmp_path):
    baseline = baseline_for("cpu", CPU, local=tmp_path)
    assert baseline.path == tmp_path / f"{cpu_slug(CPU)}.json" and not baseline.results
    write_baseline(baseline.accept([result(hardware=CPU, reference_e2e_s=(1.0,) * 3)]))
    assert len(baseline_for("auto", CPU, local=tmp_path).results) == 1


def test_a_cpus_own_baseline_forgets_one_case_or_all(shipped, capsys):
    path = shipped / "local" / f"{cpu_slug(detect('cpu'))}.json"
    forget = ("baseline", "forget", "--gpu", "cpu")
    assert main(list(forget)) == 2 and "no baseline to begin again" in capsys.readouterr().err
    measured = [
        result(case=case(model=model), hardware=detect("cpu"), reference_e2e_s=(1.0,) * 3)
        for model in ("dev", "schnell")
    ]
    write_baseline(baseline_for("cpu", detect("cpu")).accept(measured))
    assert main([*forget, "no-such-case"]) == 2
    assert measured[0].case.id in capsys.readouterr().err
    assert main([*forget, measured[0].case.id]) == 0
    assert f"removed 1 of 2 cases from {path}" in capsys.readouterr().out
    assert list(read_baseline(path).results) == [measured[1].case.id]
    assert main(list(forget)) == 0 and not path.exists()


def test_the_projects_baselines_forget_nothing(capsys):
    assert main(["baseline", "forget", "--gpu", "h200"]) == 2
    assert "the project's baselines forget nothing" in capsys.readouterr().err


def test_results_are_read_back_and_a_damaged_one_is_reported(tmp_path):
    path = write_result(tmp_path, result())
    assert read_result(path) == result()
    assert read_results([tmp_path]) == [result()]
    data = json.loads(path.read_text())
    del data["images"]
    path.write_text(json.dumps(data))
    with pytest.raises(BaselineError, match="incomplete"):
        read_result(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaselineError, match="no results here"):
        read_results([tmp_path / "empty"])
    with pytest.raises(
        BaselineError, match="these folders do not exist"
    ):  # a night with a typing error
        read_results([tmp_path / "empty", tmp_path / "emtpy"])


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_result(tmp_path, result())
    before = path.read_text()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FluxFastError, match="No space left on device"):
        write_atomically(path, "half")
    assert path.read_text() == before and list(tmp_path.iterdir()) == [path]


def test_the_h200_baseline_has_the_figures_that_programs_read():
    rows = baseline_rows(read_baseline(shipped_baselines() / "nvidia-h200.json").summaries())
    fields = "case model weights optimizations resolution steps e2e_s step_ms encode_ms decode_ms"
    assert rows and all(
        set(fields.split())
        | {"compile_s", "to_first_image_s", "peak_memory_gib", "speedup", "processes"}
        <= set(row)
        for row in rows
    )
    gated = [row for row in rows if row["optimizations"] == ["bf16"]]
    assert {row["model"] for row in gated} == {"schnell", "dev", "kontext"}
    assert all(row["speedup"] == 1.0 for row in gated)
    # Kontext was recorded once with today's weights; two processes are missing.
    assert all(row["processes"] >= (1 if row["model"] == "kontext" else 3) for row in gated)


def test_the_table_fits_a_hundred_columns_and_truncates_nothing():
    """The widest figures that occur."""
    wide = result(98.76, first_image_s=1300.0, peak_memory_gib=125.5)
    slow, same = (
        decide([compare_sides([wide], [result(e2e_s)], noises([]))])[0] for e2e_s in (1.0, 98.76)
    )
    no_runner = dataclasses.replace(same, outcome=Outcome.INVALID_RUNNER)
    verdicts = {"schnell": slow, "dev": no_runner, "kontext": None}
    cases = {model: case(model=model, optimizations=("bf16",)) for model in verdicts}
    rows = [
        (
            "default − fused_projections",
            summarize([dataclasses.replace(wide, case=cases[model])]),
            verdict,
        )
        for model, verdict in verdicts.items()
    ]
    quality = {cases["schnell"].id: {"psnr_db": None}, cases["dev"].id: {"psnr_db": 31.25}}
    table = verdict_table(rows, quality)
    assert max(map(len, table.splitlines())) <= 100
    words = table.split()
    assert {"fused_projections", "INVALID", "RUNNER", "recorded", "same", "31.2"} < set(words)
    assert {"44442.0", "1202", "125.5", "1.00×", "+9776.0%"} < set(words)
    assert "PSNR" not in verdict_table(rows)


def test_the_table_names_the_stage_that_is_slower_and_its_change():
    before = result()
    image = before.images[0]
    slow_steps = tuple(2 * step for step in image.step_ms)
    steps = dataclasses.replace(
        before, images=(dataclasses.replace(image, step_ms=slow_steps),) * 3
    )  # and the image as long as it was, as where the eager one is slower too
    verdict = decide([compare_sides([steps], [before], noises([]))])[0]
    table = verdict_table([("bf16", summarize([steps]), verdict)])
    assert "+100.0%" in table and "SLOWER:" in table
    assert {"denoising", "step"} <= set(table.split())
