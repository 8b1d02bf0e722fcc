"""Regressions that other projects really had, acted out: each has to be caught.

Each is put into a mini pipeline that was built right; what only the clock can see, and a fault of
the gate itself, into times that are made up.
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
from fluxfast.bench.verdicts import verdict as gate
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
# Of a picture in fp8: smaller ones are flat. Only the first has a multiple of 16 tokens.
SIDE, ODD_SIDES = 192, (336, 592) if HERE.is_gpu else (208,)
SLEEP_CYCLES = 200_000_000  # a tenth of a second


@dataclass(kw_only=True)
class Right:
    """A pipeline that was built right, and what is recorded of it while it is."""

    checkpoint: Checkpoint
    built: BuiltPipeline
    folder: Path

    @cached_property
    def accepted(self):
        return measured(self.built)

    @cached_property
    def asks(self):
        request = self.built.request
        return prompts_for(self.checkpoint, request.batch_size, request.height, request.width)

    @cached_property
    def golden(self):
        path = self.folder / "golden.safetensors"
        write_golden(path, self.drawn().latents)
        return path

    def drawn(self):
        return generate_images(self.built, self.asks)

    @property
    def transformer(self) -> Any:
        return self.built.pipeline.transformer

    @property
    def blocks(self) -> list[Any]:
        return [*self.transformer.transformer_blocks, *self.transformer.single_transformer_blocks]


def measured(built):
    """Counters and kernels of a warmed-up pipeline, as a run stores them."""
    forget_compiled_code()
    built.generate(output_type="latent")
    warm = dynamo_counters()["unique_graphs"]
    evidence = gather_evidence(built)
    found = counters(evidence, dynamo_counters(), warm)
    return process(counters=found, kernels=kernels(evidence.step))


# What the faults are put into. One pipeline of each is built, when a row first asks for it.


def unchecked(names, model="schnell", hardware=CPU, cache_config=None, **changes):
    """A checkpoint and a plan, of what a CPU refuses too."""
    checkpoint = resolve(model, "mini", hardware)
    request = {"height": 32, "width": 32, "num_inference_steps": 1, **changes}
    situation = situation_of(checkpoint, hardware, **request)
    situation = replace(situation, cache_config=cache_config)
    optimizations = tuple(map(optimization_named, names))
    return checkpoint, Plan(optimizations=optimizations, situation=situation)


def asking(plan, **changes):
    """The same plan for another request."""
    request = replace(plan.situation.request, **changes)
    return replace(plan, situation=replace(plan.situation, request=request))


@contextmanager
def built_right(checkpoint, plan):
    with build(checkpoint, plan) as built, TemporaryDirectory() as folder:
        yield Right(checkpoint=checkpoint, built=built, folder=Path(folder))


def schnell():
    return built_right(*unchecked(()))


def kontext():
    return built_right(*unchecked((), model="kontext"))


def compiled():
    """By Dynamo alone, and allowed to break graphs, as `compile` is beside a cache."""
    checkpoint, plan = unchecked(("fused_projections", "sdpa", "regional"))

    def apply(build):
        build.pipeline.transformer.compile_repeated_blocks(backend="eager")

    *others, regional = plan.optimizations
    optimizations = (*others, replace(regional, apply=apply))
    return built_right(checkpoint, replace(plan, optimizations=optimizations))


@contextmanager
def fa3():
    """With a stand-in for FlashAttention-3, which runs on no CPU."""

    def flash_attn_func(query, key, value):
        query, key, value = (heads.transpose(1, 2) for heads in (query, key, value))
        weights = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)
        return (weights @ value).transpose(1, 2).contiguous()

    module = ModuleType("fa3_fwd_interface")
    module.flash_attn_func, module.__spec__ = flash_attn_func, SimpleNamespace()
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, module.__name__, module)
        with built_right(*unchecked(("fa3",))) as right:
            yield right


def int8():
    names = ("fused_projections", "sdpa", "int8")
    return built_right(*unchecked(names, batch_size=2))


@contextmanager
def fp8():
    """torchao's fp8 runs on a CPU, but for its check of the hardware."""
    from torchao.quantization import quant_api

    names = ("bf16", "fp8_per_row")
    with (
        patch.object(quant_api, "_check_hardware_support", lambda granularity: None),
        built_right(*unchecked(names, hardware=HERE, height=SIDE, width=SIDE)) as right,
    ):
        yield right


def fused():
    """On a CPU the kernel is interpreted, which takes milliseconds for each row."""
    from tests.support.interpreter import DEVICE

    names = ("fused_projections", "sdpa", "fused_rotary")
    checkpoint, plan = unchecked(names, hardware=detect(DEVICE), width=16)
    return built_right(checkpoint, asking(plan, max_sequence_length=2))


def cached():
    dbcache = {"Fn_compute_blocks": 1, "Bn_compute_blocks": 0, "max_warmup_steps": 1}
    config = CacheConfig(dbcache={**dbcache, "residual_diff_threshold": 0.9})
    return built_right(
        *unchecked(("dbcache",), model="dev", cache_config=config, num_inference_steps=4)
    )


@contextmanager
def made_up_times():
    accepted = processes()
    yield SimpleNamespace(
        now=process(100.0),
        accepted=accepted,
        noise=noises([accepted] * 8),
        metrics=gate.PERFORMANCE_METRICS,
    )


@contextmanager
def a_timer():
    if not HERE.is_gpu:
        pytest.skip("needs a GPU: on a CPU no operator returns before it is done")
    torch.cuda._sleep(1)
    torch.cuda.synchronize()
    yield SimpleNamespace(timer=partial(StageTimer, is_gpu=True))


# The faults: contexts in which what was built right is at fault.


def no_begin_index(right):
    """The scheduler looks for the first timestep, and reads where it found it."""
    return patch.object(right.built.pipeline.scheduler, "set_begin_index", lambda index: None)


@contextmanager
def every_image_larger(right):
    built, right_draw = right.built, right.built.draw

    def draw_larger(**options):
        built.plan = asking(built.plan, height=built.request.height + 16)
        return right_draw(**options)

    with patch.object(built, "plan", built.plan), patch.object(built, "draw", draw_larger):
        yield


@contextmanager
def a_number_in_each_block(right):
    """Blocks of one kind are compiled once, unless what they are compiled with differs."""
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
    """The processor stays what diffusers made it."""
    from diffusers.models.transformers.transformer_flux import FluxAttnProcessor

    ours = right.transformer.attn_processors
    right.transformer.set_attn_processor(FluxAttnProcessor())
    try:
        yield
    finally:
        right.transformer.set_attn_processor(ours)


def first_image_of_the_batch(right):
    """Of a tensor, taken for a pair of output and normalizer."""
    processor = right.blocks[0].attn.processor  # of all blocks
    attend = processor.attend
    return patch.object(
        processor, "attend", lambda *heads: attend(*heads)[0].expand_as(heads[0]).contiguous()
    )


def rows_of_zeros(right):
    """As a text's padding may leave: their scale is 0, for torchao has no least one."""

    def zeroed(layer, given):
        tokens = given[0].clone()
        tokens[:, -1] = 0
        return (tokens,)

    return right.blocks[0].ff_context.net[2].register_forward_pre_hook(zeroed)


@contextmanager
def default_flipped(right):
    with ExitStack() as stack:
        for block in right.blocks:
            unfused = replace(block.kernels, rotary=False)
            stack.enter_context(patch.object(block, "kernels", unfused))
        yield


@contextmanager
def fp8_path_skipped(right):
    """Weights are fp8, and made bfloat16 again to be multiplied."""
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
    """Modulation, embedders and the last projection too."""
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
    """A quarter of its speed: a few per cent of a step."""
    return patch.object(times, "now", process(104.0))


def refused_rows(right):
    """An invalid access of memory, where it was: here an error."""
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


# What has to catch them: each says what is wrong, or nothing.


def counters_changed(right):
    accepted = right.accepted
    found = decide([gate.compare([measured(right.built)], [accepted], noises([[accepted]]))])[0]
    return found.reason if found.outcome is Outcome.BROKEN else ""


def not_in_force(right):
    seen = proofs(gather_evidence(right.built))
    return "; ".join(
        f"{name}: {proof.detail}" for name, proof in seen.items() if not proof.is_active
    )


def shows_nothing(right):
    return "; ".join(image_defects(right.drawn()))


def not_the_golden(right):
    bound = read_budgets(BUDGETS, "cpu").golden(right.built.plan.names)
    return "; ".join(check_golden(right.golden, right.drawn(), bound))


def another_in_a_batch(right):
    bounds = read_budgets(BUDGETS, "cpu").of(right.built.plan.names, "schnell")
    return "; ".join(check_batch_independence(right.built, right.asks, right.drawn(), bounds))


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
    with patch.object(gate, "QUALITY_METRICS", times.metrics):
        found = decide([gate.compare([times.now], times.accepted, times.noise)])[0]
    return found.reason if found.outcome is Outcome.SLOWER else ""


def false_figure(timing):
    """A step in which the device sleeps takes as long as it sleeps."""
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
    """Who had it, the fault and what it is put into, and what each that catches it says."""

    had_by: str
    fault: Callable[..., Any]
    into: Callable[[], Any]
    caught: dict[Callable[..., str], str]


TABLE = (
    Regression(
        had_by="diffusers#11696",
        fault=no_begin_index,
        into=schnell,
        caught={counters_changed: "host_syncs_in_a_step is 2, was 0"},
    ),
    Regression(
        had_by="diffusers#11818",
        fault=no_begin_index,
        into=kontext,
        caught={counters_changed: "host_syncs_in_a_step is 2, was 0"},
    ),
    Regression(
        had_by="diffusers#11360",
        fault=every_image_larger,
        into=compiled,
        caught={counters_changed: "graphs_compiled_after_warmup is 3, was 0"},
    ),
    Regression(
        had_by="diffusers#14297",
        fault=a_number_in_each_block,
        into=compiled,
        caught={counters_changed: "unique_graphs is 6, was 3"},
    ),
    Regression(
        had_by="diffusers#12512, sglang#23648",
        fault=a_warning_in_a_compiled_block,
        into=compiled,
        caught={counters_changed: "graph_breaks is"},
    ),
    Regression(
        had_by="flux-fast's optimize()",
        fault=nothing_applied,
        into=compiled,
        caught={not_in_force: "regional: 0 of 6 blocks and 0 graphs compiled"},
    ),
    Regression(
        had_by="flux-fast#20",
        fault=import_error_passed_over,
        into=fa3,
        caught={
            not_in_force: "fa3: no fluxfast::fa3 in a step",
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
        caught={shows_nothing: "image 0 has values that are no numbers"},
    ),
    Regression(
        had_by="TRT-LLM#15676",
        fault=default_flipped,
        into=fused,
        caught={
            not_in_force: "fused_rotary: no fluxfast_qkv_rotary in a step",
            counters_changed: "launches_in_a_step is",
        },
    ),
    Regression(
        had_by="ComfyUI#10330",
        fault=fp8_path_skipped,
        into=fp8,
        caught={
            not_in_force: "hold float8_e4m3fn, multiplied by something else",
            counters_changed: "gemm kernels: ",
        },
    ),
    Regression(
        had_by="sglang#33827",
        fault=cache_never_hit,
        into=cached,
        caught={
            not_in_force: "dbcache: 0 of 4 steps from the cache",
            counters_changed: "cached_steps is 0, was",
        },
    ),
    Regression(
        had_by="vllm-omni#2728",
        fault=every_layer_quantized,
        into=int8,
        caught={
            not_in_force: "other layers are quantized, too",
            not_the_golden: "relative error of the latents to the golden",
            counters_changed: "launches_in_a_step is",
        },
    ),
    # The same kernels, slower: no counter changes.
    Regression(
        had_by="pytorch#164301",
        fault=a_slow_cast,
        into=made_up_times,
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
        into=made_up_times,
        caught={slower_by_the_clock: "whole image: e2e_s"},
    ),
)


@pytest.fixture(scope="module")
def right_of():
    """What the faults are put into: each is built when it is first asked for, and kept."""
    with ExitStack() as stack:
        yield cache(lambda into: stack.enter_context(into()))


@pytest.mark.parametrize("regression", TABLE, ids=lambda regression: regression.had_by)
def test_a_real_regression_is_caught(regression, right_of):
    right = right_of(regression.into)
    assert not "".join(catches(right) for catches in regression.caught)
    with regression.fault(right):
        for catches, says in regression.caught.items():
            assert says in catches(right)


def test_the_same_pipeline_built_again_has_the_same_counters(right_of):
    right = right_of(schnell)
    with build(right.checkpoint, right.built.plan) as again, patch.object(right, "built", again):
        assert not counters_changed(right)
