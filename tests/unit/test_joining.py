"""Results that are joined: nothing is lost, counted twice, or taken for something else."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from fluxfast.bench.baselines.baseline import PROCESSES, Baseline
from fluxfast.bench.baselines.file import read_baseline, write_baseline
from fluxfast.bench.baselines.lookup import cpu_baseline
from fluxfast.bench.results.artifacts import (
    artifact_paths,
    figures_path,
    image_path,
    write_figures,
)
from fluxfast.bench.results.machine import gpu_from_hardware
from fluxfast.bench.results.store import read_result, read_results, result_path, write_result
from fluxfast.cli.main import main
from fluxfast.errors import BaselineError
from fluxfast.files import lock_holder, locked
from fluxfast.pytest_plugin import resuming
from fluxfast.pytest_plugin.baselines import grow
from tests.support.machines import CPU, EVERYTHING, H200
from tests.support.processes import process, processes
from tests.support.results import CANARIES, case, result


def empty_baseline(tmp_path, hardware=H200):
    return Baseline(
        gpu=gpu_from_hardware(hardware, "here"), results={}, path=tmp_path / "here.json"
    )


def test_writers_of_one_baseline_wait_for_each_other_and_all_add(tmp_path):
    """Each has read the empty baseline, as two sessions that start together have."""
    baseline = empty_baseline(tmp_path)
    found = [process(case=case(num_inference_steps=2 + n)) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda one: grow(baseline, [one]), found)) == {None}
    assert len(read_baseline(baseline.path).results) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["here.json"]


def test_a_lock_that_many_take_in_turn_has_one_holder_and_no_error(tmp_path):
    """The file is removed and created again all the time, also between two looks at it."""
    path, holders = tmp_path / "lock", []

    def take():
        for _ in range(200):
            with locked(path):
                holders.append(None)
                assert len(holders) == 1
                holders.pop()

    with ThreadPoolExecutor(8) as pool:
        for taken in [pool.submit(take) for _ in range(8)]:
            taken.result()
    assert not path.exists()


def test_a_holder_that_has_just_let_go_is_unknown(tmp_path):
    with locked(tmp_path / "lock"):
        assert lock_holder(tmp_path / "lock") == str(os.getpid())
    assert lock_holder(tmp_path / "lock") == "unknown"


def test_a_second_holder_of_a_lock_waits(tmp_path):
    order, path = [], tmp_path / "lock"

    def second():
        with locked(path):
            order.append("second")

    with locked(path):
        waiting = threading.Thread(target=second)
        waiting.start()
        with pytest.raises(BlockingIOError), locked(path, waits=False):
            pass
        waiting.join(0.1)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"] and not path.exists()


def test_a_process_joins_a_baseline_once_and_a_complete_case_takes_no_more(tmp_path):
    baseline = empty_baseline(tmp_path)
    origin = {"commit": "abc", "process": 7, "date": "2026-11-27T09:13:42+00:00"}
    for _ in range(3):
        assert grow(baseline, [process(provenance=origin)]) is None
    # Another run, which began with an empty baseline too, may have measured another program.
    assert grow(baseline, [process(counters={"graph_breaks": 1})]) is None
    assert len(read_baseline(baseline.path).results[case().id]) == 1
    grow(baseline, processes(count=5, seed=1))
    assert len(read_baseline(baseline.path).results[case().id]) == PROCESSES


def test_a_baseline_that_cannot_be_written_is_reported_and_does_not_raise(tmp_path):
    (tmp_path / "file").touch()
    why = grow(empty_baseline(tmp_path / "file" / "baselines"), [process()])
    assert "cannot write this file" in str(why) and str(tmp_path / "file") in str(why)


def test_a_result_of_uncommitted_changes_is_not_kept_for_their_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(resuming, "provenance", lambda: {"commit": "abc", "dirty": False})
    resuming.why_not_resumed.cache_clear()
    for dirty in (True, False):
        found = result(provenance={"commit": "abc", "dirty": dirty})
        write_result(tmp_path, found)
        assert resuming.kept_result(tmp_path, case(), H200) == (None if dirty else found)
    resuming.why_not_resumed.cache_clear()


@pytest.mark.parametrize("what", ["commit", "torch"])
def test_a_case_is_accepted_from_one_commit_and_one_stack(what, tmp_path, monkeypatch, capsys):
    lookup = "fluxfast.bench.baselines.lookup"
    monkeypatch.setattr(f"{lookup}.shipped_baselines", lambda: tmp_path)
    write_baseline(replace(empty_baseline(tmp_path), path=tmp_path / "nvidia-h200.json"))
    folders = []
    for n, value in enumerate(("1", "2", "3")):
        packages = EVERYTHING | ({"torch": value} if what == "torch" else {})
        found = result(
            2 + n / 1e4,
            canaries=CANARIES,
            hardware=replace(H200, packages=packages),
            provenance={"commit": value if what == "commit" else "abc", "dirty": False},
        )
        folders.append(str(write_result(tmp_path / str(n), found).parent))
    assert main(["baseline", "accept", *folders]) == 2
    assert "these results do not belong together" in capsys.readouterr().err
    assert not read_baseline(tmp_path / "nvidia-h200.json").results


def test_a_result_under_the_name_of_another_case_is_refused(tmp_path, capsys):
    other = result_path(tmp_path, case(model="schnell"))
    write_result(tmp_path, result()).rename(other)
    with pytest.raises(BaselineError, match="the name of another case") as error:
        read_result(other)
    assert case().id in str(error.value)
    data = result().to_json()
    outside = data | {"case": data["case"] | {"model": "../../baselines/nvidia"}}
    other.write_text(json.dumps(outside))
    assert main(["merge", str(tmp_path), "--output", str(tmp_path / "merged")]) == 2
    assert f"got:     {other}: " in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_the_baseline_of_another_cpu_is_refused(tmp_path):
    write_baseline(cpu_baseline(CPU, tmp_path, tmp_path).accept([result(hardware=CPU)]))
    (path,) = tmp_path.glob("*.json")
    path.rename(tmp_path / path.name.replace("2cores", "4cores"))
    with pytest.raises(BaselineError, match="of another machine") as error:
        cpu_baseline(replace(CPU, cores=4), tmp_path, tmp_path)
    assert "2cores" in str(error.value.got) and "4cores" in error.value.allowed


def test_a_case_with_a_long_id_has_short_and_distinct_file_names(tmp_path):
    names = ("bf16", *("fused_projections",) * 14)
    long = [case(optimizations=(*names, last)) for last in ("regional", "compile")]
    found = [result(case=one) for one in long]
    for one in found:
        write_result(tmp_path, one)
        write_figures(tmp_path, "kernels", one.case, {"gemm": 1.0})
    assert read_results([tmp_path]) == sorted(found, key=lambda r: r.case.file_stem)
    paths = {path for one in long for path in artifact_paths(tmp_path, one)}
    assert len(paths) == 10 and max(len(path.name) for path in paths) <= 235
    assert case().file_stem == case().id


@pytest.mark.parametrize("kind", ["result", "image", "figures"])
def test_a_link_out_of_a_folder_of_results_is_neither_shown_nor_copied(kind, tmp_path, capsys):
    folder, outside = tmp_path / "results", tmp_path / "outside"
    write_result(folder, result())
    link = {
        "result": result_path(folder, case()),
        "image": image_path(folder, case()),
        "figures": figures_path(folder, "kernels", case()),
    }[kind]
    outside.write_text(result_path(folder, case()).read_text())
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(outside)
    for command in (["merge", "--output", str(tmp_path / "merged")], ["report"]):
        assert main([*command, str(folder)]) == 2
        assert f"got:     {link} → {outside}" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()
    linked = tmp_path / "linked"  # the folder itself may be a link
    linked.symlink_to(folder)
    link.unlink()
    write_result(folder, result())
    assert read_results([linked]) == [result()]
