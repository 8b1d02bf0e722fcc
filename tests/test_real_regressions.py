"""Regressions that other projects really had, acted out: each has to be called what it is.

The faults that need a GPU run where there is one; those of the picture are the business of
correctness_tests and named here so that the list is whole.
"""

import dataclasses
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from fluxfast.bench.compare import Outcome, settle
from fluxfast.bench.counters import counters, kernels
from fluxfast.bench.faults import without_applying
from fluxfast.bench.metrics import metric_named
from fluxfast.bench.noise import Estimate, noises
from fluxfast.bench.planned import planned_case, situation_of
from fluxfast.cache_config import CacheConfig
from fluxfast.hardware import detect
from fluxfast.pipeline import build, dynamo_counters, gather_evidence, proofs
from fluxfast.weights import resolve
from tests.test_verdict import Change, Comparison, compare, process, processes


def planned(*names, model="schnell", steps=2, cache_config=None):
    hardware = detect("cpu")
    checkpoint = resolve(model, "mini", hardware)
    changes = {"height": 32, "width": 32, "num_inference_steps": steps}
    situation = situation_of(checkpoint, hardware, **changes)
    situation = dataclasses.replace(situation, cache_config=cache_config)
    return planned_case(names, checkpoint, situation)


@contextmanager
def built(case):
    with build(case.checkpoint, case.plan) as pipeline:
        yield pipeline


def measured(pipeline):
    """Counters and kernels of a warmed-up pipeline, as a run stores them."""
    pipeline.draw(output_type="latent")
    pipeline.draw(output_type="latent")
    warm = dynamo_counters()["unique_graphs"]
    pipeline.draw(output_type="latent")
    evidence = gather_evidence(pipeline)
    found = counters(evidence, dynamo_counters(), warm)
    return process(counters=found, kernels=kernels(evidence.step))


def verdict_on(now, before):
    return settle([compare([now], [before], noises([[before]]))])[0]


@pytest.fixture(scope="module")
def healthy():
    with built(planned()) as pipeline:
        return measured(pipeline)


# What is done to a built pipeline; it goes with the pipeline, or on the stack.


def scheduler_reads_a_tensor(pipeline, stack):
    step = pipeline.pipeline.scheduler.step

    def reading(output, timestep, *arguments, **keywords):
        times = pipeline.pipeline.scheduler.timesteps
        (times == timestep).nonzero().item()
        return step(output, timestep, *arguments, **keywords)

    pipeline.pipeline.scheduler.step = reading


def _compiled_embedder(pipeline, function):
    """`function` goes before the first linear layer, compiled by Dynamo alone."""
    embedder = pipeline.pipeline.transformer.x_embedder
    compiled = torch.compile(function, backend="eager")
    embedder.register_forward_pre_hook(lambda module, given: (compiled(*given),))


def every_call_recompiles(pipeline, stack):
    calls = SimpleNamespace(number=0)
    limit = torch._dynamo.config.patch(recompile_limit=1000, accumulated_recompile_limit=1000)
    stack.enter_context(limit)
    embedder = pipeline.pipeline.transformer.x_embedder
    compiled = torch.compile(lambda tokens, n: tokens + 0 * len(n), backend="eager")

    def hook(module, given):
        calls.number += 1
        return (compiled(*given, "x" * calls.number),)

    embedder.register_forward_pre_hook(hook)


def a_graph_breaks(pipeline, stack):
    def broken(tokens):
        tokens = tokens + 0
        torch._dynamo.graph_break()
        return tokens + 0

    _compiled_embedder(pipeline, broken)


def attention_falls_back(pipeline, stack):
    stack.enter_context(sdpa_kernel(SDPBackend.MATH))


def an_operation_more(pipeline, stack):
    embedder = pipeline.pipeline.transformer.x_embedder
    embedder.register_forward_pre_hook(lambda module, given: (given[0].clone(),))


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        pytest.param(
            scheduler_reads_a_tensor, "host_syncs_in_a_step is 2, was 0", id="diffusers#11696"
        ),
        pytest.param(
            every_call_recompiles, "graphs_compiled_after_warmup is", id="diffusers#11360,14297"
        ),
        pytest.param(a_graph_breaks, "graph_breaks is", id="diffusers#12512,sglang#23648"),
        pytest.param(attention_falls_back, "attention kernels: ", id="TRT-LLM#15676,ComfyUI#10330"),
        pytest.param(an_operation_more, "launches_in_a_step is", id="a fusion that is off"),
    ],
)
def test_a_fault_that_a_counter_catches_on_its_own(healthy, fault, told):
    with built(planned()) as pipeline, ExitStack() as stack:
        fault(pipeline, stack)
        verdict = verdict_on(measured(pipeline), healthy)
    assert verdict.outcome is Outcome.BROKEN and told in verdict.reason


def test_the_same_pipeline_built_again_has_the_same_counters(healthy):
    with built(planned()) as pipeline:
        assert verdict_on(measured(pipeline), healthy).outcome is Outcome.SAME


@pytest.mark.parametrize("name", ["fused_projections", "int8"])
def test_an_optimization_that_was_asked_for_and_is_not_there(name):
    """flux-fast's inverted export mode, flux-fast#20 (a wrong import of FlashAttention-3)."""
    case = planned(name)
    with built(dataclasses.replace(case, plan=without_applying(case.plan, name))) as pipeline:
        assert not proofs(gather_evidence(pipeline))[name].in_force
    with built(case) as pipeline:
        assert proofs(gather_evidence(pipeline))[name].in_force


def test_a_cache_that_is_on_and_never_hit():
    """sglang#33827."""
    found = []
    for threshold in (0.9, 1e-9):
        dbcache = {"Fn_compute_blocks": 1, "Bn_compute_blocks": 0, "max_warmup_steps": 1}
        config = CacheConfig(dbcache={**dbcache, "residual_diff_threshold": threshold})
        with built(planned("dbcache", model="dev", steps=8, cache_config=config)) as pipeline:
            found.append(measured(pipeline))
            in_force = proofs(gather_evidence(pipeline))["dbcache"].in_force
            assert in_force is (threshold == 0.9)
    verdict = verdict_on(found[1], found[0])
    assert verdict.outcome is Outcome.BROKEN and "cached_steps is 0, was" in verdict.reason


def test_a_slower_kernel_of_another_build_is_seen_by_the_clock_alone():
    """pytorch#164301: a cast at a quarter of its speed, a few per cent of a step."""
    accepted = processes()
    verdict = settle([compare([process(104.0)], accepted, noises([accepted] * 8))])[0]
    assert verdict.outcome is Outcome.SLOWER and verdict.reason.startswith(
        "denoising step: step_ms"
    )


def test_a_metric_whose_direction_is_wrong_does_not_turn_a_slowdown_into_a_win():
    """TRT-LLM#18741: 2.5 times slower, reported as better."""
    throughput = dataclasses.replace(
        metric_named("step_ms"), name="images_per_s", lower_is_better=False
    )
    for metric, measured_now in ((throughput, 0.4), (metric_named("step_ms"), 2.5)):
        effect = Estimate(effect=0.916, error=0.01, dof=20)
        change = Change(metric=metric, measured=measured_now, baseline=1.0, estimate=effect)
        assert settle([Comparison(changes=(change,))])[0].outcome is Outcome.SLOWER


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: asynchronous launches")
def test_a_timer_without_a_synchronization_would_be_wrong():
    """sglang#16219: the suite's own timer waits for the device."""
    from fluxfast.bench.measure import StageTimer
    from fluxfast.observe import Region

    timer = StageTimer(is_gpu=True)
    timer.enter(Region.DENOISING_STEP)
    torch.cuda._sleep(200_000_000)
    timer.exit(Region.DENOISING_STEP)
    torch.cuda.synchronize()
    begins, ends = timer.begins[Region.DENOISING_STEP], timer.ends[Region.DENOISING_STEP]
    assert timer._ms(begins[0], ends[0]) > 50


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: torch._scaled_mm per row")
@pytest.mark.parametrize("size", [336, 592])
def test_an_odd_resolution_does_not_crash_fp8(size):
    """pytorch#133334."""
    hardware = detect()
    checkpoint = resolve("schnell", "mini", hardware)
    changes = {"height": size, "width": size, "num_inference_steps": 1}
    case = planned_case(
        ("bf16", "fp8_per_row"), checkpoint, situation_of(checkpoint, hardware, **changes)
    )
    with built(case) as pipeline:
        assert pipeline.draw(output_type="pt").isfinite().all()


@pytest.mark.parametrize(
    "fault",
    [
        "flux-fast's attention processor returns the first image of a batch",
        "cache-dit#1097: a zero scale, NaN, a black image",
        "vllm-omni#2728: fp8 on sensitive layers",
    ],
)
def test_a_fault_of_the_picture(fault):
    pytest.skip(f"{fault}: judged by correctness_tests, not by the clock")
