"""Measure how well synthetic weights are conditioned: rounding against changes that must show.

    python -m benchmarks.weights --out weights.json               # on an H200, about 6 minutes
    python -m benchmarks.weights --out /tmp/w.json --rehearse     # on a CPU, about 5 minutes
    python -m benchmarks.weights --table weights.json

For each profile the eager pipeline runs in bfloat16, then with the same weights in float32. The
relative L2 errors of the prompt embeddings, of single steps (with the inputs of the bfloat16 run),
of the final latents and of the decoder are compared with what another prompt, another seed and one
block's output × 0.98 change in bfloat16. `--rehearse` has the true depth at a small width.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import Record
from fluxfast.console import out, quiet_libraries
from fluxfast.hardware import detect, environment
from fluxfast.models.architecture import PUBLISHED, Architecture
from fluxfast.models.arguments import call_arguments
from fluxfast.models.spec import ImageRequest, ModelSpec, default_request, model_named
from fluxfast.models.synthetic.pipeline import assemble
from fluxfast.models.synthetic.profiles import Profile
from fluxfast.pipeline.applied import free_memory
from fluxfast.quality.trajectory import decoded, embedded

OTHER_PROMPT = "a bicycle leaning against a yellow wall, left of a blue door"
WEAKER = 0.98
# The published depth at a small width.
NARROW = Architecture(
    transformer=PUBLISHED.transformer
    | dict(num_attention_heads=2, joint_attention_dim=256, pooled_projection_dim=192),
    vae=dict(block_out_channels=(32, 32, 64, 64), layers_per_block=1, norm_num_groups=8),
    clip=PUBLISHED.clip
    | dict(vocab_size=512, hidden_size=192, intermediate_size=768, num_attention_heads=3),
    t5=PUBLISHED.t5 | dict(vocab_size=512, d_model=256, d_ff=640, num_heads=4),
    default_side=128,
    max_text_tokens=64,
)
NARROW_STEPS = 6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--ckpt", default="dev", help="dev or schnell (dev)")
    parser.add_argument("--profiles", nargs="*", default=[p.value for p in Profile])
    parser.add_argument("--rehearse", action="store_true", help="a small width, on a CPU")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of a file")
    options = parser.parse_args()
    if options.table:
        out("\n".join(table(json.loads(options.table.read_text()))))
        return 0
    quiet_libraries()
    hardware = detect("cpu" if options.rehearse else "cuda")
    record = Record(options.out, budget_s=1500)
    record.part("environment", lambda: environment(hardware))
    torch.set_grad_enabled(False)
    torch.backends.cudnn.allow_tf32 = False  # the reference has float32 throughout
    model, shape = model_named(options.ckpt), NARROW if options.rehearse else PUBLISHED
    request = default_request(model, side=shape.default_side, max_text_tokens=shape.max_text_tokens)
    if options.rehearse:
        request = replace(
            request, num_inference_steps=min(NARROW_STEPS, request.num_inference_steps)
        )
    for profile in map(Profile, options.profiles):
        record.part(profile, partial(conditioning, profile, model, request, hardware.device, shape))
        free_memory()
    return record.close()


def conditioning(
    profile: Profile, model: ModelSpec, request: ImageRequest, device: str, shape: Architecture
) -> dict[str, Any]:
    """Return relative errors of bfloat16 and relative changes, as {"errors": …, "changes": …}."""
    pipeline = assemble(model, torch.bfloat16, device, profile, shape)
    pipeline.set_progress_bar_config(disable=True)
    (inputs, latents), embeds = trajectory(pipeline, request), encoded(pipeline, request)
    steps = [step(pipeline, given) for given in inputs]
    changes = all_changes(pipeline, request, latents, list(zip(inputs, steps, strict=True)))
    size = dict(height=request.height, width=request.width)
    image = decoded(pipeline, latents, **size)
    pipeline.to(torch.float32)
    exact = encoded(pipeline, request)
    errors = {
        "prompt embeddings": relative(embeds[0], exact[0]),
        "pooled embeddings": relative(embeds[1], exact[1]),
        "steps": [
            relative(found, step(pipeline, given))
            for found, given in zip(steps, inputs, strict=True)
        ],
        "final latents": relative(latents, generated(pipeline, request)),
        "decoder": relative(image, decoded(pipeline, latents, **size)),
    }
    return {"errors": errors, "changes": changes}


def all_changes(
    pipeline: Any,
    request: ImageRequest,
    latents: Tensor,
    steps: Sequence[tuple[Mapping[str, Any], Tensor]],
) -> dict[str, Any]:
    """Return by change how far it moves the final latents and, of a weaker block, each step.

    Args:
        pipeline: the pipeline.
        request: the image.
        latents: its final latents.
        steps: inputs and output of the transformer in some steps.
    """
    prompt, seed = replace(request, prompt=OTHER_PROMPT), replace(request, seed=7)
    found: dict[str, Any] = {
        "another prompt": relative(generated(pipeline, prompt), latents),
        "another seed": relative(generated(pipeline, seed), latents),
    }
    for name in ("transformer_blocks", "single_transformer_blocks"):
        blocks = getattr(pipeline.transformer, name)
        with weakened(blocks[len(blocks) // 2]):
            found[f"{name} × {WEAKER}"] = relative(generated(pipeline, request), latents)
            found[f"{name} × {WEAKER}, steps"] = [
                relative(step(pipeline, inputs), before) for inputs, before in steps
            ]
    return found


def weakened(block: torch.nn.Module) -> Any:
    """Return a context in which every output of a block is smaller."""
    return block.register_forward_hook(
        lambda module, args, output: tuple(part * WEAKER for part in output)
    )


def trajectory(pipeline: Any, request: ImageRequest) -> tuple[list[dict[str, Any]], Tensor]:
    """Return the transformer's arguments in up to four steps, and the final latents."""
    calls: list[dict[str, Any]] = []

    def keep(module: Any, args: Any, arguments: dict[str, Any]) -> None:
        calls.append(arguments)

    with pipeline.transformer.register_forward_pre_hook(keep, with_kwargs=True):
        latents = generated(pipeline, request)
    last = len(calls) - 1
    return [calls[index] for index in sorted({0, last // 3, 2 * last // 3, last})], latents


def step(pipeline: Any, inputs: Mapping[str, Any]) -> Tensor:
    """Return the transformer's output for recorded inputs, in the dtype of its weights."""
    dtype, kept = pipeline.transformer.dtype, ("img_ids", "txt_ids")
    arguments = {
        name: value.to(dtype) if isinstance(value, Tensor) and name not in kept else value
        for name, value in inputs.items()
    }
    found: Tensor = pipeline.transformer(**arguments)[0]
    return found


def encoded(pipeline: Any, request: ImageRequest) -> tuple[Tensor, ...]:
    """Return the prompt embeddings of T5 and the pooled embedding of CLIP."""
    return embedded(pipeline, [request.prompt], request.max_sequence_length)


def generated(pipeline: Any, request: ImageRequest) -> Tensor:
    """Return the final latents [1, T, 64] of an image.

    The noise is the same in every dtype: PyTorch 2.11 draws other numbers where they are bfloat16.
    """
    arguments = call_arguments(request, takes_image=False)
    noise, _ = pipeline.prepare_latents(
        batch_size=1,
        num_channels_latents=pipeline.transformer.config.in_channels // 4,
        height=request.height,
        width=request.width,
        dtype=torch.float32,
        device=pipeline.device,
        generator=arguments["generator"],
    )
    noise = noise.bfloat16().to(pipeline.dtype)
    latents: Tensor = pipeline(**arguments, latents=noise, output_type="latent").images
    return latents


def relative(found: Tensor, reference: Tensor) -> float:
    """Return ‖found − reference‖ / ‖reference‖."""
    difference = found.float() - reference.float()
    return float(difference.norm() / reference.float().norm())


def table(parts: Mapping[str, Any]) -> list[str]:
    """Return a Markdown table with a column for each profile that was measured."""
    profiles = {name: parts[name] for name in map(str, Profile) if "errors" in parts.get(name, {})}
    lines = [f"| | {' | '.join(profiles)} |", "| --- " * (len(profiles) + 1) + "|"]
    for kind in ("errors", "changes"):
        for row in dict.fromkeys(row for part in profiles.values() for row in part[kind]):
            cells = [_percent(part[kind][row]) for part in profiles.values()]
            lines.append(f"| {row} | {' | '.join(cells)} |")
    return lines


def _percent(value: float | Sequence[float]) -> str:
    values = [value] if isinstance(value, float) else sorted({min(value), max(value)})
    return " to ".join(f"{100 * x:.2g}%" if x < 1 else f"{100 * x:.0f}%" for x in values)


if __name__ == "__main__":
    sys.exit(main())
