"""Compile the Triton kernels of a plan while its weights are loaded. Imports torch.

A kernel depends on the width of a network and on the size of the image, neither on weights nor on
how many blocks there are. So a stand-in with two blocks of each kind generates an image without
launching a kernel, and threads compile what it asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import Event
from typing import Any

import torch
from torch import nn

from fluxfast.console import no_progress
from fluxfast.models.arguments import call_arguments
from fluxfast.models.synthetic.pipeline import scheduler_of, transformer_and_vae
from fluxfast.models.weights import Checkpoint
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Plan
from fluxfast.pipeline.applied import free_memory
from fluxfast.pipeline.apply import apply_plan

# The decisions that the kernels of a step and of the decoder depend on.
SHAPING = {
    Axis.DTYPE,
    Axis.PROJECTIONS,
    Axis.ATTENTION,
    Axis.MEMORY_FORMAT,
    Axis.QUANTIZATION,
    Axis.NORMS,
    Axis.ROTARY,
    Axis.ACTIVATION,
    Axis.MODULATION,
    Axis.DECODER,
}
# The fused norm of a block depends on what the block before it leaves.
BLOCKS = dict(num_layers=2, num_single_layers=2)


def begin_to_compile(
    checkpoint: Checkpoint,
    plan: Plan,
    dtype: torch.dtype,
    progress: Callable[[str], None] = no_progress,
) -> Future[None] | None:
    """Ask for the plan's kernels and return; threads compile them while the weights are loaded.

    A graph waits for them before it is recorded, also those of the text encoders, which have no
    kernels: a module that is loaded meanwhile would disturb the recording. So nothing is compiled
    for a plan without a graph, nor for one without kernels, for several GPUs, or for another width
    than a model's own.

    It returns before weights are loaded. While diffusers loads them, it creates every parameter of
    the process without memory, also those of a stand-in.

    Args:
        checkpoint: what will be loaded.
        plan: the plan that will be applied to it.
        dtype: the dtype of the weights.
        progress: called with the name of the stage, if there is one.

    Returns:
        What is done when all are compiled; None where nothing is. A kernel that cannot be compiled
        is an error of the call that launches it.

    Raises:
        Exception: the stand-in cannot be built or called, with the error of that.
    """
    if not _asks_for_kernels(checkpoint, plan):
        return None
    from fluxfast.kernels.compile_ahead import compile_kernels_of

    progress("asking for kernels")
    asked = Event()

    def ask() -> None:
        # The modules of a pipeline refer to each other: without free_memory 1.5 GB would stay.
        compile_kernels_of(lambda: _generate(checkpoint, plan, dtype), free_memory, asked.set)

    compiler = ThreadPoolExecutor(1, "kernels")
    compiled = compiler.submit(ask)
    compiled.add_done_callback(lambda _: asked.set())  # also where asking fails
    compiler.shutdown(wait=False)
    asked.wait()
    if compiled.done():
        compiled.result()
    return compiled


def _asks_for_kernels(checkpoint: Checkpoint, plan: Plan) -> bool:
    hardware = plan.situation.hardware
    return (
        hardware.is_gpu
        and hardware.gpus == 1
        and checkpoint.own_heads is None
        and plan.on(Axis.GRAPH) is not None
        and any(plan.on(axis) for axis in (Axis.NORMS, Axis.ROTARY, Axis.DECODER))
    )


def _stand_in(checkpoint: Checkpoint, plan: Plan, dtype: torch.dtype) -> Any:
    """Return a pipeline without text encoders, with few blocks, and zeros for weights."""
    import diffusers

    model, full = checkpoint.model, checkpoint.architecture
    shape = replace(full, transformer=full.transformer | BLOCKS)
    with torch.device("meta"):  # no initial values
        transformer, vae = transformer_and_vae(model, shape)
    for network in (transformer, vae):
        _fill_with_zeros(network, dtype, plan.situation.hardware.device)
    pipeline = getattr(diffusers, model.pipeline_class)(
        scheduler=scheduler_of(model),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _fill_with_zeros(network: nn.Module, dtype: torch.dtype, device: str) -> None:
    nn.Module.to(network, dtype)  # diffusers' own warns of networks that are float32 in part
    network.to_empty(device=device).eval().requires_grad_(False)
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.zero_()


def _generate(checkpoint: Checkpoint, plan: Plan, dtype: torch.dtype) -> None:
    """Apply what kernels depend on to a stand-in, and generate an image of the plan in one step."""
    pipeline, shape = _stand_in(checkpoint, plan, dtype), checkpoint.architecture
    situation, weight = plan.situation, pipeline.transformer.proj_out.weight
    request = situation.request
    arguments = call_arguments(
        replace(request, num_inference_steps=1, batch_size=1), situation.model.takes_image
    )
    arguments |= dict(
        prompt=None,
        prompt_embeds=weight.new_zeros(
            (request.batch_size, request.max_sequence_length, shape.t5["d_model"])
        ),
        pooled_prompt_embeds=weight.new_zeros((request.batch_size, shape.clip["hidden_size"])),
        output_type="pt",
    )
    shaping = tuple(o for o in plan.optimizations if o.axis in SHAPING)
    build = apply_plan(pipeline, Plan(optimizations=shaping, situation=situation))
    try:
        pipeline(**arguments)
    finally:
        build.undo.close()
