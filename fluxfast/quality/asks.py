"""What pipelines are asked to draw so that their pictures can be compared, and what they drew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fluxfast.mini.render import draw as draw_scenes
from fluxfast.mini.world import Edit, Scene, edits, scenes
from fluxfast.models.arguments import call_arguments, input_image
from fluxfast.models.weights import Checkpoint, WeightsKind
from fluxfast.pipeline.build import BuiltPipeline

if TYPE_CHECKING:
    from PIL.Image import Image

SEED = 700
# For weights of the published shape: a subject, a count, a text, a relation, a style.
PROMPTS = (
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
class Ask:
    """One picture that is asked for; `expected` is what it should show, where a reader can tell."""

    prompt: str
    seed: int
    image: Image | None = None
    expected: Scene | Edit | None = None


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What a pipeline drew: images [N, 3, H, W] in [0, 1] and their latents [N, T, 64], on the CPU
    in float32."""

    images: Tensor
    latents: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def only(self, rows: slice) -> Drawing:
        return Drawing(images=self.images[rows], latents=self.latents[rows])


def asks_of(checkpoint: Checkpoint, count: int, height: int, width: int) -> list[Ask]:
    """`count` asks: held-out scenes and edits for the mini family, plain prompts for the others."""
    takes_image, is_mini = checkpoint.model.takes_image, checkpoint.kind is WeightsKind.MINI
    seeds = range(SEED, SEED + count)
    if is_mini and takes_image:
        return [
            Ask(
                prompt=edit.instruction,
                seed=seed,
                image=_picture(edit.before, height, width),
                expected=edit,
            )
            for seed, edit in zip(seeds, islice(edits(SEED, held_out=True), count), strict=True)
        ]
    if is_mini:
        drawn = islice(scenes(SEED, held_out=True), count)
        return [
            Ask(prompt=s.caption, seed=seed, expected=s)
            for seed, s in zip(seeds, drawn, strict=True)
        ]
    prompts = INSTRUCTIONS if takes_image else PROMPTS
    card = input_image(None, width, height) if takes_image else None
    return [Ask(prompt=prompts[i % len(prompts)], seed=s, image=card) for i, s in enumerate(seeds)]


def _picture(scene: Scene, height: int, width: int) -> Image:
    """The scene as a square picture, cropped to the size."""
    from PIL import Image as images
    from PIL import ImageOps

    pixels = draw_scenes([scene], max(height, width))[0].permute(1, 2, 0)
    return ImageOps.fit(images.fromarray((pixels * 255).round().byte().numpy()), (width, height))


def draw(built: BuiltPipeline, asks: Sequence[Ask]) -> Drawing:
    """The asks drawn in batches of the request's size, each from its own seed."""
    size = built.request.batch_size
    parts = [_draw_batch(built, asks[i : i + size]) for i in range(0, len(asks), size)]
    return Drawing(
        images=torch.cat([part.images for part in parts]),
        latents=torch.cat([part.latents for part in parts]),
    )


def _draw_batch(built: BuiltPipeline, asks: Sequence[Ask]) -> Drawing:
    takes_image = built.plan.situation.model.takes_image
    arguments = call_arguments(built.request, takes_image) | dict(
        prompt=[ask.prompt for ask in asks],
        generator=[torch.Generator().manual_seed(ask.seed) for ask in asks],
        num_images_per_prompt=1,
    )
    if takes_image:
        arguments["image"] = [ask.image for ask in asks]
    last: dict[str, Tensor] = {}

    def keep(pipeline: Any, step: int, timestep: Any, values: dict[str, Tensor]) -> dict[str, Any]:
        last.update(values)
        return {}

    images = built.pipeline(**arguments, output_type="pt", callback_on_step_end=keep).images
    return Drawing(images=images.float().cpu(), latents=last["latents"].float().cpu())
