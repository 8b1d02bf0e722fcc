"""The times of the start: judged where caches were empty, and only against the same card."""

import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from fluxfast.bench.measurement import cold_start as starting
from fluxfast.bench.measurement import measure
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.verdicts.comparison import compare_sides
from fluxfast.bench.verdicts.noise import noises
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.verdict import decide
from fluxfast.models.weights import WeightsKind
from fluxfast.pipeline import build
from tests.support.machines import CPU, H200
from tests.support.replay.start_up import shares, started

STARTS = {"load_s", "compile_s", "to_first_image_s"}


def names(measured, accepted):
    changes = compare_sides(measured, accepted, noises([])).changes
    return {change.metric.name for change in changes} & STARTS


def with_weights(kind):
    one = started(10.0)
    return replace(one, case=replace(one.case, weights=kind))


def test_a_busy_host_is_an_invalid_runner_and_no_slow_start():
    accepted = [replace(started(10.0), canaries={"python_ms": (4.0, 4.0)}) for _ in range(3)]
    slow = replace(started(18.0), canaries={"python_ms": (20.0, 20.0)})
    (found,) = decide([compare_sides([slow], accepted, noises([accepted]))])
    assert found.outcome is Outcome.INVALID_RUNNER and not found.worse_names


@pytest.mark.parametrize("is_cold", [True, False])
def test_only_a_timed_case_starts_cold(is_cold, monkeypatch):
    class Built(nullcontext):
        def __enter__(self):
            return self

    emptied = []
    monkeypatch.setattr(measure, "cold_start", lambda gpu: nullcontext(emptied.append(gpu)))
    monkeypatch.setattr(measure, "build", lambda *_, **__: Built())
    plan = SimpleNamespace(situation=SimpleNamespace(hardware=H200))
    planned = SimpleNamespace(plan=plan, checkpoint=None)
    with measure.built_case(planned, is_cold=is_cold) as built:
        assert built.starts_cold is is_cold
    assert emptied == [H200] * is_cold


def test_a_planted_delay_of_five_seconds_fails_as_compiling_and_as_first_image():
    accepted = [started(10.0 + n / 10) for n in range(3)]
    slow = compare_sides([started(15.1)], accepted, noises([accepted]))
    (found,) = decide([slow])
    assert found.outcome is Outcome.BROKEN
    assert "compiling: compile_s 15.1 s, was 10.1: +49.5%" in found.reason
    assert "start to the first image: to_first_image_s 17.1 s" in found.reason
    (same,) = decide([compare_sides([started(11.9)], accepted, noises([accepted]))])
    assert same.outcome is Outcome.SAME


def test_a_slow_load_fails_for_weights_made_in_memory_and_is_recorded_for_files():
    accepted = [started(10.0)] * 3
    (found,) = decide([compare_sides([replace(accepted[0], load_s=6.0)], accepted, noises([]))])
    assert found.outcome is Outcome.BROKEN and "loading: load_s 6.0 s" in found.reason
    for kind in WeightsKind:
        judged = STARTS - {"load_s"} if kind is WeightsKind.HUB else STARTS
        assert names([with_weights(kind.value)], [with_weights(kind.value)] * 2) == judged
    own = with_weights("mine_0123ab")
    assert names([own], [own] * 2) == STARTS - {"load_s"}


def test_times_that_do_not_compare_are_recorded_only():
    cold = started(10.0)
    assert names([cold], [cold] * 2) == STARTS
    before = replace(cold, starts_cold=False)  # a baseline from before cold starts
    assert not names([cold], [before] * 2) and not names([before], [cold] * 2)
    other = replace(cold, environment={**cold.environment, "gpu": {"uuid": "GPU-2"}})
    unknown = replace(cold, environment={**cold.environment, "gpu": {}})
    assert not names([cold], [other] * 2) and not names([unknown], [unknown] * 2)
    assert names([cold], [other, cold, cold]) == STARTS


def test_a_result_keeps_whether_it_started_cold_and_may_lack_it():
    data = started(10.0).to_json()
    assert CaseResult.from_json(data, "here").starts_cold
    del data["starts_cold"]
    assert not CaseResult.from_json(data, "here").starts_cold


@pytest.mark.parametrize("compile_s", [6.0, 10.0])
def test_error_rates_with_a_scatter_of_two_percent(compile_s):
    assert shares(compile_s, 0.02, runs=100) == (0, 0)
    assert shares(compile_s, 0.02, planted_s=5.0, runs=100)[0] > 0.98


def test_a_host_that_varies_as_much_as_the_tolerance_judges_no_start():
    varied = [started(seconds) for seconds in (10.0, 11.0, 15.0)]
    assert names([started(30.0)], varied) == {"load_s"}
    assert names([started(30.0)], varied[:1]) == set()


def test_the_shortest_of_several_starts_counts():
    accepted = [started(10.0)] * 3
    compared = compare_sides([started(16.0), started(10.5)], accepted, noises([accepted]))
    assert decide([compared])[0].outcome is Outcome.SAME


def test_kernels_that_triton_keeps_in_memory_are_forgotten(monkeypatch):
    kernel = SimpleNamespace(device_caches={0: ({"key": "compiled"}, {}, "target")})
    module = ModuleType(f"{starting.KERNELS}synthetic")
    module.kernel, module.other = kernel, 3
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert starting.forget_triton_kernels() == 1
    assert kernel.device_caches == {} and starting.forget_triton_kernels() == 0


def test_a_triton_function_keeps_its_kernels_where_they_are_forgotten():
    """Another version of Triton could keep them elsewhere."""
    from fluxfast.kernels import rope

    assert hasattr(rope.fluxfast_qkv_rotary, "device_caches") or hasattr(
        rope.fluxfast_qkv_rotary,
        "rewriter",  # the interpreter, which compiles nothing
    )


@pytest.mark.compile
def test_each_case_compiles_anew(monkeypatch):
    """The second case of a process finds no code of the first, in memory or on disk."""
    import torch
    from torch._dynamo.utils import counters

    monkeypatch.setattr(starting, "start_compiler", lambda device: None)
    misses, x = [], torch.ones(8)
    for _ in range(2):
        with starting.empty_caches("cpu"):
            counters.clear()
            assert torch.equal(torch.compile(lambda x: (x * 3).sum())(x), x.sum() * 3)
            inductor = counters["inductor"]
            misses.append((inductor["fxgraph_cache_miss"], inductor["fxgraph_cache_hit"]))
    assert misses == [(1, 0)] * 2


def test_the_libraries_are_started_once_and_the_caches_emptied_for_each_case(monkeypatch):
    calls = []

    @contextmanager
    def emptied(device):
        calls.append(f"emptied {device}")
        yield

    @contextmanager
    def small_pipeline(checkpoint, plan):
        yield SimpleNamespace(generate=lambda: calls.append(f"a small image with {plan.names}"))

    monkeypatch.setattr(starting, "empty_caches", emptied)
    monkeypatch.setattr(starting, "detect", lambda device: H200)
    monkeypatch.setattr(build, "build", small_pipeline)
    starting.start_libraries.cache_clear()
    for _ in range(2):
        with starting.cold_start(H200):
            pass
    starting.start_libraries.cache_clear()
    assert calls == ["a small image with ('bf16',)", "emptied cuda", "emptied cuda"]


def test_nothing_is_emptied_on_a_cpu(monkeypatch):
    monkeypatch.setattr(starting, "empty_caches", None)
    with starting.cold_start(CPU):
        pass
