"""Score the mini family on captions and edits that are held out of training.

`python -m training.score` generates images, reads them, counts, and writes MODEL_CARD.md to the
folder of the weights. Decisions that depend on scores use another seed (`--seed`), which writes no
card.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fluxfast.console import Console, quiet_libraries
from fluxfast.files import write_atomically
from fluxfast.mini.reader import follows, read, shows, sizes_and_background_agree
from fluxfast.mini.render import render_scenes
from fluxfast.mini.world import Scene, edits, scenes
from fluxfast.models.architecture import MINI
from fluxfast.models.spec import DEV, KONTEXT, SCHNELL, ModelSpec

COUNT = 256
SEED = 9_000  # of the model card's captions and noise
CHOICES = 16
SIDE = 256
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Score:
    """One line of the model card.

    Attributes:
        name: what was scored.
        goal: the least value that is accepted; 0 for none.
        right: images that were right, of `total`.
        total: images that were scored.
        decibels: the PSNR in dB, instead of `right` and `total`.
    """

    name: str
    goal: float
    right: int | None = None
    total: int | None = None
    decibels: float | None = None

    @property
    def value(self) -> float:
        if self.decibels is not None:
            return self.decibels
        assert self.right is not None and self.total is not None
        return self.right / self.total

    @property
    def reached(self) -> bool:
        return self.value >= self.goal

    def cells(self) -> tuple[str, str, str]:
        if self.decibels is not None:
            return f"{self.decibels:.1f} dB", "", f"{self.goal:.0f} dB"
        from scipy.stats import binomtest

        interval = binomtest(self.right, self.total).proportion_ci(method="wilson")
        return (
            f"{self.value:.1%} ({self.right} of {self.total})",
            f"{interval.low:.1%} to {interval.high:.1%}",
            f"{self.goal:.0%}" if self.goal else "–",
        )


def score(weights: Path, device: str, seed: int, console: Console) -> list[Score]:
    """Return every score of the family in `weights`; `seed` is that of captions and noise."""
    sampled = list(islice(scenes(seed, held_out=True), COUNT))
    changed = list(islice(edits(seed, held_out=True), COUNT))
    console.stage("the reader, on rendered scenes")
    truth = [shows(read(p), s) for p, s in zip(_rendered(sampled), sampled, strict=True)]
    scores = [
        Score(name="the reader, on rendered scenes", goal=0.99, right=sum(truth), total=COUNT)
    ]
    console.stage("the VAE")
    scores.append(_autoencoder(weights, sampled, device))
    console.stage("mini-clip")
    scores.append(_clip(weights, sampled, seed))
    for model, goal in ((DEV, 0.9), (SCHNELL, 0.8)):
        scores += _text_to_image(weights, model, sampled, goal, device, seed, console)
    generated = _generate_all(
        weights,
        KONTEXT,
        [edit.instruction for edit in changed],
        device,
        seed,
        console,
        images=_rendered([edit.before for edit in changed]),
    )
    done = [follows(read(p), edit) for p, edit in zip(generated, changed, strict=True)]
    name = "mini-kontext: the edit is done and nothing else changed"
    return [*scores, Score(name=name, goal=0.8, right=sum(done), total=COUNT)]


def _rendered(of: Sequence[Scene]) -> list[Any]:
    return [_bytes(render_scenes([scene], SIDE)[0]) for scene in of]


def _bytes(image: Tensor) -> Any:
    """Return an image [3, H, W] in [0, 1] as uint8 [H, W, 3]."""
    scaled = (image.float().clamp(0, 1) * 255).round().byte()
    return scaled.permute(1, 2, 0).cpu().numpy()


@torch.no_grad()
def _autoencoder(weights: Path, of: Sequence[Scene], device: str) -> Score:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(weights / "mini-dev" / "vae").to(device)
    decibels = []
    for begin in range(0, len(of), BATCH):
        image = render_scenes(of[begin : begin + BATCH], SIDE).to(device) * 2 - 1
        again = vae.decode(vae.encode(image).latent_dist.mean).sample.clamp(-1, 1)
        error = ((again - image) / 2).square().mean(dim=(1, 2, 3))
        decibels += (-10 * error.log10()).tolist()
    return Score(name="VAE: PSNR", goal=32.0, decibels=float(np.mean(decibels)))


def _clip(weights: Path, of: Sequence[Scene], seed: int) -> Score:
    """Score how often the right caption is the nearest of 16, with 15 captions of other scenes."""
    from fluxfast.quality.clip import image_features, mini_clip, text_features

    clip, random = mini_clip(weights / "mini-clip"), Random(seed)
    image_vectors = image_features(
        [torch.from_numpy(p).permute(2, 0, 1) for p in _rendered(of)], clip
    )
    vectors = text_features([scene.caption for scene in of], clip)
    right = 0
    for row, scene in enumerate(of):
        others = [i for i, other in enumerate(of) if other.caption != scene.caption]
        choices = [row, *random.sample(others, CHOICES - 1)]
        right += int((vectors[choices] @ image_vectors[row]).argmax()) == 0
    name = f"mini-clip: the right caption of {CHOICES}"
    return Score(name=name, goal=0.95, right=right, total=len(of))


def _text_to_image(
    weights: Path,
    model: ModelSpec,
    of: Sequence[Scene],
    goal: float,
    device: str,
    seed: int,
    console: Console,
) -> list[Score]:
    generated = _generate_all(
        weights, model, [scene.caption for scene in of], device, seed, console
    )
    readings = [read(image) for image in generated]
    right = [shows(reading, scene) for reading, scene in zip(readings, of, strict=True)]
    in_full = [
        ok and sizes_and_background_agree(reading, scene)
        for ok, reading, scene in zip(right, readings, of, strict=True)
    ]
    name = f"mini-{model.name}: shapes, colours and relations"
    return [
        Score(name=name, goal=goal, right=sum(right), total=len(of)),
        Score(name=f"{name}, sizes and background", goal=0.0, right=sum(in_full), total=len(of)),
    ]


def _generate_all(
    weights: Path,
    model: ModelSpec,
    prompts: Sequence[str],
    device: str,
    seed: int,
    console: Console,
    images: Sequence[Any] | None = None,
) -> Iterator[Any]:
    """Yield images [H, W, 3] of the prompts at the model's settings, each from its own seed."""
    import diffusers
    from PIL import Image

    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    folder = weights / f"mini-{model.name}"
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=dtype).to(device)
    pipeline.set_progress_bar_config(disable=True)
    since = time.monotonic()
    for begin in range(0, len(prompts), BATCH):
        console.progress(f"mini-{model.name}: images", begin, len(prompts), since)
        part = slice(begin, begin + BATCH)
        more: dict[str, Any] = {}
        if images is not None:
            given = [Image.fromarray(image) for image in images[part]]
            more = dict(image=given, _auto_resize=False, max_area=SIDE * SIDE)
        sampled = pipeline(
            prompt=list(prompts[part]),
            height=SIDE,
            width=SIDE,
            num_inference_steps=model.num_inference_steps,
            guidance_scale=model.guidance_scale,
            max_sequence_length=MINI.max_text_tokens,
            generator=[
                torch.Generator().manual_seed(seed + begin + i) for i in range(len(prompts[part]))
            ],
            output_type="pt",
            **more,
        ).images
        yield from (_bytes(image) for image in sampled)


def card(scores: Sequence[Score], training: str, machine: str) -> str:
    """Return the model card in Markdown."""
    rows = "\n".join(
        f"| {s.name} | {' | '.join(s.cells())} | {'yes' if s.reached else 'NO'} |" for s in scores
    )
    template = (Path(__file__).parent / "card.md").read_text()
    return template.format(rows=rows, training=training, machine=machine, count=COUNT, seed=SEED)


def main() -> None:
    from fluxfast.mini import WEIGHTS

    parser = argparse.ArgumentParser(prog="python -m training.score", description=__doc__)
    parser.add_argument(
        "--weights",
        type=Path,
        default=WEIGHTS,
        help="folder of the family (default: the shipped one)",
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="torch device (default: a GPU if there is one)",
    )
    parser.add_argument(
        "--seed", type=int, default=SEED, help="seed of captions and noise (default: %(default)s)"
    )
    arguments = parser.parse_args()
    quiet_libraries()
    console, started = Console(), time.monotonic()
    with torch.no_grad():
        scores = score(arguments.weights, arguments.device, arguments.seed, console)
    if arguments.seed == SEED:
        write_atomically(arguments.weights / "MODEL_CARD.md", _card_of(scores, arguments))
    for line in scores:
        console.print(f"{line.name}: {line.cells()[0]}{'' if line.reached else '  below its goal'}")
    console.stage(f"scored in {time.monotonic() - started:.0f} s")


def _card_of(scores: Sequence[Score], arguments: argparse.Namespace) -> str:
    on_gpu = arguments.device.startswith("cuda")
    machine = torch.cuda.get_device_name() if on_gpu else f"a CPU ({platform.machine()})"
    record = arguments.weights / "training.json"
    training = _training(json.loads(record.read_text())) if record.exists() else ""
    return card(scores, training, f"{machine}, torch {torch.__version__}")


def _training(parts: Sequence[dict[str, Any]]) -> str:
    """Describe a training of one run, or of several that each resumed the last."""
    runs = (
        f"{part['minutes']:.1f} minutes on one {part['machine']} (torch {part['torch']})"
        for part in parts
    )
    return f"These weights took {', then '.join(runs)}, from seed {parts[0]['seed']}."


if __name__ == "__main__":
    main()
