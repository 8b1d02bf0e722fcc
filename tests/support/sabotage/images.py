"""Inject faults into a correctly built pipeline and list the quality gates that detect them.

`python -m tests.support.sabotage.images` generates all images and prints the table of
docs/explanation/image-quality.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch

from fluxfast.bench.cases.planned import planned_case, situation_of
from fluxfast.console import Console
from fluxfast.hardware import detect
from fluxfast.mini import WEIGHTS
from fluxfast.models.weights import resolve
from fluxfast.pipeline.build import BuiltPipeline, build
from fluxfast.quality.budget import Budgets, read_budgets, violations
from fluxfast.quality.clip import Clip, mini_clip
from fluxfast.quality.gates import check_batch_independence, check_golden, check_repeatability
from fluxfast.quality.golden import golden_path, write_golden
from fluxfast.quality.metrics import compare_images, image_defects
from fluxfast.quality.prompts import GeneratedImages, Prompt, generate_images, prompts_for

BUDGETS = Path(__file__).parents[3] / "correctness_tests" / "budgets.yaml"
SIDE, BATCH_SIZE = 256, 2
GATES = ("defects", "budget", "golden", "repeatability", "batch")

Fault = Callable[[Any], Any]  # takes a diffusers pipeline, returns a context with the fault


@contextmanager
def hooked(module: torch.nn.Module, change: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


def weaker_block(pipeline: Any) -> Any:
    def change(module: Any, args: Any, output: Any) -> Any:
        return tuple(part * 0.9 for part in output)

    return hooked(pipeline.transformer.single_transformer_blocks[1], change)


@contextmanager
def forgotten_shift(pipeline: Any) -> Iterator[None]:
    right = pipeline.vae.config.shift_factor
    pipeline.vae.register_to_config(shift_factor=0.0)
    try:
        yield
    finally:
        pipeline.vae.register_to_config(shift_factor=right)


def stale_cache(pipeline: Any) -> Any:
    """The first image is right, each other begins with what the cache holds of the one before."""
    from cache_dit.caching.cache_contexts.cache_manager import CachedContextManager

    right, emptied = CachedContextManager.reset_context, set[str]()

    def keep(manager: Any, cached_context: Any, **settings: Any) -> Any:
        if not isinstance(cached_context, str):
            return cached_context
        if cached_context in emptied:
            return manager.get_context(cached_context)
        emptied.add(cached_context)
        return right(manager, cached_context, **settings)

    return patch.object(CachedContextManager, "reset_context", keep)


def ignored_prompt(pipeline: Any) -> Any:
    right = pipeline.encode_prompt

    def encode(prompt: list[str], *args: Any, **kwargs: Any) -> Any:
        return right([""] * len(prompt), *args, **kwargs)

    return patch.object(pipeline, "encode_prompt", encode)


def copied_image(pipeline: Any) -> Any:
    """As an attention that returns only the first image of a batch."""

    def change(module: Any, args: Any, output: Any) -> Any:
        return (output[0][:1].expand_as(output[0]),)

    return hooked(pipeline.transformer, change)


@dataclass(frozen=True, kw_only=True)
class Sabotage:
    """A fault, the optimizations that it is injected into, and the gates that must detect it."""

    name: str
    fault: Fault
    seen_by: tuple[str, ...]
    optimizations: tuple[str, ...] = ()
    model: str = "schnell"


SABOTAGES = (
    Sabotage(name="one block's output × 0.9", fault=weaker_block, seen_by=("budget", "golden")),
    Sabotage(name="the VAE's shift forgotten", fault=forgotten_shift, seen_by=("budget",)),
    Sabotage(
        name="a cache that is not emptied",
        fault=stale_cache,
        seen_by=("repeatability",),
        optimizations=("dbcache",),
        model="dev",
    ),
    Sabotage(name="the prompt ignored", fault=ignored_prompt, seen_by=("budget", "golden")),
    Sabotage(name="a batch's second image a copy", fault=copied_image, seen_by=("budget", "batch")),
)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A correctly built pipeline, the images of the eager pipeline, and a golden."""

    built: BuiltPipeline
    prompts: list[Prompt]
    reference: GeneratedImages
    golden: Path
    bounds: dict[str, float]
    golden_bound: float
    clip: Clip

    def seen(self) -> dict[str, list[str]]:
        """Return the complaints of each gate about the pipeline in its current state."""
        drawn = generate_images(self.built, self.prompts)
        again = generate_images(self.built, self.prompts)
        return {
            "defects": image_defects(drawn),
            "budget": violations(
                compare_images(drawn, self.reference, self.prompts, self.clip), self.bounds
            ),
            "golden": check_golden(self.golden, drawn, self.golden_bound),
            "repeatability": check_repeatability(again, drawn, self.prompts),
            "batch": check_batch_independence(self.built, self.prompts, drawn, self.bounds),
        }


@cache
def eager_images(model: str, side: int) -> GeneratedImages:
    """Return the eager pipeline's images of a model, generated one at a time."""
    hardware = detect("cpu")
    checkpoint = resolve(model, "mini", hardware)
    situation = situation_of(checkpoint, hardware, height=side, width=side)
    with build(checkpoint, planned_case((), checkpoint, situation).plan) as eager:
        return generate_images(eager, prompts_for(checkpoint, BATCH_SIZE, side, side))


@cache
def clip() -> Clip:
    """Return mini-clip, loaded once."""
    return mini_clip(WEIGHTS / "mini-clip")


@contextmanager
def bench(sabotage: Sabotage, side: int = SIDE) -> Iterator[Bench]:
    """Build the pipeline and record its golden before any fault is injected."""
    model, optimizations = sabotage.model, sabotage.optimizations
    hardware = detect("cpu")
    checkpoint = resolve(model, "mini", hardware)
    prompts = prompts_for(checkpoint, BATCH_SIZE, side, side)
    situation = situation_of(checkpoint, hardware, batch_size=BATCH_SIZE, height=side, width=side)
    planned = planned_case(optimizations, checkpoint, situation)
    budgets: Budgets = read_budgets(BUDGETS, "cpu")
    with build(checkpoint, planned.plan) as built, TemporaryDirectory() as folder:
        golden = golden_path(Path(folder), "cpu", planned.case.id)
        write_golden(golden, generate_images(built, prompts).latents)
        yield Bench(
            built=built,
            prompts=prompts,
            reference=eager_images(model, side),
            golden=golden,
            bounds=budgets.of(optimizations, model),
            golden_bound=budgets.golden(optimizations),
            clip=clip(),
        )


def main() -> None:
    """Print the table: one row per fault, one column per gate."""
    console = Console()
    console.print("| fault | " + " | ".join(GATES) + " |")
    console.print("| --- |" + " --- |" * len(GATES))
    for sabotage in SABOTAGES:
        with bench(sabotage) as right, sabotage.fault(right.built.pipeline):
            seen = right.seen()
        cells = ["**detected**" if seen[gate] else "–" for gate in GATES]
        console.print(f"| {sabotage.name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
