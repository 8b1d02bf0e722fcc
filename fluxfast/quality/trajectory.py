"""Teacher forcing: record what a pipeline computes at each step, and feed it to another pipeline.

A denoising trajectory amplifies rounding, so two correct pipelines may end in different images. The
output of one step, of the text encoders or of the decoder for *the same input* has no such
amplification: it repeats, and a difference of one percent is visible.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fluxfast.models.arguments import call_arguments
from fluxfast.models.spec import ImageRequest
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Plan
from fluxfast.pipeline.applied import on_device
from fluxfast.pipeline.build import BuiltPipeline
from fluxfast.quality.prompts import Prompt, prompt_arguments

STEPS = 4  # compared per trajectory: steps 0, 9, 18 and 27 of 28
GUIDANCE = "guidance"  # the only floating-point input that pipelines keep in float32
OF_STEP = ("hidden_states", "timestep")  # the inputs that change from step to step


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The results of the networks for the inputs of a trajectory, on the CPU.

    Attributes:
        steps: by index, the transformer's output [N, T, 64] for the image that is generated.
        prompt: the embeddings of the prompts, [N, L, D] of T5 and [N, D] of CLIP.
        decoded: the decoder's output [N, 3, H, W] before it is limited to [0, 1].
    """

    steps: Mapping[int, Tensor]
    prompt: tuple[Tensor, ...]
    decoded: Tensor


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One call of the reference pipeline: inputs and outputs of the transformer, final latents.

    Attributes:
        prompts: the prompts, one batch.
        height: pixels.
        width: pixels.
        max_sequence_length: length of the T5 embeddings.
        schedule: the scheduler's timesteps [steps], from 1000 to 0.
        latents: by step, the transformer's input [N, T, 64]; Kontext's with its input image.
        fixed: the other keyword arguments of the transformer, in the pipeline's order.
        final: the latents [N, T, 64] that are decoded.
        outputs: the outputs of the reference pipeline.
    """

    prompts: tuple[Prompt, ...]
    height: int
    width: int
    max_sequence_length: int
    schedule: Tensor
    latents: tuple[Tensor, ...]
    fixed: Mapping[str, Any]
    final: Tensor
    outputs: Outputs

    @property
    def compared(self) -> tuple[int, ...]:
        """The indices of the compared steps, evenly spaced from the first to the last."""
        last, count = len(self.latents) - 1, min(STEPS, len(self.latents))
        return tuple(round(i * last / max(count - 1, 1)) for i in range(count))


@torch.no_grad()
def record(built: BuiltPipeline, request: ImageRequest, prompts: Sequence[Prompt]) -> Trajectory:
    """Generate the prompts in one batch and return the trajectory.

    Args:
        built: the reference pipeline; it computes every step.
        request: size, number of steps and guidance.
        prompts: the batch.
    """
    pipeline = built.pipeline
    takes_image = built.plan.situation.model.takes_image
    calls = list[dict[str, Any]]()
    results = list[Tensor]()

    def keep(module: Any, _: Any, keywords: Mapping[str, Any], output: Any) -> None:
        calls.append({name: _on_cpu(value) for name, value in keywords.items()})
        results.append(output[0].cpu())

    arguments = call_arguments(request, takes_image) | prompt_arguments(prompts, takes_image)
    with pipeline.transformer.register_forward_hook(keep, with_kwargs=True):
        final = built.applied(**arguments, output_type="latent").images
    sizes = dict(height=request.height, width=request.width)
    return Trajectory(
        prompts=tuple(prompts),
        **sizes,
        max_sequence_length=request.max_sequence_length,
        schedule=pipeline.scheduler.timesteps.cpu(),
        latents=tuple(call["hidden_states"] for call in calls),
        fixed=calls[0],
        final=final.cpu(),
        outputs=Outputs(
            steps={i: output[:, : final.shape[1]] for i, output in enumerate(results)},
            prompt=embedded(pipeline, [p.text for p in prompts], request.max_sequence_length),
            decoded=decoded(pipeline, final, **sizes).cpu(),
        ),
    )


def in_float32(pipeline: Any) -> Any:
    """Convert the networks of a pipeline to float32, in place: the same weights, exactly."""
    networks = (pipeline.transformer, pipeline.text_encoder, pipeline.text_encoder_2, pipeline.vae)
    for network in networks:
        torch.nn.Module.to(network, torch.float32)
    return pipeline


@torch.no_grad()
def replay(pipeline: Any, plan: Plan, trajectory: Trajectory) -> Outputs:
    """Feed the trajectory's inputs to a pipeline, and return what its networks compute.

    With a cache every step is computed, in order: a cached step takes its residuals from the steps
    before. Otherwise only the compared steps are.

    Args:
        pipeline: a pipeline for the trajectory's model and size.
        plan: the plan that was applied to it.
        trajectory: the inputs.
    """
    indices = range(len(trajectory.latents)) if plan.on(Axis.CACHE) else trajectory.compared
    with on_device(pipeline):
        steps = dict(forced_steps(pipeline, trajectory, indices))
        texts = [prompt.text for prompt in trajectory.prompts]
        prompt = embedded(pipeline, texts, trajectory.max_sequence_length)
        size = dict(height=trajectory.height, width=trajectory.width)
        image = decoded(pipeline, trajectory.final, **size).cpu()
    return Outputs(steps=steps, prompt=prompt, decoded=image)


def forced_steps(
    pipeline: Any, trajectory: Trajectory, indices: Collection[int]
) -> Iterator[tuple[int, Tensor]]:
    """Yield index and output of the transformer for the trajectory's input in each step."""
    transformer, device = pipeline.transformer, pipeline.device
    dtype = transformer.dtype
    # The same objects in every step: a table of modulation vectors is found by their identity.
    fixed = {name: _moved(name, value, device, dtype) for name, value in trajectory.fixed.items()}
    schedule = trajectory.schedule.to(device)
    with _scheduled(pipeline.scheduler, schedule):
        for index in indices:
            pipeline.scheduler._step_index = index
            latents = trajectory.latents[index].to(device, dtype)
            # The pipeline's own arithmetic: in bfloat16 another one gives another timestep.
            timestep = schedule[index].expand(latents.shape[0]).to(dtype) / 1000
            output = transformer(**(fixed | dict(hidden_states=latents, timestep=timestep)))
            yield index, output[0][:, : trajectory.final.shape[1]].cpu()


@contextmanager
def _scheduled(scheduler: Any, schedule: Tensor) -> Iterator[None]:
    """Let the scheduler be in a run with this schedule, as caches and tables look at it."""
    before = {
        name: scheduler.__dict__[name] for name in ("timesteps", "_step_index", "_begin_index")
    }
    scheduler.timesteps, scheduler._begin_index = schedule, 0
    try:
        yield
    finally:
        scheduler.__dict__.update(before)


def _moved(name: str, value: Any, device: Any, dtype: torch.dtype) -> Any:
    if not isinstance(value, Tensor):
        return value
    casts = value.is_floating_point() and name != GUIDANCE
    return value.to(device, dtype if casts else value.dtype)


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def embedded(pipeline: Any, texts: Sequence[str], length: int) -> tuple[Tensor, ...]:
    """Return the prompts' embeddings by T5, [N, length, D], and by CLIP, [N, D], on the CPU."""
    tokens, pooled, _ = pipeline.encode_prompt(
        prompt=list(texts), prompt_2=None, device=pipeline.device, max_sequence_length=length
    )
    return tokens.cpu(), pooled.cpu()


def decoded(pipeline: Any, latents: Tensor, *, height: int, width: int) -> Tensor:
    """Return the decoder's output [N, 3, H, W] for the packed latents [N, T, 64] of a pipeline."""
    vae = pipeline.vae
    latents = latents.to(pipeline.device, vae.dtype)
    unpacked = pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor)
    scaled = unpacked / vae.config.scaling_factor + vae.config.shift_factor
    image: Tensor = vae.decode(scaled, return_dict=False)[0]
    return image
