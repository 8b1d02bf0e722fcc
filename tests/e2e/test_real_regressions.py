"""Regressions that other projects really had, reproduced: each has to be caught.

Each fault is injected into a healthy mini pipeline; faults that only the clock can see, and a fault
of the gate itself, are injected into synthetic times.
"""

import logging
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn

from fluxfast.bench.cases.planned import situation_of
from fluxfast.bench.measurement.counters import counters, kernels
from fluxfast.bench.measurement.injected_faults import without_applying
from fluxfast.bench.measurement.stages import StageTimer
from fluxfast.bench.verdicts import comparison
from fluxfast.bench.verdicts.noise import noises
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.verdict import decide
from fluxfast.hardware import detect
from fluxfast.models.weights import Checkpoint, resolve
from fluxfast.optimizations.attention._processor import OperatorAttnProcessor
from fluxfast.optimizations.base import Plan
from fluxfast.optimizations.cache_config import CacheConfig
from fluxfast.optimizations.precision._torchao import is_quantizable
from fluxfast.optimizations.registry import optimization_named
from fluxfast.pipeline.build import BuiltPipeline, build, forget_compiled_code
from fluxfast.pipeline.observe import Region
from fluxfast.profiling.evidence import dynamo_counters, gather_evidence, proofs
from fluxfast.quality.budget import read_budgets
from fluxfast.quality.gates import check_batch_independence, check_golden
from fluxfast.quality.golden import write_golden
from fluxfast.quality.metrics import image_defects
from fluxfast.quality.prompts import generate_images, prompts_for
from tests.support.processes import process, processes
from tests.support.sabotage.images import BUDGETS

CPU, HERE = detect("cpu"), detect()
# Sides of an fp8 image: smaller ones are flat. Only the first has a multiple of 16 tokens.
SIDE, ODD_SIDES = 192, (336, 592) if HERE.is_gpu else (208,)
SLEEP_CYCLES = 200_000_000  # a tenth of a second


@dataclass(kw_only=True)
class Healthy:
    """A healthy pipeline, with the counters, prompts and golden recorded before a fault.

    Attributes:
        checkpoint: the weights.
        built: the pipeline.
        folder: where the golden is.
    """

    checkpoint: Checkpoint
    built: BuiltPipeline
    folder: Path

    @cached_property
    def accepted(self):
        return measured(self.built)

    @cached_property
    def prompts(self):
        request = self.built.request
        return prompts_for(self.checkpoint, request.batch_size, request.height, request.width)

    @cached_property
    def golden(self):
        path = self.folder / "golden.safetensors"
        write_golden(path, self.images().latents)
        return path

    def images(self):
        return generate_images(self.built, self.prompts)

    @property
    def transformer(self) -> Any:
        return self.built.pipeline.transformer

    @property
    def blocks(self) -> list[Any]:
        return [*self.transformer.transformer_blocks, *self.transformer.single_transformer_blocks]


def measured(built):
    """Return counters and kernels of a warmed-up pipeline, as a run stores them."""
    forget_compiled_code()
    built.generate(output_type="latent")
    warm = dynamo_counters()["unique_graphs"]
    evidence = gather_evidence(built)
    found = counters(evidence, dynamo_counters(), warm)
    return process(counters=found, kernels=kernels(evidence.step))


# The healthy pipelines. Each is built once, when a row first asks for it.


def unchecked(names, model="schnell", hardware=CPU, cache_config=None, **changes):
    """Return a checkpoint and a plan, also for optimizations that a CPU refuses."""
    checkpoint = resolve(model, "mini", hardware)
    request = {"height": 32, "width": 32, "num_inference_steps": 1, **changes}
    situation = situation_of(checkpoint, hardware, **request)
    situation = replace(situation, cache_config=cache_config)
    optimizations = tuple(map(optimization_named, names))
    return checkpoint, Plan(optimizations=optimizations, situation=situation)


def asking(plan, **changes):
    """Return the same plan for another request."""
    request = replace(plan.situation.request, **changes)
    return replace(plan, situation=replace(plan.situation, request=request))


@contextmanager
def healthy_pipeline(checkpoint, plan):
    with build(checkpoint, plan) as built, TemporaryDirectory() as folder:
        yield Healthy(checkpoint=checkpoint, built=built, folder=Path(folder))


def schnell():
    return healthy_pipeline(*unchecked(()))


def kontext():
    return healthy_pipeline(*unchecked((), model="kontext"))


def compiled():
    """Compile with Dynamo alone, graph breaks allowed, as `compile` does with a cache."""
    checkpoint, plan = unchecked(("fused_projections", "sdpa", "regional"))

    def apply(build):
        build.pipeline.transformer.compile_repeated_blocks(backend="eager")

    *others, regional = plan.optimizations
    optimizations = (*others, replace(regional, apply=apply))
    return healthy_pipeline(checkpoint, replace(plan, optimizations=optimizations))


@contextmanager
def fa3():
    """Build with a stand-in for FlashAttention-3, which does not run on a CPU."""

    def flash_attn_func(query, key, value):
        query, key, value = (heads.transpose(1, 2) for heads in (query, key, value))
        weights = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)
        return (weights @ value).transpose(1, 2).contiguous()

    module = ModuleType("fa3_fwd_interface")
    module.flash_attn_func, module.__spec__ = flash_attn_func, SimpleNamespace()
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, module.__name__, module)
        with healthy_pipeline(*unchecked(("fa3",))) as right:
            yield right


def int8():
    names = ("fused_projections", "sdpa", "int8")
    return healthy_pipeline(*unchecked(names, batch_size=2))


@contextmanager
def fp8():
    """Build with torchao's fp8, which runs on a CPU without its check of the hardware."""
    from torchao.quantization import quant_api

    names = ("bf16", "fp8_per_row")
    with (
        patch.object(quant_api, "_check_hardware_support", lambda granularity: None),
        healthy_pipeline(*unchecked(names, hardware=HERE, height=SIDE, width=SIDE)) as right,
    ):
        yield right


def fused():
    """Build with a fused kernel; on a CPU it is interpreted, milliseconds for each row."""
    from tests.support.interpreter import DEVICE

    names = ("fused_projections", "sdpa", "fused_rotary")
    checkpoint, plan = unchecked(names, hardware=detect(DEVICE), width=16)
    return healthy_pipeline(checkpoint, asking(plan, max_sequence_length=2))


def cached():
    dbcache = {"Fn_compute_blocks": 1, "Bn_compute_blocks": 0, "max_warmup_steps": 1}
    config = CacheConfig(dbcache={**dbcache, "residual_diff_threshold": 0.9})
    return healthy_pipeline(
        *unchecked(("dbcache",), model="dev", cache_config=config, num_inference_steps=4)
    )


@contextmanager
def synthetic_times():
    accepted = processes()
    yield SimpleNamespace(
        now=process(100.0),
        accepted=accepted,
        noise=noises([accepted] * 8),
        metrics=comparison.PERFORMANCE_METRICS,
    )


@contextmanager
def a_timer():
    if not HERE.is_gpu:
        pytest.skip("needs a GPU: on a CPU no operator returns before it is done")
    torch.cuda._sleep(1)
    torch.cuda.synchronize()
    yield SimpleNamespace(timer=partial(StageTimer, is_gpu=True))


# The faults: contexts in which a healthy pipeline is faulty.


def no_begin_index(right):
    """Let the scheduler search for the first timestep, which reads a value from the device."""
    return patch.object(right.built.pipeline.scheduler, "set_begin_index", lambda index: None)


@contextmanager
def every_image_larger(right):
    built, generate = right.built, right.built.generate

    def generate_larger(**options):
        built.plan = asking(built.plan, height=built.request.height + 16)
        return generate(**options)

    with patch.object(built, "plan", built.plan), patch.object(built, "generate", generate_larger):
        yield


@contextmanager
def a_number_in_each_block(right):
    """Give each block another number: blocks of one kind then no longer share compiled code."""
    attend = right.blocks[0].attn.processor.attend

    def attend_from(first):
        return OperatorAttnProcessor(lambda *heads: attend(*heads) if first >= 0 else heads[0])

    with ExitStack() as stack:
        for number, block in enumerate(right.blocks):
            stack.enter_context(patch.object(block.attn, "processor", attend_from(number)))
        yield


def a_warning_in_a_compiled_block(right):
    processor = right.blocks[0].attn.processor
    attend, logger = processor.attend, logging.getLogger(__name__)

    def attend_and_warn(*heads):
        logger.warning("FlashInfer is not installed")
        return attend(*heads)

    return patch.object(processor, "attend", attend_and_warn)


@contextmanager
def nothing_applied(right):
    plan = right.built.plan
    for name in plan.names:
        plan = without_applying(plan, name)
    with build(right.checkpoint, plan) as unoptimized, patch.object(right, "built", unoptimized):
        yield


@contextmanager
def import_error_passed_over(right):
    """Leave diffusers' own processor in place."""
    from diffusers.models.transformers.transformer_flux import FluxAttnProcessor

    ours = right.transformer.attn_processors
    right.transformer.set_attn_processor(FluxAttnProcessor())
    try:
        yield
    finally:
        right.transformer.set_attn_processor(ours)


def first_image_of_the_batch(right):
    """Take the first image of a tensor, as if it were a pair of output and normalizer."""
    processor = right.blocks[0].attn.processor  # of all blocks
    attend = processor.attend
    return patch.object(
        processor, "attend", lambda *heads: attend(*heads)[0].expand_as(heads[0]).contiguous()
    )


@contextmanager
def rows_of_zeros(right):
    """Zero the last row, as padding of a text may, and take the lower limit of its scale away."""
    layer = right.blocks[0].ff_context.net[2]

    def zeroed(layer, given):
        tokens = given[0].clone()
        tokens[:, -1] = 0
        return (tokens,)

    unlimited = patch.object(layer.weight.act_quant_kwargs, "hp_value_lb", None)
    with unlimited, layer.register_forward_pre_hook(zeroed):
        yield


@contextmanager
def default_flipped(right):
    with ExitStack() as stack:
        for block in right.blocks:
            unfused = replace(block.kernels, rotary=False)
            stack.enter_context(patch.object(block, "kernels", unfused))
        yield


@contextmanager
def fp8_path_skipped(right):
    """Convert fp8 weights back to bfloat16 before the GEMM."""
    with ExitStack() as stack:
        for layer in quantized_layers(right):
            stack.enter_context(patch.object(layer.weight, "act_quant_kwargs", None))
        yield


def quantized_layers(right):
    return [m for name, m in right.transformer.named_modules() if is_quantizable(m, name)]


def cache_never_hit(right):
    from cache_dit.caching.cache_contexts.cache_manager import CachedContextManager

    return patch.object(CachedContextManager, "can_cache", lambda *args, **kwargs: False)


@contextmanager
def every_layer_quantized(right):
    """Quantize modulation, embedders and the last projection, too."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    left_out = {
        name: layer.weight
        for name, layer in right.transformer.named_modules()
        if isinstance(layer, nn.Linear) and not is_quantizable(layer, name)
    }
    config = Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
    quantize_(right.transformer, config, filter_fn=lambda layer, name: name in left_out)
    try:
        yield
    finally:
        for name, weight in left_out.items():
            right.transformer.get_submodule(name).weight = weight


def a_slow_cast(times):
    """Make a cast four times slower: a few per cent of a step."""
    return patch.object(times, "now", process(104.0))


def refused_rows(right):
    """Raise an error where the original read invalid memory."""
    product = torch._scaled_mm

    def picky(rows, *others, **options):
        if len(rows) % 16:
            raise RuntimeError(f"invalid memory access: {len(rows)} rows")
        return product(rows, *others, **options)

    return patch.object(torch, "_scaled_mm", picky)


def no_synchronization(timing):
    return patch.object(timing, "timer", partial(StageTimer, is_gpu=False))


@contextmanager
def slower_and_its_direction_wrong(times):
    flipped = tuple(
        replace(m, lower_is_better=False) if m.name == "step_ms" else m for m in times.metrics
    )
    with patch.object(times, "now", process(250.0)), patch.object(times, "metrics", flipped):
        yield


# The checks that have to catch them: each returns what is wrong, or an empty text.


def counters_changed(right):
    accepted = right.accepted
    found = decide(
        [comparison.compare_sides([measured(right.built)], [accepted], noises([[accepted]]))]
    )[0]
    return found.reason if found.step_changes else ""


def not_active(right):
    seen = proofs(gather_evidence(right.built))
    return "; ".join(
        f"{name}: {proof.detail}" for name, proof in seen.items() if not proof.is_active
    )


def shows_nothing(right):
    return "; ".join(image_defects(right.images()))


def not_the_golden(right):
    bound = read_budgets(BUDGETS, "cpu").golden(right.built.plan.names)
    return "; ".join(check_golden(right.golden, right.images(), bound))


def another_in_a_batch(right):
    bounds = read_budgets(BUDGETS, "cpu").of(right.built.plan.names, "schnell")
    return "; ".join(check_batch_independence(right.built, right.prompts, right.images(), bounds))


def crashes_at_another_size(right):
    built = right.built
    for side in ODD_SIDES:
        with patch.object(built, "plan", asking(built.plan, height=side, width=side)):
            try:
                if not built.generate(output_type="latent").isfinite().all():
                    return f"values that are no numbers at {side} pixels"
            except RuntimeError as error:
                return str(error)
    return ""


def slower_by_the_clock(times):
    with patch.object(comparison, "PERFORMANCE_METRICS", times.metrics):
        found = decide([comparison.compare_sides([times.now], times.accepted, times.noise)])[0]
    return found.reason if found.outcome is Outcome.SLOWER else ""


def false_figure(timing):
    """Time a step in which the device sleeps: it takes as long as the sleep."""
    step, timer = Region.DENOISING_STEP, timing.timer()
    started = time.perf_counter()
    timer.enter(step)
    torch.cuda._sleep(SLEEP_CYCLES)
    timer.exit(step)
    torch.cuda.synchronize()
    took_ms = (time.perf_counter() - started) * 1e3
    timed_ms = timer._ms(timer.begins[step][0], timer.ends[step][0])
    return "" if timed_ms > took_ms / 2 else f"{timed_ms:.1f} of {took_ms:.1f} ms"


@dataclass(frozen=True, kw_only=True)
class Regression:
    """A regression of another project.

    Attributes:
        had_by: the project and its issue.
        fault: the context that injects it.
        into: builds what the fault is injected into.
        caught: for each check that has to catch it, a part of its text.
    """

    had_by: str
    fault: Callable[..., Any]
    into: Callable[[], Any]
    caught: dict[Callable[..., str], str]


TABLE = (
    Regression(
        had_by="diffusers#11696",
        fault=no_begin_index,
        into=schnell,
        caught={counters_changed: "0 → 2 host synchronizations in a step"},
    ),
    Regression(
        had_by="diffusers#11818",
        fault=no_begin_index,
        into=kontext,
        caught={counters_changed: "0 → 2 host synchronizations in a step"},
    ),
    Regression(
        had_by="diffusers#11360",
        fault=every_image_larger,
        into=compiled,
        caught={counters_changed: "0 → 3 graphs compiled after the warm-up"},
    ),
    Regression(
        had_by="diffusers#14297",
        fault=a_number_in_each_block,
        into=compiled,
        caught={counters_changed: "3 → 6 compiled graphs"},
    ),
    Regression(
        had_by="diffusers#12512, sglang#23648",
        fault=a_warning_in_a_compiled_block,
        into=compiled,
        caught={counters_changed: "graph breaks: more is worse"},
    ),
    Regression(
        had_by="flux-fast's optimize()",
        fault=nothing_applied,
        into=compiled,
        caught={not_active: "regional: 0 of 6 blocks and 0 graphs compiled"},
    ),
    Regression(
        had_by="flux-fast#20",
        fault=import_error_passed_over,
        into=fa3,
        caught={
            not_active: "fa3: no fluxfast::fa3 in a step",
            counters_changed: "attention kernels: aten::_scaled_dot_product",
        },
    ),
    Regression(
        had_by="flux-fast's attention processor",
        fault=first_image_of_the_batch,
        into=int8,
        caught={another_in_a_batch: "alone against in a batch: latent_relative_error"},
    ),
    Regression(
        had_by="cache-dit#1097",
        fault=rows_of_zeros,
        into=fp8,
        caught={shows_nothing: "image 0 has NaN or infinite values"},
    ),
    Regression(
        had_by="TRT-LLM#15676",
        fault=default_flipped,
        into=fused,
        caught={
            not_active: "fused_rotary: no fluxfast_qkv_rotary in a step",
            counters_changed: " launches in a step: more is worse",
        },
    ),
    Regression(
        had_by="ComfyUI#10330",
        fault=fp8_path_skipped,
        into=fp8,
        caught={
            not_active: "hold float8_e4m3fn, multiplied by something else",
            counters_changed: "gemm kernels: ",
        },
    ),
    Regression(
        had_by="sglang#33827",
        fault=cache_never_hit,
        into=cached,
        caught={
            not_active: "dbcache: 0 of 4 steps from the cache",
            counters_changed: " → 0 cached steps: fewer is worse",
        },
    ),
    Regression(
        had_by="vllm-omni#2728",
        fault=every_layer_quantized,
        into=int8,
        caught={
            not_active: "other layers are quantized, too",
            not_the_golden: "relative error of the latents to the golden",
            counters_changed: " launches in a step: more is worse",
        },
    ),
    # The same kernels, slower: no counter changes.
    Regression(
        had_by="pytorch#164301",
        fault=a_slow_cast,
        into=synthetic_times,
        caught={slower_by_the_clock: "denoising step: step_ms"},
    ),
    Regression(
        had_by="pytorch#133334",
        fault=refused_rows,
        into=fp8,
        caught={crashes_at_another_size: "invalid memory access"},
    ),
    Regression(
        had_by="sglang#16219",
        fault=no_synchronization,
        into=a_timer,
        caught={false_figure: " of "},
    ),
    # The figure itself is called faster; the whole image is judged beside it.
    Regression(
        had_by="TRT-LLM#18741",
        fault=slower_and_its_direction_wrong,
        into=synthetic_times,
        caught={slower_by_the_clock: "whole image: e2e_s"},
    ),
)


@pytest.fixture(scope="module")
def healthy():
    """Return a function that builds each healthy pipeline once."""
    with ExitStack() as stack:
        yield cache(lambda into: stack.enter_context(into()))


@pytest.mark.slow
@pytest.mark.parametrize("regression", TABLE, ids=lambda regression: regression.had_by)
def test_a_real_regression_is_caught(regression, healthy):
    right = healthy(regression.into)
    assert not "".join(check(right) for check in regression.caught)
    with regression.fault(right):
        for check, text in regression.caught.items():
            assert text in check(right)


def test_the_same_pipeline_built_again_has_the_same_counters(healthy):
    right = healthy(schnell)
    with build(right.checkpoint, right.built.plan) as again, patch.object(right, "built", again):
        assert not counters_changed(right)
