"""Measure the step error and the time of a few layers in bfloat16 while the others are in fp8.

    python -m benchmarks.bf16_layers --out bf16_layers.json            # on an H200, 2½ minutes
    python -m benchmarks.bf16_layers --out /tmp/b.json --rehearse      # on a CPU, a minute
    python -m benchmarks.bf16_layers --table bf16_layers.json

Full-size `synthetic` weights of dev at 1024×1024. Step errors are teacher-forced against
the eager pipeline, the mean of the compared steps of each trajectory. First each group of layers
that can be left unquantized is quantized alone, in the eager pipeline. Then the default
optimizations leave those groups in bfloat16 that cause the largest squared error per operation, as
many as have 1, 2, 4 or 8% of the operations of the quantized GEMMs. Each choice is timed in turns
with the default optimizations without it, in images of few steps; the first round is a warm-up.
`predicted` is the ratio of errors if the squared errors of the groups add up.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch._dynamo import config as dynamo

import fluxfast
from benchmarks.record import Record
from fluxfast.bench.cases.planned import situation_of
from fluxfast.bench.measurement.stages import StageTimer
from fluxfast.console import out, quiet_libraries
from fluxfast.hardware import detect, environment
from fluxfast.models.arguments import call_arguments
from fluxfast.models.weights import resolve
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.registry import choices, eager_names, plan
from fluxfast.optimizations.unquantized import groups
from fluxfast.pipeline.applied import RECOMPILE_LIMIT, on_device
from fluxfast.pipeline.build import build
from fluxfast.pipeline.observe import observed
from fluxfast.quality.layer_errors import QuantizedLayer, quantized_layers
from fluxfast.quality.prompts import prompts_for
from fluxfast.quality.step_error import Difference
from fluxfast.quality.trajectory import Trajectory, forced_steps, record

PERCENT = (4, 1, 2, 8)  # of the operations, the most interesting first: time may run out
TRAJECTORIES = 2
STEPS, TIMED_STEPS, ROUNDS = 28, 10, 5
REHEARSED_SIDE, REHEARSED_STEPS, REHEARSED_ROUNDS = 64, 4, 2
LAST_START_S = 195  # no part begins later: a part takes up to 40 s
MOST_SHOWN = 15


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rehearse", action="store_true", help="mini-dev in int8, on a CPU")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the tables of a file")
    options = parser.parse_args()
    if options.table:
        out("\n".join(tables(json.loads(options.table.read_text()))))
        return 0
    quiet_libraries()
    torch.set_grad_enabled(False)
    results = Record(options.out, budget_s=LAST_START_S)
    with ExitStack() as stack:
        study = Study(stack, is_rehearsal=options.rehearse)
        results.part("environment", lambda: environment(study.hardware))
        results.part("groups", study.contributions)
        results.part("default", study.default)
        for percent in PERCENT:
            found = results.parts["groups"].get("groups", [])
            results.part(f"{percent}%", partial(study.with_unquantized, found, percent))
    return results.close()


class Study:
    """The eager pipeline with its trajectories, and one with the default optimizations."""

    def __init__(self, stack: ExitStack, *, is_rehearsal: bool) -> None:
        self.hardware = detect("cpu" if is_rehearsal else "cuda")
        name, weights = ("mini-dev", "auto") if is_rehearsal else ("dev", "synthetic")
        side = REHEARSED_SIDE if is_rehearsal else None
        self.rounds = REHEARSED_ROUNDS if is_rehearsal else ROUNDS
        self.checkpoint = resolve(name, weights, self.hardware)
        situation = situation_of(
            self.checkpoint,
            self.hardware,
            height=side,
            width=side,
            num_inference_steps=REHEARSED_STEPS if is_rehearsal else STEPS,
        )
        self.request = situation.request
        built = stack.enter_context(
            build(self.checkpoint, plan(eager_names(self.hardware), situation))
        )
        self.eager = built.pipeline
        self.eager.set_progress_bar_config(disable=True)
        size = (self.request.height, self.request.width)
        self.trajectories = [
            record(built, self.request, [prompt])
            for prompt in prompts_for(self.checkpoint, TRAJECTORIES, *size)
        ]
        # int8 in place of fp8, and nothing that compiles for minutes, in a rehearsal. The encoders
        # have no part in a step, and would be prepared again for each choice.
        self.choice: dict[str, Any] = (
            dict(enable=["int8", "sdpa"], disable=["regional", "inductor_flags"])
            if is_rehearsal
            else dict(disable=[o.name for o in choices(Axis.ENCODER)])
        )
        pipeline = fluxfast.load(name, weights=weights, device=self.hardware.device)
        pipeline.set_progress_bar_config(disable=True)
        self.base = stack.enter_context(fluxfast.optimize(pipeline, **self.choice))

    def contributions(self) -> dict[str, Any]:
        """Return the error of each group that is quantized alone, and its share of operations."""
        quantization, first = self.base.plan.on(Axis.QUANTIZATION), self.trajectories[0]
        some = first.compared[2:3]  # one step takes 40 s for all groups on an H200
        assert quantization is not None
        with quantized_layers(self.eager, quantization, self.base.plan) as layers:
            whole = self.step_error(self.eager, [first], some)
            for layer in layers.values():
                layer.restore()
            operations = self._operations(layers, first)
            total, rows = sum(operations.values()), list[dict[str, Any]]()
            for group in groups(self.checkpoint.block_counts):
                own = [name for name in group if name in layers]
                with ExitStack() as stack:
                    for name in own:
                        stack.enter_context(layers[name].quantized())
                    error = self.step_error(self.eager, [first], some)
                share = sum(operations[name] for name in own) / total
                rows.append({"name": group[0], "error": error, "operations": share})
        alone = math.hypot(*(row["error"] for row in rows))
        return {"quantization": quantization.name, "whole": whole, "added": alone, "groups": rows}

    def _operations(
        self, layers: Mapping[str, QuantizedLayer], trajectory: Trajectory
    ) -> dict[str, int]:
        """Return rows × values of the weight of each layer."""
        found = dict[str, int]()

        def counts(name: str, module: Any, arguments: tuple[Any, ...]) -> None:
            rows = arguments[0].numel() // module.in_features
            found[name] = rows * module.in_features * module.out_features

        with ExitStack() as hooks:
            for name, layer in layers.items():
                hook = layer.module.register_forward_pre_hook(partial(counts, name))
                hooks.enter_context(hook)
            self.step_error(self.eager, [trajectory], trajectory.compared[:1])
        return found

    def default(self) -> dict[str, Any]:
        """Return first image, step time and step error of the default optimizations."""
        first_s = self._image(self.base)[0]
        step_ms = statistics.median(self._image(self.base)[1] for _ in range(self.rounds))
        return {
            "first_image_s": first_s,
            "step_ms": step_ms,
            "step_error": self.step_error(self.base.pipeline, self.trajectories),
        }

    def with_unquantized(self, found: Sequence[Mapping[str, Any]], percent: float) -> Any:
        """Return error and time with the worst groups in bfloat16, next to the default ones."""
        chosen = worst(found, percent / 100)
        names = [row["name"] for row in chosen]
        with fluxfast.optimize(self.eager, **self.choice, unquantized=names) as fast:
            first_s = self._image(fast)[0]
            rounds = [(self._image(self.base)[1], self._image(fast)[1]) for _ in range(self.rounds)]
            timed = rounds[1:]
            error = self.step_error(fast.pipeline, self.trajectories)
            report = fast.report()
        ratios = [with_some / without for without, with_some in timed]
        without = self.step_error(self.base.pipeline, self.trajectories)
        total = sum(row["error"] ** 2 for row in found)
        left = 1 - sum(row["error"] ** 2 for row in chosen) / total
        return {
            "groups": len(chosen),
            "operations": sum(row["operations"] for row in chosen),
            "step_error": error,
            "error_ratio": error / without,
            "predicted": math.sqrt(max(left, 0.0)),
            "step_ms": statistics.median(ms for _, ms in timed),
            "default_step_ms": statistics.median(ms for ms, _ in timed),
            "time_ratio": statistics.median(ratios),
            "time_ratios": ratios,
            "first_image_s": first_s,
            "as_requested": report.is_as_requested,
            "proofs": {name: proof.detail for name, proof in report.proofs.items()},
            "unquantized": names,
        }

    def step_error(
        self, pipeline: Any, trajectories: Sequence[Trajectory], steps: Sequence[int] | None = None
    ) -> float:
        """Return the mean error of the transformer's outputs for the eager pipeline's inputs."""
        errors = []
        with on_device(pipeline), dynamo.patch(recompile_limit=RECOMPILE_LIMIT):
            for trajectory in trajectories:
                right = trajectory.outputs.steps
                for index, output in forced_steps(
                    pipeline, trajectory, steps or trajectory.compared
                ):
                    errors.append(Difference.between(output, right[index]).mean)
        return statistics.fmean(errors)

    def _image(self, optimized: Any) -> tuple[float, float]:
        """Return the seconds of an image of few steps, and the milliseconds of its median step."""
        timed = min(TIMED_STEPS, self.request.num_inference_steps)
        request = replace(self.request, num_inference_steps=timed)
        timer, started = StageTimer(self.hardware.is_gpu), time.perf_counter()
        with observed(optimized.pipeline, timer):
            optimized(**call_arguments(request, takes_image=False))
        elapsed_s = time.perf_counter() - started  # the image is on the host
        return elapsed_s, statistics.median(timer.timing(elapsed_s).step_ms)


def worst(found: Sequence[Mapping[str, Any]], most: float) -> list[Mapping[str, Any]]:
    """Return the groups with the largest squared error per operation, within a share of these."""
    chosen, used = [], 0.0
    for row in sorted(found, key=lambda row: -(row["error"] ** 2) / row["operations"]):
        if used + row["operations"] <= most:
            chosen.append(row)
            used += row["operations"]
    return chosen


def tables(parts: Mapping[str, Any]) -> list[str]:
    """Return Markdown tables: the choices, the worst groups, and the worst blocks."""
    lines = [
        "| layers in bfloat16 | groups | step error | ratio | predicted | ms/step | time | first |",
        "| --- " * 8 + "|",
    ]
    if "step_error" in (default := parts.get("default", {})):
        cells = "{step_error:.4f} | 1 | 1 | {step_ms:.2f} | | {first_image_s:.1f} s |"
        lines.append("| none | 0 | " + cells.format(**default))
    for name in sorted((f"{percent}%" for percent in PERCENT), key=lambda name: int(name[:-1])):
        if "step_error" in (part := parts.get(name, {})):
            cells = (
                "{groups} | {step_error:.4f} | {error_ratio:.3f} | {predicted:.3f} | {step_ms:.2f} "
                "| {time_ratio:.4f} | {first_image_s:.1f} s |"
            )
            share = f"{100 * part['operations']:.2f}%"
            lines.append(f"| {share} of the operations | {cells.format(**part)}")
    rows = parts.get("groups", {}).get("groups", [])
    total = sum(row["error"] ** 2 for row in rows)
    blocks = dict[str, tuple[float, float]]()
    for row in rows:
        block = ".".join(row["name"].split(".")[:2])
        squares, operations = blocks.get(block, (0.0, 0.0))
        blocks[block] = (squares + row["error"] ** 2, operations + row["operations"])
    of_groups = {row["name"]: (row["error"] ** 2, row["operations"]) for row in rows}
    for title, found in (("group, by its first layer", of_groups), ("block", blocks)):
        lines += ["", f"| {title} | share of squared errors | of the operations |"]
        lines.append("| --- | --- | --- |")
        ranked = sorted(found.items(), key=lambda item: -item[1][0])[:MOST_SHOWN]
        lines += [f"| {n} | {100 * s / total:.1f}% | {100 * o:.2f}% |" for n, (s, o) in ranked]
    return lines


if __name__ == "__main__":
    sys.exit(main())
