"""Train the mini family, stage by stage; an interrupted run resumes from its last save."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fluxfast.console import Console, quiet_libraries
from fluxfast.errors import TrainingError
from fluxfast.files import write_atomically
from fluxfast.mini.world import Edit
from fluxfast.models.spec import PIXELS_PER_TOKEN_SIDE
from training.loop import Run
from training.recipe import FULL, Recipe


def train(recipe: Recipe, run: Run, weights: Path) -> None:
    """Run every stage of the recipe, then write the checkpoints to `weights`."""
    from fluxfast.mini.tokenizers import clip_tokenizer, t5_tokenizer
    from fluxfast.models.architecture import MINI
    from training.autoencoder import encode, train_autoencoder
    from training.contrastive import train_contrastive
    from training.data import SceneImages, scene_images, training_edits, training_scenes
    from training.distil import distil_guidance, distil_steps
    from training.editing import learn_edits
    from training.flow import Examples, TextEncoders, pack, train_base
    from training.labels import caption_places, exact_places, label
    from training.reading import train_reading
    from training.ship import Family, ship

    run.console.stage("sampling scenes and edits")
    scenes = training_scenes(recipe.scenes, run.seed)
    more_edits = training_edits(recipe.more_edits, run.seed)
    edits = more_edits[: recipe.edits]
    captions = [scene.caption for scene in scenes]
    instructions = [edit.instruction for edit in edits]
    clip_words = clip_tokenizer(captions + instructions)
    t5_words = t5_tokenizer(captions + instructions, MINI.max_text_tokens)
    training_images = scene_images(scenes, run.device)

    vae = train_autoencoder(training_images, recipe, run)
    clip = train_contrastive(scenes, training_images, clip_words, recipe, run)

    t5 = train_reading(scenes, edits, t5_words, recipe, run)
    encoders = TextEncoders(clip=clip, clip_tokenizer=clip_words, t5=t5, t5_tokenizer=t5_words)

    run.console.stage("encoding images and texts")
    tokens_per_side = recipe.side // PIXELS_PER_TOKEN_SIDE

    def tokens(of: SceneImages) -> Tensor:
        return pack(encode(vae, of, recipe.side, run))

    captioned = Examples(
        tokens=tokens(training_images),
        conditions=encoders.encode(captions, run),
        labels=label(training_images, caption_places(scenes), tokens_per_side),
    )

    def edited_images(of: Sequence[Edit]) -> Examples:
        before = scene_images([edit.before for edit in of], run.device)
        after = scene_images([edit.after for edit in of], run.device)
        places = exact_places(before)
        return Examples(
            tokens=tokens(after),
            conditions=encoders.encode([edit.instruction for edit in of], run),
            labels=label(after, places, tokens_per_side).before(
                label(before, places, tokens_per_side)
            ),
            reference=tokens(before),
        )

    edited = edited_images(edits)
    empty = encoders.encode([""], run)

    base = train_base(captioned, edited, empty, recipe, run)
    dev = distil_guidance(base, captioned, edited, empty, recipe, run)
    schnell = distil_steps(dev, captioned, recipe, run)
    dev = learn_edits(dev, captioned, edited_images(more_edits), recipe, run)
    family = Family(
        vae=vae,
        text=encoders,
        transformers={"schnell": schnell, "dev": dev, "kontext": dev},
    )
    ship(family, weights)
    run.console.stage(f"the checkpoints are in {weights}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument(
        "--work", type=Path, help="folder for the saved stages (default: OUTPUT.work)"
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="torch device (default: a GPU if there is one)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of data and weights (default: 0)")
    arguments = parser.parse_args()
    quiet_libraries()
    work = arguments.work or arguments.output.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    # Teacher and students, two sequence lengths, with and without gradients.
    torch._dynamo.config.recompile_limit = 64
    # The default since 2.11; with a mask and 64 tokens its gradients can be NaN (pytorch#196678).
    torch.backends.cuda.enable_cudnn_sdp(False)
    console = Console()
    run = Run(folder=work, device=arguments.device, seed=arguments.seed, console=console)
    try:
        train(FULL, run, arguments.output)
    except TrainingError as error:
        raise SystemExit(f"error: {error}") from error
    minutes = (time.monotonic() - console.started) / 60
    _record(arguments.output, run, minutes)
    console.stage(f"done in {minutes:.1f} minutes")


def _record(weights: Path, run: Run, minutes: float) -> None:
    """Append this run to training.json, which the model card reads."""
    path = weights / "training.json"
    parts = json.loads(path.read_text()) if path.exists() else []
    machine = torch.cuda.get_device_name() if run.on_gpu else f"a CPU ({platform.machine()})"
    part = dict(minutes=minutes, machine=machine, torch=torch.__version__, seed=run.seed)
    write_atomically(path, json.dumps([*parts, part], indent=1) + "\n")


if __name__ == "__main__":
    main()
