"""The prompts that correctness tests run, and the images that a pipeline generates for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fluxfast.mini.world import Edit, Scene, edits, scenes
from fluxfast.models.arguments import call_arguments, input_image, scene_image
from fluxfast.models.spec import ImageRequest
from fluxfast.models.weights import Checkpoint
from fluxfast.pipeline.build import BuiltPipeline

if TYPE_CHECKING:
    from PIL.Image import Image

SEED = 700
# For weights of the published shape: a subject, a count, a text, a relation, a style.
TEXTS = (
    "a tabby cat asleep on a windowsill in the morning sun",
    "three red apples and a green pear in a wooden bowl",
    'a shop sign that reads "OPEN LATE", photographed at night in the rain',
    "a bicycle leaning against a yellow wall, left of a blue door",
    "an etching of a lighthouse in a storm",
    "a portrait of an old fisherman with a grey beard, studio light",
    "an aerial view of terraced rice fields at dusk",
    "a paper crane on top of a stack of books",
)
INSTRUCTIONS = ("make the disc green", "remove the disc", "make it a pencil drawing", "add a cat")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One image to generate.

    Attributes:
        text: the caption, or Kontext's instruction.
        seed: the seed of the initial noise.
        image: Kontext's input image; None for a text-to-image model.
        expected: the scene or edit that the image must show, where `fluxfast.mini.reader` can
            check it; None for weights of the published shape.
    """

    text: str
    seed: int
    image: Image | None = None
    expected: Scene | Edit | None = None


@dataclass(frozen=True, kw_only=True)
class GeneratedImages:
    """Images and their final latents, on the CPU in float32.

    Attributes:
        images: [N, 3, H, W] in [0, 1].
        latents: [N, T, 64], where T is the number of image tokens.
    """

    images: Tensor
    latents: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def only(self, rows: slice) -> GeneratedImages:
        """Return the images and latents of these rows."""
        return GeneratedImages(images=self.images[rows], latents=self.latents[rows])


def prompts_for(checkpoint: Checkpoint, count: int, height: int, width: int) -> list[Prompt]:
    """Return `count` prompts: held-out scenes or edits on mini weights, fixed texts on others."""
    takes_image, seeds = checkpoint.model.takes_image, range(SEED, SEED + count)
    if checkpoint.is_mini and takes_image:
        return [
            Prompt(
                text=edit.instruction,
                seed=seed,
                image=scene_image(edit.before, width, height),
                expected=edit,
            )
            for seed, edit in zip(seeds, islice(edits(SEED, held_out=True), count), strict=True)
        ]
    if checkpoint.is_mini:
        held_out = islice(scenes(SEED, held_out=True), count)
        return [
            Prompt(text=scene.caption, seed=seed, expected=scene)
            for seed, scene in zip(seeds, held_out, strict=True)
        ]
    texts = INSTRUCTIONS if takes_image else TEXTS
    card = input_image(None, width, height) if takes_image else None
    return [Prompt(text=texts[i % len(texts)], seed=s, image=card) for i, s in enumerate(seeds)]


def own_prompts(request: ImageRequest, takes_image: bool, count: int) -> list[Prompt]:
    """Return the prompt of a case of one's own, with `count` seeds; Kontext edits a test card."""
    card = input_image(None, request.width, request.height) if takes_image else None
    seeds = range(SEED, SEED + count)
    return [Prompt(text=request.prompt, seed=seed, image=card) for seed in seeds]


def generate_images(built: BuiltPipeline, prompts: Sequence[Prompt]) -> GeneratedImages:
    """Generate the prompts in batches of the request's size, each image from its own seed."""
    size = built.request.batch_size
    parts = [_generate_batch(built, prompts[i : i + size]) for i in range(0, len(prompts), size)]
    return GeneratedImages(
        images=torch.cat([part.images for part in parts]),
        latents=torch.cat([part.latents for part in parts]),
    )


def prompt_arguments(prompts: Sequence[Prompt], takes_image: bool) -> dict[str, Any]:
    """Return the arguments of a pipeline call that belong to the prompts of a batch."""
    arguments: dict[str, Any] = dict(
        prompt=[prompt.text for prompt in prompts],
        generator=[torch.Generator().manual_seed(prompt.seed) for prompt in prompts],
        num_images_per_prompt=1,
    )
    if takes_image:
        arguments["image"] = [prompt.image for prompt in prompts]
    return arguments


def _generate_batch(built: BuiltPipeline, prompts: Sequence[Prompt]) -> GeneratedImages:
    takes_image = built.plan.situation.model.takes_image
    arguments = call_arguments(built.request, takes_image) | prompt_arguments(prompts, takes_image)
    last: dict[str, Tensor] = {}

    def keep(pipeline: Any, step: int, timestep: Any, values: dict[str, Tensor]) -> dict[str, Any]:
        last.update(values)
        return {}

    images = built.pipeline(**arguments, output_type="pt", callback_on_step_end=keep).images
    return GeneratedImages(images=images.float().cpu(), latents=last["latents"].float().cpu())
