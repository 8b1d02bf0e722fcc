"""The three Flux.1 models, and the request that is made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fluxfast.errors import FluxFastError

# The VAE halves each side three times and the transformer packs 2×2 latents into a token.
PIXELS_PER_TOKEN_SIDE = 16


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One of the published models, with the settings of its model card.

    `pipeline_class` and `guidance_embeds` are how a loaded checkpoint is recognised.
    """

    name: str
    hub_id: str
    pipeline_class: str
    guidance_embeds: bool
    num_inference_steps: int
    max_sequence_length: int
    guidance_scale: float

    @property
    def takes_image(self) -> bool:
        return self.pipeline_class == "FluxKontextPipeline"

    @property
    def is_few_step(self) -> bool:
        """Distilled to a handful of steps, as schnell is: it has no guidance embedding."""
        return not self.guidance_embeds


SCHNELL = ModelSpec(
    name="schnell",
    hub_id="black-forest-labs/FLUX.1-schnell",
    pipeline_class="FluxPipeline",
    guidance_embeds=False,
    num_inference_steps=4,
    max_sequence_length=256,
    guidance_scale=0.0,
)
DEV = ModelSpec(
    name="dev",
    hub_id="black-forest-labs/FLUX.1-dev",
    pipeline_class="FluxPipeline",
    guidance_embeds=True,
    num_inference_steps=28,
    max_sequence_length=512,
    guidance_scale=3.5,
)
KONTEXT = ModelSpec(
    name="kontext",
    hub_id="black-forest-labs/FLUX.1-Kontext-dev",
    pipeline_class="FluxKontextPipeline",
    guidance_embeds=True,
    num_inference_steps=28,
    max_sequence_length=512,
    guidance_scale=2.5,
)
MODELS = {spec.name: spec for spec in (SCHNELL, DEV, KONTEXT)}


def model_named(name: str) -> ModelSpec:
    """The model of that name. Raises FluxFastError with the names there are."""
    if name not in MODELS:
        raise FluxFastError(
            "unknown model",
            got=name,
            allowed=", ".join(MODELS),
            remedy="name one of these; `fluxfast generate --ckpt` takes a checkpoint of your own",
        )
    return MODELS[name]


def recognise(pipeline_class: str, guidance_embeds: bool) -> ModelSpec:
    """The model that a checkpoint holds, by what it is rather than by what it is called."""
    for spec in MODELS.values():
        if (spec.pipeline_class, spec.guidance_embeds) == (pipeline_class, guidance_embeds):
            return spec
    raise FluxFastError(
        "this checkpoint is not a Flux.1 text-to-image or Kontext model",
        got=f"{pipeline_class} with guidance_embeds={guidance_embeds}",
        allowed="; ".join(
            f"{s.pipeline_class} with guidance_embeds={s.guidance_embeds}" for s in MODELS.values()
        ),
        remedy="give a checkpoint of FLUX.1-schnell, FLUX.1-dev or FLUX.1-Kontext-dev",
    )


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """What is asked of a pipeline; `image_path` is Kontext's input (None: a drawn test card)."""

    num_inference_steps: int
    guidance_scale: float
    max_sequence_length: int
    height: int
    width: int
    batch_size: int = 1
    prompt: str = "A cat playing with a ball of yarn"
    seed: int = 42
    image_path: Path | None = None

    def __post_init__(self) -> None:
        for side in ("height", "width"):
            pixels = getattr(self, side)
            if pixels < PIXELS_PER_TOKEN_SIDE or pixels % PIXELS_PER_TOKEN_SIDE:
                raise FluxFastError(
                    f"this {side} has no whole number of latent tokens",
                    got=f"{pixels} pixels",
                    allowed=f"a positive multiple of {PIXELS_PER_TOKEN_SIDE}",
                    remedy=f"try {max(1, round(pixels / PIXELS_PER_TOKEN_SIDE)) * 16}",
                )
        for count in ("num_inference_steps", "batch_size"):
            if getattr(self, count) < 1:
                raise FluxFastError(
                    f"{count} is too small",
                    got=getattr(self, count),
                    allowed="1 or more",
                    remedy=f"leave {count} out for the model's own",
                )

    @property
    def image_tokens(self) -> int:
        """Latent tokens of the image that is drawn (Kontext reads as many again as input)."""
        return (self.height // PIXELS_PER_TOKEN_SIDE) * (self.width // PIXELS_PER_TOKEN_SIDE)


def default_request(
    model: ModelSpec, *, side: int, max_text_tokens: int | None = None, **changes: Any
) -> ImageRequest:
    """The model card's request for a square of `side` pixels; None in `changes` is no change."""
    tokens = model.max_sequence_length
    request = ImageRequest(
        num_inference_steps=model.num_inference_steps,
        guidance_scale=model.guidance_scale,
        max_sequence_length=min(tokens, max_text_tokens) if max_text_tokens else tokens,
        height=side,
        width=side,
    )
    return replace(request, **{k: v for k, v in changes.items() if v is not None})
