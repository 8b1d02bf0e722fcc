"""The kinds of Flux.1 models, and the request for images that a pipeline is called with."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fluxfast.errors import FluxFastError
from fluxfast.mini.world import Scene

# The VAE halves each side three times and the transformer packs 2×2 latents into a token.
PIXELS_PER_TOKEN_SIDE = 16
SEEDS = range(-(2**63), 2**64)  # what torch.Generator.manual_seed takes
KONTEXT_PIPELINES = ("FluxKontextPipeline", "FluxKontextInpaintPipeline")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A kind of Flux.1 model, with the settings of its model card.

    A checkpoint or pipeline is recognised by the structure of its transformer and its schedule, see
    `recognition`.

    Attributes:
        name: the name in options and case ids.
        hub_id: the repository on the Hugging Face hub; empty where no published model is meant.
        pipeline_class: the name of the diffusers pipeline.
        guidance_embeds: whether the transformer takes the guidance scale as an input.
        use_dynamic_shifting: whether the schedule shifts with the resolution.
        num_inference_steps: denoising steps of the model card.
        max_sequence_length: T5 tokens that the text is padded to.
        guidance_scale: guidance of the model card; 0 where the model has none.
    """

    name: str
    hub_id: str
    pipeline_class: str
    guidance_embeds: bool
    use_dynamic_shifting: bool
    num_inference_steps: int
    max_sequence_length: int
    guidance_scale: float

    @property
    def takes_image(self) -> bool:
        """Whether the model edits an input image (Kontext)."""
        return self.pipeline_class in KONTEXT_PIPELINES

    @property
    def is_few_step(self) -> bool:
        """Whether the model is distilled to a few steps (schnell).

        Such a model has no guidance input, and its schedule does not shift with the resolution.
        """
        return not self.guidance_embeds and not self.use_dynamic_shifting


SCHNELL = ModelSpec(
    name="schnell",
    hub_id="black-forest-labs/FLUX.1-schnell",
    pipeline_class="FluxPipeline",
    guidance_embeds=False,
    use_dynamic_shifting=False,
    num_inference_steps=4,
    max_sequence_length=256,
    guidance_scale=0.0,
)
DEV = ModelSpec(
    name="dev",
    hub_id="black-forest-labs/FLUX.1-dev",
    pipeline_class="FluxPipeline",
    guidance_embeds=True,
    use_dynamic_shifting=True,
    num_inference_steps=28,
    max_sequence_length=512,
    guidance_scale=3.5,
)
KONTEXT = ModelSpec(
    name="kontext",
    hub_id="black-forest-labs/FLUX.1-Kontext-dev",
    pipeline_class="FluxKontextPipeline",
    guidance_embeds=True,
    use_dynamic_shifting=True,
    num_inference_steps=28,
    max_sequence_length=512,
    guidance_scale=2.5,
)
# A model without a guidance input whose steps were not distilled: a fine-tune that removed them.
DEDISTILLED = ModelSpec(
    name="dedistilled",
    hub_id="",
    pipeline_class="FluxPipeline",
    guidance_embeds=False,
    use_dynamic_shifting=True,
    num_inference_steps=28,
    max_sequence_length=512,
    guidance_scale=0.0,
)
# The published models, which the matrices contain.
MODELS = {spec.name: spec for spec in (SCHNELL, DEV, KONTEXT)}


def model_named(name: str) -> ModelSpec:
    """Return the model of that name.

    Raises:
        FluxFastError: there is none; the error lists the names.
    """
    if name not in MODELS:
        raise FluxFastError(
            "unknown model",
            got=name,
            allowed=", ".join(MODELS),
            remedy="choose one of these; `fluxfast generate --ckpt` also takes other checkpoints",
        )
    return MODELS[name]


DEFAULT_PROMPT = "A cat playing with a ball of yarn"


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """One call of a pipeline.

    Attributes:
        num_inference_steps: denoising steps, 1 or more.
        guidance_scale: guidance, a finite number; ignored by a model without a guidance input.
        max_sequence_length: T5 tokens that the text is padded to.
        height: pixels, a multiple of 16.
        width: pixels, a multiple of 16.
        batch_size: images of the prompt in one call.
        prompt: the caption, or Kontext's instruction.
        seed: seed of the initial noise.
        image_path: Kontext's input image; None for the rendered `scene` or the test card.
        scene: the scene of the mini world that is rendered as Kontext's input image where there is
            no `image_path`; None for the test card.
    """

    num_inference_steps: int
    guidance_scale: float
    max_sequence_length: int
    height: int
    width: int
    batch_size: int = 1
    prompt: str = DEFAULT_PROMPT
    seed: int = 42
    image_path: Path | None = None
    scene: Scene | None = None

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            FluxFastError: a size, count, seed or guidance scale is not possible.
        """
        for side in ("height", "width"):
            _check_side(side, getattr(self, side))
        for count in ("num_inference_steps", "batch_size"):
            _check(count, getattr(self, count), getattr(self, count) >= 1, "1 or more")
        seeds = "an integer from −2⁶³ to 2⁶⁴ − 1"
        _check("seed", self.seed, self.seed in SEEDS, seeds)
        finite = math.isfinite(self.guidance_scale)
        _check("guidance_scale", self.guidance_scale, finite, "a finite number")

    @property
    def image_tokens(self) -> int:
        """Latent tokens of the generated image (Kontext reads as many again as input)."""
        return (self.height // PIXELS_PER_TOKEN_SIDE) * (self.width // PIXELS_PER_TOKEN_SIDE)


def _check_side(side: str, pixels: int) -> None:
    if pixels < PIXELS_PER_TOKEN_SIDE or pixels % PIXELS_PER_TOKEN_SIDE:
        raise FluxFastError(
            f"this {side} is not a whole number of latent tokens",
            got=f"{pixels} pixels",
            allowed=f"a positive multiple of {PIXELS_PER_TOKEN_SIDE}",
            remedy=f"try {max(1, round(pixels / PIXELS_PER_TOKEN_SIDE)) * PIXELS_PER_TOKEN_SIDE}",
        )


def _check(name: str, value: float, is_possible: bool, allowed: str) -> None:
    if not is_possible:
        raise FluxFastError(
            f"this {name} is not possible",
            got=value,
            allowed=allowed,
            remedy=f"leave {name} out for the default",
        )


def default_request(
    model: ModelSpec, *, side: int, max_text_tokens: int | None = None, **changes: Any
) -> ImageRequest:
    """Return the model card's request for a square image.

    Args:
        model: the model.
        side: height and width in pixels.
        max_text_tokens: the longest text that the weights take; None for the model card's.
        **changes: fields of ImageRequest to change; None is no change.
    """
    tokens = model.max_sequence_length
    request = ImageRequest(
        num_inference_steps=model.num_inference_steps,
        guidance_scale=model.guidance_scale,
        max_sequence_length=min(tokens, max_text_tokens) if max_text_tokens else tokens,
        height=side,
        width=side,
    )
    return replace(request, **{k: v for k, v in changes.items() if v is not None})
