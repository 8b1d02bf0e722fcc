"""Plans, shares, case ids, baselines and places where several GPUs share an image."""

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from fluxfast.bench.baselines.accept import _check_canaries
from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.baselines.file import read_baseline, write_baseline
from fluxfast.bench.baselines.lookup import baseline_for
from fluxfast.bench.cases.case import Case, eager_by_workload
from fluxfast.bench.cases.matrix import matrix
from fluxfast.bench.cases.planned import planned_cases, planned_from_id, reference_of
from fluxfast.bench.measurement import canary
from fluxfast.bench.results.machine import gpu_from_hardware, machine_name, machine_slug
from fluxfast.bench.verdicts.runner import why_invalid_runner
from fluxfast.errors import BaselineError, FluxFastError, PlanError, RankError
from fluxfast.hardware import Hardware, detect
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.caching._decision import SharedSimilarity
from fluxfast.optimizations.parallel._calls import SCHEDULE, Call, Follower
from fluxfast.optimizations.parallel._shares import shares
from fluxfast.optimizations.presets import PRESETS, preset_names
from fluxfast.optimizations.registry import default_names, eager_combinations, plan
from fluxfast.pytest_plugin import placement
from fluxfast.pytest_plugin.planning import check_times
from fluxfast.quality.step_reference import is_lossy, lossy_part
from tests.support.machines import CPU, H200, situation
from tests.support.results import CANARIES, case, result

X2 = replace(H200, gpus=2)
MODEL_HEADS = 24


def on(gpus, heads=MODEL_HEADS):
    return replace(situation(replace(H200, gpus=gpus)), heads=heads)


@pytest.mark.parametrize("gpus", [2, 3, 4, 6, 8])
def test_every_preset_shares_an_image_between_a_number_of_gpus_that_divides_the_heads(gpus):
    for preset in PRESETS:
        checked = plan(preset_names(preset, on(gpus)), on(gpus))
        assert checked.on(Axis.PARALLEL) is not None
    assert preset_names("eager", on(gpus)) in eager_combinations()
    assert set(default_names(on(gpus))) == {*default_names(on(1)), "ulysses"}


def test_another_number_of_gpus_is_an_error_that_names_those_that_do():
    with pytest.raises(PlanError, match=r"24 attention heads do not divide by 5 GPUs; use 2, 3, 4"):
        plan(default_names(on(5)), on(5))


def test_gpus_that_would_each_compute_the_whole_image_are_an_error():
    for names in ((), ("bf16",), tuple(n for n in default_names(on(2)) if n != "ulysses")):
        with pytest.raises(PlanError, match="2 GPUs would not share an image: ulysses is left out"):
            plan(names, on(2))
    with pytest.raises(PlanError, match="ulysses: requires several GPUs"):
        plan(("bf16", "ulysses"), on(1))
    with pytest.raises(PlanError, match="ulysses: conflicts with compile"):
        plan(default_names(on(2), {Axis.COMPILE: "compile"}), on(2))


def test_the_exchange_comes_after_the_attention_that_it_is_around():
    names = {*default_names(on(2)), "regional"}
    order = [o.axis for o in plan(names, on(2)).in_order_of_application]
    assert order.index(Axis.PARALLEL) == order.index(Axis.ATTENTION) + 1
    assert order[-1] is Axis.COMPILE


@pytest.mark.parametrize(
    ("text", "image", "ranks", "of_text", "of_image"),
    [
        (512, 4096, 2, (256, 256), (2048, 2048)),
        (31, 15, 2, (16, 15), (7, 8)),
        (512, 4095, 8, (64,) * 8, (511, *(512,) * 7)),
        (7, 7, 3, (3, 2, 2), (2, 2, 3)),
    ],
)
def test_shares_are_even_and_hold_every_token_once(text, image, ranks, of_text, of_image):
    found = shares(text, image, ranks)
    assert (found.text, found.image) == (of_text, of_image)
    assert max(found.joined) - min(found.joined) <= 1
    for count, of in ((text, found.text_of), (image, found.image_of)):
        tokens = list(range(count))
        assert [t for rank in range(ranks) for t in tokens[of(rank)]] == tokens


def test_fewer_tokens_than_gpus_are_an_error():
    with pytest.raises(FluxFastError, match="fewer tokens than GPUs"):
        shares(512, 1, 2)


class Ranks:
    """Adds what the other rank has: a sum over two ranks without processes."""

    def __init__(self, other):
        self.other = other

    def summed(self, tensor):
        return tensor + self.other


class Manager:
    """Compares as cache-dit does."""

    def __init__(self, least=0.0):
        self.least = least

    def get_important_condition_threshold(self):
        return self.least

    def similarity(self, t1, t2, *, threshold):
        return ((t1 - t2).abs().mean() / t1.abs().mean()).item() < threshold


@pytest.mark.parametrize("least", [0.0, 0.05, 10.0])
@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.15, 0.2])
def test_ranks_whose_residuals_differ_decide_as_one_gpu_does(threshold, least):
    # Alone, the first rank would reuse the step and the second one would compute it.
    before = torch.rand(1, 7, 4) + 1
    change = torch.cat([torch.full((1, 3, 4), 0.02), torch.full((1, 4, 4), 0.3)], dim=1)
    parts = [slice(0, 3), slice(3, 7)]
    sums = []
    for part in parts:
        one = Sums()
        SharedSimilarity(Manager(least), one)._sums(before[:, part], (before + change)[:, part])
        sums.append(one.tensor)
    decisions = set()
    for part, other in zip(parts, reversed(sums), strict=True):
        compare = SharedSimilarity(Manager(least), Ranks(other))
        decisions.add(compare(before[:, part], (before + change)[:, part], threshold=threshold))
    counted = change.mean(-1) / before.mean(-1) > least
    if not least or not counted.any():
        counted = torch.ones_like(counted)
    alone = (change[counted].sum() / before[counted].sum()).item() < threshold
    assert decisions == {alone}


class Sums:
    """Keeps what a rank adds."""

    def summed(self, tensor):
        self.tensor = tensor
        return tensor


def test_the_number_of_gpus_is_part_of_the_case_and_its_machine(tmp_path):
    cases, _ = planned_cases("tiers", ["dev"], "synthetic", X2)
    alone, _ = planned_cases("tiers", ["dev"], "synthetic", H200)
    assert len(cases) == len(alone)
    for planned in cases:
        case = planned.case
        assert "-s28-g2-bf16+ulysses" in case.id
        assert Case.from_id(case.id) == case == Case.from_json(case.to_json(), "here")
        assert planned_from_id(case.id, H200).plan.situation.hardware.gpus == 2
    assert eager_by_workload(p.case for p in (*alone, *cases)).keys() == {
        alone[0].case.workload,
        cases[0].case.workload,
    }
    assert all("gpus" not in p.case.to_json() and "-g1" not in p.case.id for p in alone)
    assert "gpus" not in H200.to_json()
    assert (machine_slug(X2), machine_name(X2)) == ("nvidia-h200-x2", "2 × NVIDIA H200")
    assert Hardware(**{**X2.to_json(), "platform": X2.platform}).gpus == 2


def test_a_baseline_is_of_one_number_of_gpus(tmp_path):
    assert baseline_for("auto", X2).gpu.slug == "nvidia-h200-x2"
    assert baseline_for("h200", X2).path == baseline_for("h200-x2", X2).path
    with pytest.raises(BaselineError, match="no baseline describes this GPU"):
        baseline_for("auto", replace(H200, gpus=8))
    with pytest.raises(BaselineError, match="not the GPU that --gpu names"):
        baseline_for("h200-x2", H200)
    path = tmp_path / "nvidia-h200-x2.json"
    write_baseline(Baseline(gpu=gpu_from_hardware(X2, path.stem), results={}, path=path))
    assert read_baseline(path).gpu.describes(X2)
    assert not read_baseline(path).gpu.describes(H200)


def test_the_full_matrix_has_only_cases_that_share_an_image():
    for kind in ("ablation", "peers", "alone"):
        assert all("ulysses" in names for names in matrix(kind, on(2)))
        assert {tuple(n for n in names if n != "ulysses") for names in matrix(kind, on(2))} == {
            names for names in matrix(kind, on(1)) if not {"compile", "export_aoti"} & set(names)
        }


@pytest.mark.parametrize("gpus", [1, 2])
def test_references_of_a_case_are_those_of_one_gpu(gpus):
    cases, _ = planned_cases("tiers", ["dev"], "synthetic", replace(H200, gpus=gpus), batch_size=2)
    for planned in cases:
        eager, lossy = reference_of(planned), lossy_part(planned.plan)
        assert eager.case.id.endswith("-b1-s28-bf16")
        assert eager.plan.situation.hardware == lossy.situation.hardware == H200
        assert set(lossy.names) <= {*planned.plan.names} - {"ulysses"}
        assert is_lossy(lossy) == is_lossy(planned.plan)


def test_processes_of_a_cpu_are_compared_and_not_timed():
    timing, comparing = SimpleNamespace(), SimpleNamespace(KEEPS_COMPILED_CODE=True)
    for module, hardware in ((comparing, replace(CPU, gpus=2)), (timing, CPU), (timing, X2)):
        check_times(module, hardware)
    with pytest.raises(FluxFastError, match="on a CPU are not timed"):
        check_times(timing, replace(CPU, gpus=2))


def test_a_worker_has_as_many_gpus_as_share_an_image(monkeypatch):
    cores = [frozenset({cpu}) for cpu in range(8)]
    near = {"0": cores[0], "1": cores[1], "2": cores[6], "3": frozenset()}
    monkeypatch.setattr(placement, "physical_cores", lambda cpus: cores)
    monkeypatch.setattr(placement, "near_cpus", lambda gpus: [near[gpu] for gpu in gpus])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    first, second = placement.places(X2, 4)  # one GPU is left over
    assert (first.gpu, first.gpu_name, second.gpu) == ("0,1", "GPUs 0,1", "2,3")
    assert first.cpus == (0, 1) and not set(first.cpus) & set(second.cpus)
    assert [place.gpu for place in placement.places(H200, 2)] == ["0", "1"]


def test_more_gpus_than_the_machine_has_are_an_error(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for gpus in (0, 3, "two", True):
        with pytest.raises(FluxFastError, match="invalid number of GPUs for this machine"):
            detect("cuda", gpus)


def test_canaries_are_those_of_the_slowest_gpu_and_of_the_link(monkeypatch):
    now = [1]
    times_ms = {
        ("gemm", 1): 1.0, ("gemm", 0): 1.5, ("gemm", 2): 1.2,
        ("copy", 1): 3.0, ("copy", 0): 2.0, ("copy", 2): 2.5,
        ("attention", 1): 1.0, ("attention", 0): 1.0, ("attention", 2): 1.0,
        ((1, 0), 1): 5.0, ((1, 2), 1): 7.0,
    }  # fmt: skip

    @contextmanager
    def device(index):
        now[0] = index
        yield
        now[0] = 1

    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr("torch.cuda.current_device", lambda: now[0])
    monkeypatch.setattr("torch.cuda.device", device)
    for name in ("gemm", "attention", "copy"):
        monkeypatch.setattr(canary, f"_{name}", lambda hardware, name=name: name)
    monkeypatch.setattr(canary, "_link", lambda hardware, first, other: (first, other))
    monkeypatch.setattr(canary, "_launch_us", lambda hardware: 5.0)
    monkeypatch.setattr(canary, "_device_ms", lambda work, *_: times_ms[work, now[0]])
    found = canary.canaries(replace(H200, gpus=3))
    assert (found["gemm_ms"], found["copy_ms"], found["link_ms"]) == (1.5, 3.0, 7.0)
    assert "link_ms" not in canary.canaries(H200)


class Announced:
    """A team whose rank 0 announces one call, all of whose tensors are ones."""

    rank, size, is_led = 1, 2, False

    def watched(self, layout):
        return nullcontext()

    def __init__(self, **tensors):
        self.tensors = tensors

    def receive(self):
        fresh = {n: (tuple(t.shape), t.dtype) for n, t in self.tensors.items()}
        return Call(values={"return_dict": False}, kept=(), fresh=fresh, scheduler={})

    def broadcast(self, tensor):
        return tensor.fill_(1)


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        ({}, None),
        ({"hidden_states": torch.ones(1, 5, 2)}, "another hidden_states"),
        ({"encoder_hidden_states": torch.zeros(1, 3, 2)}, "another encoder_hidden_states"),
        ({"guidance": torch.ones(1)}, "another guidance"),
        ({"return_dict": True}, "another return_dict"),
    ],
)
def test_a_rank_that_is_called_with_other_arguments_refuses(ours, message):
    tensors = {"hidden_states": torch.ones(1, 4, 2), "encoder_hidden_states": torch.ones(1, 3, 2)}
    announced = Announced(**tensors, **{SCHEDULE: torch.ones(4)})
    follower = Follower(announced, None, torch.device("cpu"))
    given = {**tensors, "return_dict": False, **ours}
    if message is None:
        assert follower(lambda **keywords: keywords, given).keys() == given.keys()
        return
    with pytest.raises(RankError, match=message):
        follower(None, given)


def test_a_slow_link_is_another_machine_and_every_result_has_its_canary():
    shared = {"case": case(gpus=2), "hardware": X2}
    one, slow = (
        result(**shared, canaries=CANARIES | {"link_ms": (time_ms, time_ms)})
        for time_ms in (1.0, 1.1)
    )
    assert why_invalid_runner([one], [one]) is None
    assert "canary link_ms 1.1, baseline 1: +10%" in why_invalid_runner([slow], [one])
    _check_canaries(one)
    _check_canaries(result(canaries=CANARIES))
    with pytest.raises(BaselineError, match="lacks canaries"):
        _check_canaries(result(**shared, canaries=CANARIES))
