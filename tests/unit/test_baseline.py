"""Summaries, verdicts, and the files they are kept in."""

import dataclasses
import errno
import json
import math
import re
import shutil
import subprocess
import sys
from functools import cache

import pytest

from fluxfast.bench.baselines.baseline import (
    SHIPPED,
    baseline_for,
    cpu_slug,
    find_baseline,
    known_baselines,
    read_baseline,
)
from fluxfast.bench.results import result as result_module
from fluxfast.bench.results.result import provenance, read_result, read_results, write_result
from fluxfast.bench.results.summary import summarize
from fluxfast.bench.verdicts.noise import noises
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.tables import baseline_rows, verdict_table
from fluxfast.bench.verdicts.verdict import compare, decide
from fluxfast.cli.main import main
from fluxfast.errors import BaselineError, FluxFastError
from fluxfast.files import write_atomically
from fluxfast.hardware import Platform, installed_packages, stack_of
from tests.support.machines import CPU, EVERYTHING, H100, H200, L20, MI300X
from tests.support.results import CANARIES, case, result


def test_a_summary_is_the_median_over_processes_of_medians_within():
    summary = summarize([result(2.0), result(2.2), result(9.0)])
    assert (summary.e2e_s, summary.processes, summary.step_ms) == (2.2, 3, pytest.approx(990.0))
    assert summary.compile_s == pytest.approx(10.5) and summary.spread == pytest.approx(3.5)
    assert summarize([result(compiles=False)]).compile_s is None


def test_a_cpu_is_judged_by_the_ratio_to_the_eager_image_beside_each():
    summary = summarize([result(2.0, reference_e2e_s=(4.0, 2.0, 5.0))])
    assert summary.eager_ratio == pytest.approx(0.5)


def processes(e2e_s=2.0, count=3, **changes):
    """That may become a baseline: no two have the same samples."""
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
    baseline.write()
    again = read_baseline(baseline.path)
    assert again.summaries()[0].e2e_s == 2.1
    again.write()
    assert read_baseline(baseline.path) == again
    lines = baseline.path.read_text().splitlines()
    assert sum('"images"' in line for line in lines) == 3  # one line a process, for version control


def test_accepting_replaces_a_case_whichever_way_it_moved_and_keeps_the_others(baseline):
    other = result(case=case(model="schnell"))
    updated = baseline.accept([other]).accept([result(9.0)])
    assert {s.case.model: s.processes for s in updated.summaries()} == {"dev": 1, "schnell": 1}
    assert updated.judge([result(9.0)] * 3).outcome is not Outcome.SLOWER


def accept(folders, *options):
    return main(["baseline", "accept", *map(str, folders), *options])


@pytest.fixture
def shipped(baseline, tmp_path, monkeypatch):
    """A folder of baselines with the H200's in it, and results of three processes."""
    monkeypatch.setattr("fluxfast.bench.baselines.baseline.find_baseline.__defaults__", (tmp_path,))
    monkeypatch.setattr(
        "fluxfast.bench.baselines.baseline.baseline_for.__defaults__",
        (tmp_path, tmp_path / "local"),
    )
    baseline.write()
    return tmp_path


def write_all(folder, results):
    return [write_result(folder / str(n), r).parent for n, r in enumerate(results)]


SLOW = CANARIES | {"gemm_ms": (0.6,)}
A_PROCESS = {"commit": "abc", "dirty": False, "process": 7, "date": "2026-11-27T09:13:42+00:00"}


@pytest.mark.parametrize("e2e_s", [1.0, 3.0], ids=["down", "up"])
def test_accepting_raises_as_readily_as_it_lowers_and_keeps_a_history(shipped, capsys, e2e_s):
    assert accept(write_all(shipped, processes(e2e_s))) == 0
    change = f"{e2e_s / 2.1 - 1:+.2%}"
    assert change in capsys.readouterr().out
    assert read_baseline(shipped / "nvidia-h200.json").summaries()[0].e2e_s == e2e_s
    history = (shipped / "nvidia-h200.history.tsv").read_text().splitlines()
    assert history[0].startswith("date\tcommit\tcase") and change in history[1]
    assert accept(write_all(shipped, processes(e2e_s))) == 0
    again = (shipped / "nvidia-h200.history.tsv").read_text().splitlines()
    assert again[: len(history)] == history and len(again) == 2 * len(history) - 1


@pytest.mark.parametrize(
    ("results", "told"),
    [
        (processes(provenance={"commit": "abc", "dirty": True}), "sources with changes"),
        (processes(provenance={"commit": None, "dirty": None}), "an unknown commit"),
        (processes(count=2), "too few processes"),
        (processes(hardware=H100), "another machine"),
        (
            [*processes(count=2), *processes(3.0, 1, canaries=SLOW)],
            "the runner of a result stands out",
        ),
        (
            processes(canaries=SLOW, case=case(model="schnell")),
            "the runner of a result stands out",
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
def test_what_may_not_become_a_baseline_changes_nothing(shipped, capsys, results, told):
    before = (shipped / "nvidia-h200.json").read_text()
    assert accept(write_all(shipped, results), "--gpu", "h200") == 2
    assert told in capsys.readouterr().err
    assert (shipped / "nvidia-h200.json").read_text() == before
    assert not (shipped / "nvidia-h200.history.tsv").exists()


def test_a_folder_that_is_named_twice_is_one_process(shipped, capsys):
    folders = write_all(shipped, [result(canaries=CANARIES)])
    assert accept(folders * 3) == 2
    path = folders[0] / f"{case().id}.json"
    assert f"got:     {path} and {path}" in capsys.readouterr().err


def test_processes_of_one_id_and_date_on_two_cards_are_two(shipped):
    """Containers start at once, and count their processes alike."""
    cards = [
        one.environment | {"gpu": {"uuid": card}}
        for one, card in zip(processes(), "abc", strict=True)
    ]
    found = [
        dataclasses.replace(one, environment=environment)
        for one, environment in zip(processes(provenance=A_PROCESS), cards, strict=True)
    ]
    assert accept(write_all(shipped, found)) == 0


def test_a_new_case_is_accepted_from_a_runner_like_that_of_the_others(shipped):
    assert accept(write_all(shipped, processes(case=case(model="schnell")))) == 0
    assert len(read_baseline(shipped / "nvidia-h200.json").results) == 2


def test_a_cpu_needs_no_canaries(shipped):
    found = processes(hardware=CPU, reference_e2e_s=(1.0,) * 3, canaries={})
    assert accept(write_all(shipped, found)) == 0


def test_a_row_of_the_history_that_was_cut_stays_a_row_of_its_own(shipped):
    history = shipped / "nvidia-h200.history.tsv"
    history.write_text("date\tcommit\n2026-11-27\tab")
    assert accept(write_all(shipped, processes())) == 0
    lines = history.read_text().splitlines()
    assert lines[:2] == ["date\tcommit", "2026-11-27\tab"] and all(
        case().id in x for x in lines[2:]
    )


def test_a_history_that_is_no_text_is_named_before_anything_is_written(shipped, capsys):
    history = shipped / "nvidia-h200.history.tsv"
    history.write_bytes(b"\xff\xfe")
    before = (shipped / "nvidia-h200.json").read_text()
    assert accept(write_all(shipped, processes())) == 2
    told = capsys.readouterr().err
    assert "this history cannot be read" in told and str(history) in told
    assert (shipped / "nvidia-h200.json").read_text() == before
    assert history.read_bytes() == b"\xff\xfe"


def test_sources_make_a_tree_dirty_and_what_is_beside_them_does_not(tmp_path, monkeypatch):
    def begins():
        """As another process would."""
        monkeypatch.setattr(result_module, "_commit", cache(result_module._commit.__wrapped__))

    monkeypatch.delenv("FLUXFAST_COMMIT", raising=False)
    monkeypatch.setattr(
        result_module, "__file__", str(tmp_path / "fluxfast" / "bench" / "result.py")
    )
    begins()
    assert provenance()["dirty"] is provenance()["commit"] is None  # no repository

    def written(name, text="1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        return provenance()["dirty"]

    def git(*words):
        subprocess.run(["git", "-C", tmp_path, *words], check=True, capture_output=True)

    def commit():
        git("add", "--all")
        git("-c", "user.name=tests", "-c", "user.email=tests@example.org", "commit", "-m", "one")

    written(".gitignore", "__pycache__/\n")
    written("docs/one.md")
    written("fluxfast/optimizations/one.py")
    git("init")
    commit()
    begins()
    first = provenance()["commit"]
    assert written("docs/one.md", "2") is False
    for name in ("r/1/case.json", "results/1/case.json", "fluxfast/__pycache__/one.pyc"):
        assert written(name) is False
    for name in ("fluxfast/optimizations/two.py", "perf_tests/a.py", "conftest.py"):
        assert written(name) is True
        (tmp_path / name).unlink()
    assert provenance()["dirty"] is False
    assert written("fluxfast/optimizations/one.py", "2") is True
    commit()  # while cases are measured: their code is still that of the first one
    assert provenance()["dirty"] is True and provenance()["commit"] == first
    begins()
    assert provenance()["dirty"] is False and provenance()["commit"] != first


def test_the_shipped_baseline_is_read_judged_and_written_as_it_was(tmp_path):
    old = read_baseline(SHIPPED / "nvidia-h200.json")
    first = next(iter(old.results.values()))[0]
    assert old.judge([first]).outcome in (Outcome.SAME, Outcome.UNDECIDED)
    new = dataclasses.replace(old, path=tmp_path / "new.json")
    new.write()
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
        ("[]", "not what this version"),
        ('{"schema": 99}', "newer than what this version"),
        ('{"schema": 1}', "older than what this version"),
        ('{"schema": "2"}', "not what this version"),
        ('{"schema": 2}', "incomplete"),
        ('{"schema": 2, "gpu": {"slug": "x"}}', "incomplete"),
    ],
)
def test_a_damaged_baseline_is_named_with_what_to_do(tmp_path, text, told):
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
def test_a_baseline_that_lacks_what_it_is_judged_by_is_refused(baseline, damage):
    baseline.write()
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
                ({"step_ms": [450.0, math.inf]}, "step_ms is inf"),
                ({"e2e_s": 0}, "e2e_s is 0"),
                ({"e2e_s": -2.0}, "e2e_s is -2.0"),
                ({"decode_ms": math.nan}, "decode_ms is nan"),
                ({"decode_ms": "80"}, "decode_ms is '80'"),
                ({"decode_ms": None}, "decode_ms is None"),
            )
        ),
        ({"images": [5]}, "incomplete"),
        ({"reference_e2e_s": [0.0]}, "reference_e2e_s is 0.0"),
        ({"first_image_s": "12"}, "first_image_s is '12'"),
        ({"peak_memory_gib": math.nan}, "peak_memory_gib is nan"),
        ({"canaries": {"gemm_ms": [0.0]}}, "gemm_ms is 0.0"),
        ({"canaries": []}, "incomplete"),
        ({"sampling": 5}, "incomplete"),
        ({"environment": {"hardware": {"platform": "cuda"}}}, "incomplete"),
    ],
    ids=str,
)
def test_a_wrong_value_is_named_with_its_file(tmp_path, changes, told):
    path = write_result(tmp_path, result())
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"images": data["images"][:1]} | changes))
    with pytest.raises(BaselineError, match=re.escape(told)) as error:
        read_result(path)
    assert str(path) in str(error.value) and "measure again" in error.value.remedy


@pytest.mark.parametrize(
    "changes", [{"memory_gib": "139.8"}, {"memory_gib": 0}, {"device_names": []}], ids=str
)
def test_a_wrong_value_of_a_gpu_is_named_with_its_file(baseline, changes):
    baseline.write()
    data = json.loads(baseline.path.read_text())
    data["gpu"].update(changes)
    baseline.path.write_text(json.dumps(data))
    with pytest.raises(BaselineError, match=next(iter(changes))) as error:
        read_baseline(baseline.path)
    assert str(baseline.path) in str(error.value)


def test_every_truncation_of_a_baseline_is_refused(baseline):
    baseline.write()
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


def test_a_damaged_file_of_another_gpu_is_no_obstacle(tmp_path):
    for path in SHIPPED.glob("*.json"):
        shutil.copy(path, tmp_path)
    (tmp_path / "nvidia-h100.json").write_text('{"schema": 2, "gpu"')
    for hardware, slug in ((H200, "nvidia-h200"), (L20, "nvidia-l20")):  # read after it
        assert baseline_for("auto", hardware, tmp_path).gpu.slug == slug
    with pytest.raises(BaselineError, match=r"corrupt or truncated(.|\n)*nvidia-h100\.json"):
        baseline_for("auto", H100, tmp_path)  # it may be the file of this machine


def test_a_cpu_nobody_described_has_a_baseline_of_its_own(tmp_path):
    baseline = baseline_for("cpu", CPU, local=tmp_path)
    assert baseline.path == tmp_path / f"{cpu_slug(CPU)}.json" and not baseline.results
    baseline.accept([result(hardware=CPU, reference_e2e_s=(1.0,) * 3)]).write()
    assert len(baseline_for("auto", CPU, local=tmp_path).results) == 1


def test_results_are_read_back_and_a_damaged_one_is_named(tmp_path):
    path = write_result(tmp_path, result())
    assert read_result(path) == result()
    assert read_results([tmp_path]) == [result()]
    data = json.loads(path.read_text())
    del data["images"]
    path.write_text(json.dumps(data))
    with pytest.raises(BaselineError, match="incomplete"):
        read_result(path)
    with pytest.raises(BaselineError, match="no results here"):
        read_results([tmp_path / "empty"])


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = write_result(tmp_path, result())
    before = path.read_text()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FluxFastError, match="No space left on device"):
        write_atomically(path, "half")
    assert path.read_text() == before and list(tmp_path.iterdir()) == [path]


def test_the_h200_baseline_has_the_figures_that_programs_read():
    rows = baseline_rows(read_baseline(SHIPPED / "nvidia-h200.json").summaries())
    fields = "case model weights optimizations resolution steps e2e_s step_ms encode_ms decode_ms"
    assert rows and all(
        set(fields.split()) | {"compile_s", "peak_memory_gib", "speedup", "processes"} <= set(row)
        for row in rows
    )
    gated = [row for row in rows if row["optimizations"] == ["bf16"]]
    assert {row["model"] for row in gated} == {"schnell", "dev", "kontext"}
    assert all(row["speedup"] == 1.0 and row["processes"] >= 3 for row in gated)


def test_the_table_fits_a_hundred_columns_and_loses_nothing():
    """The widest figures there are."""
    wide = result(98.76, first_image_s=1300.0, peak_memory_gib=125.5)
    slow, same = (
        decide([compare([wide], [result(e2e_s)], noises([]))])[0] for e2e_s in (1.0, 98.76)
    )
    no_runner = dataclasses.replace(same, outcome=Outcome.INVALID_RUNNER)
    verdicts = {"schnell": slow, "dev": no_runner, "kontext": None}
    cases = {model: case(model=model, optimizations=("bf16",)) for model in verdicts}
    rows = [
        (
            "all on − fused_projections",
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
    verdict = decide([compare([steps], [before], noises([]))])[0]
    table = verdict_table([("bf16", summarize([steps]), verdict)])
    assert "+100.0%" in table and "SLOWER:" in table
    assert " ".join(table.split()).endswith("denoising step")


def test_judging_and_reporting_need_no_torch():
    code = (
        "import sys, fluxfast.bench.verdicts.verdict, fluxfast.bench.verdicts.tables;"
        "import fluxfast.bench.baselines.baseline, fluxfast.optimizations.registry;"
        "fluxfast.optimizations.registry.optimizations();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
