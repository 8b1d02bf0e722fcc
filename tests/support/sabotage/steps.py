"""Inject small faults into a correctly built pipeline; the step error has to detect each one.

`python -m tests.support.sabotage.steps` prints the table of docs/explanation/image-quality.md: on a
CPU of mini weights, on a GPU of full-size synthetic ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch

from fluxfast.bench.cases.planned import planned_case, situation_of
from fluxfast.console import Console
from fluxfast.hardware import Hardware, detect
from fluxfast.models.weights import resolve
from fluxfast.optimizations.registry import eager_names
from fluxfast.pipeline.build import BuiltPipeline, build
from fluxfast.quality.prompts import prompts_for
from fluxfast.quality.step_golden import check_step_golden, write_step_golden
from fluxfast.quality.step_reference import (
    MeasuredSteps,
    StepReference,
    check_definition,
    is_lossy,
    record_references,
)
from fluxfast.quality.trajectory import Outputs, replay

GATES = ("definition", "golden")
UNMODIFIED_RUNS = 10  # of each pipeline, in the table
SIDE_ON_A_CPU, STEPS_ON_A_CPU = 128, 2

Fault = Callable[[BuiltPipeline], Any]  # returns a context with the fault


@contextmanager
def scaled(tensor: torch.Tensor, factor: float) -> Iterator[None]:
    """Multiply a tensor in place within this context."""
    right = tensor.clone()
    tensor.mul_(factor)
    try:
        yield
    finally:
        tensor.copy_(right)


def single_block(built: BuiltPipeline) -> Any:
    """Return a block in the first half of the single ones."""
    blocks = built.pipeline.transformer.single_transformer_blocks
    return blocks[len(blocks) // 3]


def weaker_block(built: BuiltPipeline) -> Any:
    return single_block(built).register_forward_hook(
        lambda module, args, output: tuple(part * 0.98 for part in output)
    )


@contextmanager
def scaled_head(built: BuiltPipeline) -> Iterator[None]:
    """Scale the values of the first head."""
    attention = single_block(built).attn
    rows = slice(attention.head_dim)
    with (
        scaled(attention.to_v.weight.data[rows], 1.05),
        scaled(attention.to_v.bias.data[rows], 1.05),
    ):
        yield


def swapped_rope_axes(built: BuiltPipeline) -> Any:
    positions = built.pipeline.transformer.pos_embed
    right = positions.forward
    return patch.object(positions, "forward", lambda ids: right(ids[:, [0, 2, 1]]))


def dropped_text_tokens(built: BuiltPipeline) -> Any:
    """The last 16, as a maximum length that is too small would."""
    transformer = built.pipeline.transformer
    right = transformer.forward

    def forward(*, encoder_hidden_states: Any, txt_ids: Any, **others: Any) -> Any:
        return right(
            encoder_hidden_states=encoder_hidden_states[:, :-16], txt_ids=txt_ids[:-16], **others
        )

    return patch.object(transformer, "forward", forward)


def wrong_row_scales(built: BuiltPipeline) -> Any:
    """The scales of one quantized layer, twice as large."""
    return scaled(single_block(built).proj_out.weight.data.scale, 2.0)


def late_modulation(built: BuiltPipeline) -> Any:
    """Each step has the modulation of the step before it."""
    scheduler = built.pipeline.scheduler

    def change(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        now, *others = args
        schedule = scheduler.timesteps.to(now.dtype)
        index = int((schedule - now[0]).abs().argmin())
        return schedule[max(index - 1, 0)].expand_as(now), *others

    return built.pipeline.transformer.time_text_embed.register_forward_pre_hook(change)


def wrong_amax_bound(built: BuiltPipeline) -> Any:
    """One that is too small by more than √3072: values within a standard deviation saturate.

    16 times too large or too small is no fault: e4m3 has the same relative precision over 15 powers
    of two, and a bound of Cauchy and Schwarz is 14 times the largest of 4096 random products.
    """
    layers = built.pipeline.transformer.modules()
    bounds = [m.fp8_amax_bound for m in layers if hasattr(m, "fp8_amax_bound")]
    stack = ExitStack()
    for bound in bounds:
        stack.enter_context(scaled(bound, 1 / 64))
    return stack


def wrong_softmax_scale(built: BuiltPipeline) -> Any:
    """Queries that are 3% too long in every block."""
    stack = ExitStack()
    for block in built.pipeline.transformer.single_transformer_blocks:
        norm = block.attn.norm_q
        stack.enter_context(norm.register_forward_hook(lambda module, args, output: output * 1.03))
    return stack


@contextmanager
def wrong_dtype_in_t5(built: BuiltPipeline) -> Iterator[None]:
    """The weights of one layer in fp8 without a scale."""
    block = built.pipeline.text_encoder_2.encoder.block[0]
    layers = [module for module in block.modules() if isinstance(module, torch.nn.Linear)]
    right = [layer.weight.data for layer in layers]
    for layer in layers:
        layer.weight.data = layer.weight.data.to(torch.float8_e4m3fn).to(layer.weight.dtype)
    try:
        yield
    finally:
        for layer, weight in zip(layers, right, strict=True):
            layer.weight.data = weight


@dataclass(frozen=True, kw_only=True)
class StepSabotage:
    """A fault, and what is enabled on the eager pipeline that it is injected into.

    Attributes:
        name: for the table.
        fault: returns a context with the fault.
        on_cpu: optimizations on a CPU; None where it has not the code with the fault.
        on_gpu: optimizations on a GPU.
        is_within_rounding: at full size in bfloat16 the error is less than 1.25 times rounding, so
            that the golden alone detects the fault there.
    """

    name: str
    fault: Fault
    on_cpu: tuple[str, ...] | None = ()
    on_gpu: tuple[str, ...] = ()
    is_within_rounding: bool = False

    def optimizations(self, hardware: Hardware) -> tuple[str, ...] | None:
        """Return what to enable on this hardware; None where the fault cannot be injected."""
        return self.on_gpu if hardware.is_gpu else self.on_cpu

    def gates(self, hardware: Hardware) -> tuple[str, ...]:
        """Return the gates that have to detect the fault on this hardware."""
        return ("golden",) if self.is_within_rounding and hardware.is_gpu else GATES


STEP_SABOTAGES = (
    StepSabotage(name="one block's output × 0.98", fault=weaker_block),
    StepSabotage(name="one head's scale × 1.05", fault=scaled_head, is_within_rounding=True),
    StepSabotage(name="RoPE's axes swapped", fault=swapped_rope_axes),
    StepSabotage(name="the last 16 text tokens dropped", fault=dropped_text_tokens),
    StepSabotage(name="modulation of the previous step", fault=late_modulation),
    StepSabotage(name="softmax scale × 1.03", fault=wrong_softmax_scale, is_within_rounding=True),
    StepSabotage(name="one layer of T5 in fp8", fault=wrong_dtype_in_t5),
    StepSabotage(
        name="row scales of one quantized layer × 2",
        fault=wrong_row_scales,
        on_cpu=("int8",),
        on_gpu=("fp8_per_row",),
    ),
    StepSabotage(
        name="the GELU epilogue's bound ÷ 64",
        fault=wrong_amax_bound,
        on_cpu=None,
        on_gpu=("fused_projections", "fa3_fp8", "fp8_per_row", "fused_norms", "gelu_epilogue"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class StepBench:
    """A correctly built pipeline with its reference and its golden.

    Attributes:
        built: the pipeline.
        reference: of the eager pipeline.
        right: the outputs before any fault.
        goldens: the folder of its golden.
    """

    built: BuiltPipeline
    reference: StepReference
    right: Outputs
    goldens: Path

    def measured(self) -> MeasuredSteps:
        """Feed the pipeline in its current state."""
        lossy = is_lossy(self.built.plan)
        return MeasuredSteps(
            outputs=replay(self.built.pipeline, self.built.plan, self.reference.trajectory),
            reference=self.reference,
            is_lossy=lossy,
            lossy_alone=self.right if lossy else None,
        )

    def seen(self, measured: MeasuredSteps) -> dict[str, list[str]]:
        """Return the complaints of each gate."""
        return {
            "definition": check_definition([measured]),
            "golden": check_step_golden(self.goldens, "case", measured.quality),
        }


class StepBenches:
    """The pipelines of this machine, the eager one first; faults of the same plan share one."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack, self.benches = stack, dict[tuple[str, ...], StepBench]()
        self.hardware = detect("auto")
        is_gpu = self.hardware.is_gpu
        kind, model = ("synthetic", "dev") if is_gpu else ("mini", "schnell")
        self.checkpoint = resolve(model, kind, self.hardware)
        side, steps = (None, None) if is_gpu else (SIDE_ON_A_CPU, STEPS_ON_A_CPU)
        sizes = dict(height=side, width=side, num_inference_steps=steps, batch_size=1)
        self.situation = situation_of(self.checkpoint, self.hardware, **sizes)
        request = self.situation.request
        prompts = prompts_for(self.checkpoint, 1, request.height, request.width)
        with self._built(()) as eager:
            (self.reference,) = record_references(eager, [(request, prompts)])

    def _built(self, optimizations: tuple[str, ...]) -> BuiltPipeline:
        names = {*eager_names(self.hardware), "bf16", *optimizations}
        planned = planned_case(tuple(names), self.checkpoint, self.situation)
        return build(planned.checkpoint, planned.plan)

    def of(self, optimizations: tuple[str, ...]) -> StepBench:
        """Return the bench of these optimizations, with the golden of the unmodified pipeline."""
        if optimizations not in self.benches:
            built = self.stack.enter_context(self._built(optimizations))
            folder = Path(self.stack.enter_context(TemporaryDirectory()))
            right = replay(built.pipeline, built.plan, self.reference.trajectory)
            found = StepBench(built=built, reference=self.reference, right=right, goldens=folder)
            write_step_golden(folder, "case", found.measured().quality)
            self.benches[optimizations] = found
        return self.benches[optimizations]


def main() -> None:
    """Print the table: one row per fault, its error, and the gates that detect it.

    The last row is of the same pipelines without a fault: each is fed ten times more.
    """
    console = Console()
    console.print("| fault | step error | prompt error | " + " | ".join(GATES) + " |")
    console.print("| --- | --- | --- |" + " --- |" * len(GATES))
    with ExitStack() as stack, torch.no_grad():
        benches = StepBenches(stack)
        for sabotage in STEP_SABOTAGES:
            optimizations = sabotage.optimizations(benches.hardware)
            if optimizations is None:
                continue
            bench = benches.of(optimizations)
            with sabotage.fault(bench.built):
                measured = bench.measured()
            seen, quality = bench.seen(measured), measured.quality
            before = bench.seen(bench.measured())
            assert not any(before.values()), f"{sabotage.name} is not undone"
            errors = (f"{quality.figure(n):.2g}" for n in ("step_error", "prompt_error"))
            cells = [*errors, *("**detected**" if seen[gate] else "–" for gate in GATES)]
            console.print(f"| {sabotage.name} | {' | '.join(cells)} |")
        console.print(_unmodified_row(list(benches.benches.values())))


def _unmodified_row(benches: list[StepBench]) -> str:
    raised = dict.fromkeys(GATES, 0)
    for bench in benches:
        for _ in range(UNMODIFIED_RUNS):
            for gate, complaints in bench.seen(bench.measured()).items():
                raised[gate] += bool(complaints)
    fed = f"{UNMODIFIED_RUNS * len(benches)} times no fault"
    return f"| {fed} | – | – | " + " | ".join(f"{raised[gate]} raised" for gate in GATES) + " |"


if __name__ == "__main__":
    main()
