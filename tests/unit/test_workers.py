"""Which GPU and which CPUs a worker has, and which part of the cases a job and a folder have."""

import re
from types import SimpleNamespace

import pytest

from fluxfast.bench.results.shards import (
    has_no_cases,
    merge_notes,
    missing_shards,
    note_shard,
    shards_in,
)
from fluxfast.errors import FluxFastError
from fluxfast.hardware import Platform
from fluxfast.pytest_plugin import workers
from fluxfast.pytest_plugin.options import Options
from fluxfast.pytest_plugin.placement import (
    Place,
    core_shares,
    near_cpus,
    physical_cores,
    visible_gpus,
)
from fluxfast.pytest_plugin.sharding import resolved_shard
from fluxfast.pytest_plugin.workers import why_no_room, why_unusable
from tests.support.machines import CPU, H200
from tests.support.pages import REPOSITORY


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        (Platform.CUDA, {"CUDA_VISIBLE_DEVICES": "2,0"}, ("CUDA_VISIBLE_DEVICES", ["2", "0"])),
        (Platform.CUDA, {"CUDA_VISIBLE_DEVICES": "1,-1,2"}, ("CUDA_VISIBLE_DEVICES", ["1"])),
        (
            Platform.CUDA,
            {"CUDA_VISIBLE_DEVICES": "MIG-a, GPU-b"},
            ("CUDA_VISIBLE_DEVICES", ["MIG-a", "GPU-b"]),
        ),
        (Platform.ROCM, {"HIP_VISIBLE_DEVICES": "3"}, ("HIP_VISIBLE_DEVICES", ["3"])),
        (Platform.ROCM, {"CUDA_VISIBLE_DEVICES": "3"}, ("CUDA_VISIBLE_DEVICES", ["3"])),
    ],
)
def test_workers_take_the_gpus_that_the_environment_shows(platform, environ, expected):
    assert visible_gpus(platform, environ) == expected


def test_without_a_variable_every_gpu_is_taken(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert visible_gpus(Platform.CUDA, {}) == ("CUDA_VISIBLE_DEVICES", ["0", "1"])
    assert visible_gpus(Platform.ROCM, {}) == ("HIP_VISIBLE_DEVICES", ["0", "1"])


CORES = [frozenset({cpu, cpu + 8}) for cpu in range(8)]  # two threads each
FIRST, SECOND = (frozenset().union(*part) for part in (CORES[:4], CORES[4:]))
UNKNOWN = frozenset[int]()


@pytest.mark.parametrize(
    ("near", "expected"),
    [
        ([FIRST, SECOND], [CORES[:4], CORES[4:]]),
        ([SECOND, FIRST], [CORES[4:], CORES[:4]]),
        ([FIRST, FIRST], [CORES[:2], CORES[2:4]]),  # the far cores stay free
        ([SECOND, FIRST, FIRST], [CORES[4:6], CORES[:2], CORES[2:4]]),  # as many for each
        ([UNKNOWN, UNKNOWN, UNKNOWN], [CORES[:2], CORES[2:4], CORES[4:6]]),
        ([frozenset({99}), UNKNOWN], [CORES[:4], CORES[4:]]),  # near ones that are not allowed
    ],
)
def test_cores_are_shared_evenly_and_near_the_gpu(near, expected):
    assert core_shares(CORES, near) == [frozenset().union(*cores) for cores in expected]


def test_cores_and_numa_nodes_are_read_from_the_kernel(tmp_path, monkeypatch):
    for cpu in (0, 1, 4, 5):
        file = tmp_path / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        file.parent.mkdir(parents=True)
        file.write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    # CPU 5 belongs to another job, and of CPU 9 nothing is known.
    expected = [frozenset({0, 4}), frozenset({1}), frozenset({9})]
    assert physical_cores({0, 1, 4, 9}, tmp_path) == expected

    for address, cpus in (("0000:1b:00.0", "0-1,4-5"), ("0001:c3:00.0", "2")):
        file = tmp_path / "bus/pci/devices" / address / "local_cpulist"
        file.parent.mkdir(parents=True)
        file.write_text(f"{cpus}\n")
    properties = [
        SimpleNamespace(pci_domain_id=domain, pci_bus_id=bus, pci_device_id=0)
        for domain, bus in ((1, 0xC3), (0, 0x1B))
    ]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", properties.__getitem__)
    near = near_cpus(["1", "0", "MIG-c"], tmp_path)
    assert near == [frozenset({2}), frozenset({0, 1, 4, 5}), UNKNOWN]


PLACE = Place(variable="CUDA_VISIBLE_DEVICES", gpu="0", cpus=(0,))


@pytest.mark.parametrize(
    ("machine", "count", "problem"),
    [
        (CPU, 1, "got:     -n 1 on a CPU"),
        (H200, 1, None),
        (H200, 3, r"-n 3 with 2 GPUs \(0, 1\)"),
    ],
)
def test_each_worker_needs_a_gpu(machine, count, problem, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    refused = why_no_room(SimpleNamespace(hardware=machine), count, [PLACE][:count])
    assert bool(refused) == bool(problem) and re.search(problem or "None", str(refused))


@pytest.mark.parametrize(
    ("options", "given", "popen", "problem"),
    [
        ({}, {}, True, None),
        ({"against": "main"}, {}, True, "-n with --against"),
        ({}, {"dist": "each"}, True, "--dist each"),
        ({}, {}, False, "--dist load"),
        ({}, {"benchmark_json": "b.json"}, True, "-n with --benchmark-json"),
    ],
)
def test_options_that_workers_cannot_follow_are_refused(options, given, popen, problem, tmp_path):
    given = {"dist": "load"} | given
    config = SimpleNamespace(
        option=SimpleNamespace(**given), getoption=lambda name, default: given.get(name, default)
    )
    suite = SimpleNamespace(config=config, options=Options(baselines=tmp_path, **options))
    refused = why_unusable(suite, [SimpleNamespace(popen=popen)])
    assert bool(refused) == bool(problem) and (problem or "None") in str(refused)


def test_auto_starts_a_worker_for_each_gpu_and_none_on_a_cpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a")
    for machine, count in ((H200, 1), (CPU, 0)):
        monkeypatch.setattr(workers, "detect", lambda device, gpus, found=machine: found)
        assert workers.auto_workers(SimpleNamespace(getoption=lambda name: "auto")) == count


SLURM = "SLURM_ARRAY_TASK"


def slurm(task, first, last, step, count):
    values = {"ID": task, "MIN": first, "MAX": last, "STEP": step, "COUNT": count}
    return {f"{SLURM}_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("environ", "part"),
    [
        (slurm(1, 1, 4, 1, 4), "1/4"),
        (slurm(6, 0, 9, 3, 4), "3/4"),
        ({"JOB_COMPLETION_INDEX": "0", "FLUXFAST_SHARDS": "2"}, "1/2"),
        ({"STRATEGY_JOB_INDEX": "3", "STRATEGY_JOB_TOTAL": "4"}, "4/4"),
    ],
)
def test_auto_takes_the_part_of_a_schedulers_job(environ, part):
    assert resolved_shard("auto", environ) == part
    assert resolved_shard("1/2", environ) == "1/2"


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({}, "got:     none"),
        (
            slurm(1, 1, 4, 1, 4) | {"STRATEGY_JOB_INDEX": "0", "STRATEGY_JOB_TOTAL": "2"},
            "Slurm, GitHub",
        ),
        ({"JOB_COMPLETION_INDEX": "1"}, "number in FLUXFAST_SHARDS"),
        ({"STRATEGY_JOB_INDEX": "", "STRATEGY_JOB_TOTAL": "2"}, "number in STRATEGY_JOB_INDEX"),
        (slurm(5, 1, 7, 1, 3), "3 tasks from 1 to 7"),  # --array=1,5,7
    ],
)
def test_auto_is_refused_where_no_part_follows(environ, problem):
    with pytest.raises(FluxFastError, match=problem):
        resolved_shard("auto", environ)


def test_the_guide_that_a_refusal_names_exists():
    with pytest.raises(FluxFastError) as refused:
        resolved_shard("auto", {"JOB_COMPLETION_INDEX": "1"})
    (guide,) = re.findall(r"see (\S+\.md)", refused.value.remedy)
    assert "FLUXFAST_SHARDS" in (REPOSITORY / guide).read_text()


def test_a_folder_knows_its_shards_and_a_merge_which_are_missing(tmp_path):
    folders = [tmp_path / str(number) for number in range(4)]
    for folder, shard in zip(folders, ("1/2", "1/2", "2/2", "1/1"), strict=True):
        note_shard(folder, shard)
    assert [shards_in(folder) for folder in folders] == [["1/2"], ["1/2"], ["2/2"], []]
    assert missing_shards([folders[0], folders[2]]) == []
    assert missing_shards([folders[0]]) == ["2/2"]
    assert missing_shards(folders) == ["2/2 (in 1 folders, another part in 2)"]
    note_shard(folders[0], "2/2")  # a second run into the folder
    assert missing_shards([folders[0]]) == []
    merge_notes(folders[:1], tmp_path / "merged")
    assert shards_in(tmp_path / "merged") == ["1/2", "2/2"]
    note_shard(folders[0], "1/1")
    assert shards_in(folders[0]) == []


def test_a_folder_knows_that_its_shard_has_no_cases(tmp_path):
    note_shard(tmp_path, "3/4")
    assert not has_no_cases(tmp_path)
    note_shard(tmp_path, "3/4", is_empty=True)  # the same part again
    assert has_no_cases(tmp_path) and shards_in(tmp_path) == ["3/4"]
    note_shard(tmp_path, "2/4")
    assert not has_no_cases(tmp_path) and shards_in(tmp_path) == ["2/4", "3/4"]
