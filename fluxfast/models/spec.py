"""The kinds of Flux.1 models, and the request for images that a pipeline is called with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fluxfast.errors import FluxFastError
from fluxfast.mini.world import Scene

# The VAE halves each side three times and the transformer packs 2×2 latents into a token.
PIXELS_PER_TOKEN_SIDE = 16
MAX_GUIDANCE = 1000  # far more than any model takes: 3.5 is usual, Fill takes 30
# The integers of a request. The schedule was trained on 1000 steps; diffusers takes 512 T5 tokens
# and torch.Generator.manual_seed takes these seeds.
COUNTS = {
    "height": range(1, 2**20),
    "width": range(1, 2**20),
    "num_inference_steps": range(1, 1001),
    "batch_size": range(1, 2**20),
    "max_sequence_length": range(1, 513),
    "seed": range(-(2**63), 2**64),
}
# The pipelines that an ImageRequest describes a call of. The others need masks or other images.
REQUESTED_PIPELINES = ("FluxPipeline", "FluxKontextPipeline")
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
        """Return whether the model edits an input image (Kontext)."""
        return self.pipeline_class in KONTEXT_PIPELINES

    @property
    def is_few_step(self) -> bool:
        """Return whether the model is distilled to a few steps (schnell).

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


def check_requestable(model: ModelSpec) -> None:
    """Refuse a model whose pipeline needs more than an ImageRequest holds.

    Raises:
        FluxFastError: the pipeline needs a mask or another image.
    """
    if model.pipeline_class not in REQUESTED_PIPELINES:
        raise FluxFastError(
            "this pipeline needs more inputs than the options describe",
            got=model.pipeline_class,
            allowed=", ".join(REQUESTED_PIPELINES),
            remedy="call it from Python: fluxfast.optimize(pipeline)",
        )


DEFAULT_PROMPT = "A cat playing with a ball of yarn"


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """One call of a pipeline.

    Attributes:
        num_inference_steps: denoising steps, from 1 to 1000.
        guidance_scale: guidance, from 0 to 1000; ignored by a model without a guidance input.
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
            FluxFastError: a value is of a wrong type, or not possible.
        """
        for name, possible in COUNTS.items():
            value = getattr(self, name)
            span = f"an integer from {possible[0]} to {possible[-1]}"
            _check(name, value, type(value) is int and value in possible, span)
        for side in ("height", "width"):
            _check_side(side, getattr(self, side))
        guidance = self.guidance_scale
        allowed = f"a number from 0 to {MAX_GUIDANCE}"
        is_number = isinstance(guidance, int | float) and not isinstance(guidance, bool)
        _check("guidance_scale", guidance, is_number and 0 <= guidance <= MAX_GUIDANCE, allowed)
        is_text = isinstance(self.prompt, str) and not any(map(_is_surrogate, self.prompt))
        _check("prompt", ascii(self.prompt), is_text, "text in UTF-8")
        is_path = self.image_path is None or isinstance(self.image_path, Path)
        _check("image_path", repr(self.image_path), is_path, "a pathlib.Path")

    @property
    def image_tokens(self) -> int:
        """Latent tokens of the generated image (Kontext reads as many again as input)."""
        return (self.height // PIXELS_PER_TOKEN_SIDE) * (self.width // PIXELS_PER_TOKEN_SIDE)


def _is_surrogate(character: str) -> bool:
    """Return whether the character stands for a byte that is not UTF-8."""
    return "\ud800" <= character <= "\udfff"


def _check_side(side: str, pixels: int) -> None:
    if pixels < PIXELS_PER_TOKEN_SIDE or pixels % PIXELS_PER_TOKEN_SIDE:
        raise FluxFastError(
            f"this {side} is not a whole number of latent tokens",
            got=f"{pixels} pixels",
            allowed=f"a positive multiple of {PIXELS_PER_TOKEN_SIDE}",
            remedy=f"try {max(1, round(pixels / PIXELS_PER_TOKEN_SIDE)) * PIXELS_PER_TOKEN_SIDE}",
        )


def _check(name: str, value: object, is_possible: bool, allowed: str) -> None:
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
    return changed_request(request, changes)


def changed_request(request: ImageRequest, changes: Mapping[str, Any]) -> ImageRequest:
    """Return the request with changes to its fields; None is no change.

    Raises:
        FluxFastError: a field is unknown, or its value is not possible.
    """
    known = [field.name for field in fields(ImageRequest)]
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise FluxFastError(
            "unknown field of an image request",
            got=", ".join(unknown),
            allowed=", ".join(known),
            remedy="check the spelling",
        )
    return replace(request, **{k: v for k, v in changes.items() if v is not None})
