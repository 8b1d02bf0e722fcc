"""The mini world, its reader, its default prompts, and the training program (a tiny recipe)."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from random import Random

import pytest
import torch
from diffusers import DiffusionPipeline

from fluxfast.console import Console
from fluxfast.errors import TrainingError
from fluxfast.hardware import detect
from fluxfast.mini import WEIGHTS
from fluxfast.mini.reader import follows, read, shows, sizes_and_background_agree
from fluxfast.mini.render import NO_SHAPE, render_scenes
from fluxfast.mini.tokenizers import t5_tokenizer
from fluxfast.mini.world import (
    BACKGROUNDS,
    CELLS,
    COLOURS,
    DEFAULT_EDIT,
    DEFAULT_SCENE,
    RELATIONS,
    SHAPES,
    edits,
    is_held_out,
    scenes,
)
from fluxfast.models.architecture import MINI
from fluxfast.models.arguments import call_arguments
from fluxfast.models.loading import load
from fluxfast.models.spec import DEFAULT_PROMPT, MODELS
from fluxfast.models.weights import resolve
from tests.support.machines import H200
from training.__main__ import train
from training.contrastive import near_misses
from training.data import scene_images, token_ids
from training.flow import Conditions, velocity
from training.labels import caption_places, label
from training.loop import Run, fit
from training.reading import EDIT_TARGETS, edit_targets, noun_positions
from training.recipe import TINY, Stage

SIDE = 128


def images(of):
    return [(p * 255).round().byte().permute(1, 2, 0).numpy() for p in render_scenes(of, SIDE)]


def test_a_seed_defines_a_data_set_without_held_out_captions():
    trained = [s.caption for s in islice(scenes(1, held_out=False), 300)]
    assert trained == [s.caption for s in islice(scenes(1, held_out=False), 300)]
    kept = [s.caption for s in islice(scenes(1, held_out=True), 50)]
    assert not set(trained) & set(kept)
    assert all(map(is_held_out, kept)) and not any(map(is_held_out, trained))


def test_a_caption_describes_its_scene():
    for scene in islice(scenes(2, held_out=False), 200):
        first, *others = scene.things
        for how, other in zip(scene.relations, others, strict=True):
            x, y = RELATIONS[how]
            assert (other.x - first.x) * x + (other.y - first.y) * y > 0.17
            assert f"{how} a {other.name}" in scene.caption


def test_the_reader_reads_rendered_scenes():
    sampled = list(islice(scenes(3, held_out=True), 60))
    for scene, image in zip(sampled, images(sampled), strict=True):
        reading = read(image)
        assert shows(reading, scene) and sizes_and_background_agree(reading, scene), scene.caption


def test_the_reader_distinguishes_done_and_missing_edits():
    changed = list(islice(edits(3, held_out=True), 40))
    before, after = (images([getattr(e, which) for e in changed]) for which in ("before", "after"))
    assert all(follows(read(p), e) for p, e in zip(after, changed, strict=True))
    assert not any(follows(read(p), e) for p, e in zip(before, changed, strict=True))


def test_the_reader_rejects_other_scenes_and_empty_images():
    sampled = list(islice(scenes(4, held_out=True), 40))
    readings = [read(p) for p in images(sampled)]
    assert not any(shows(r, s) for r, s in zip(readings, sampled[1:] + sampled[:1], strict=True))
    grey = torch.full((SIDE, SIDE, 3), 128, dtype=torch.uint8).numpy()
    assert not read(grey).things
    noise = torch.randint(0, 255, (SIDE, SIDE, 3), dtype=torch.uint8).numpy()
    assert not any(shows(read(noise), scene) for scene in sampled)


def reading_of_default_image(model):
    """Generate the default request of a mini model and read the image."""
    here = detect("cpu")
    checkpoint = resolve(model, "mini", here)
    pipeline = load(checkpoint, dtype=torch.float32, hardware=here)
    arguments = call_arguments(checkpoint.request(), checkpoint.model.takes_image)
    with torch.no_grad():
        image = pipeline(**arguments, output_type="pt").images[0]
    return read((image * 255).round().byte().permute(1, 2, 0).numpy())


def test_default_prompts_are_held_out_captions_and_instructions_of_the_world():
    assert is_held_out(DEFAULT_SCENE.caption)
    assert is_held_out(f"{DEFAULT_EDIT.before.caption}: {DEFAULT_EDIT.instruction}")
    requests = {m: resolve(m, "mini", detect("cpu")).request() for m in MODELS}
    assert {requests[m].prompt for m in ("dev", "schnell")} == {DEFAULT_SCENE.caption}
    assert requests["kontext"].prompt == DEFAULT_EDIT.instruction
    assert requests["kontext"].scene == DEFAULT_EDIT.before
    given = resolve("dev", "mini", detect("cpu")).request(prompt="a boat", seed=3, height=None)
    assert (given.prompt, given.seed, given.height) == ("a boat", 3, MINI.default_side)
    assert resolve("dev", "synthetic", H200).request().prompt == DEFAULT_PROMPT


@pytest.mark.slow
def test_the_default_images_of_mini_weights_show_their_prompts():
    assert shows(reading_of_default_image("schnell"), DEFAULT_SCENE)
    assert shows(reading_of_default_image("dev"), DEFAULT_SCENE)
    assert follows(reading_of_default_image("kontext"), DEFAULT_EDIT)


def test_near_misses_are_wrong_captions():
    for scene in islice(scenes(5, held_out=False), 50):
        assert scene.caption not in near_misses(scene, Random(0))


def test_labels_match_the_scene():
    sampled = list(islice(scenes(6, held_out=False), 50))
    labels = label(scene_images(sampled, "cpu"), caption_places(sampled), CELLS)
    colours = [*COLOURS, *BACKGROUNDS]
    for row, scene in enumerate(sampled):
        labelled = {
            (SHAPES[shape], colours[colour])
            for shape, colour in zip(labels.shape[row], labels.colour[row], strict=True)
            if shape < NO_SHAPE
        }
        assert labelled == {(thing.shape, thing.colour) for thing in scene.things}
        bare = labels.shape[row] == NO_SHAPE
        assert {colours[colour] for colour in labels.colour[row][bare]} == {scene.background}
        # Every covered token lies where the caption lets a thing be, so its weight is raised.
        assert (labels.weight[row][~bare] > 1).all()


def test_text_targets_match_captions_and_instructions():
    words = t5_tokenizer(
        [s.caption for s in islice(scenes(6, held_out=False), 200)], MINI.max_text_tokens
    )
    sampled = list(islice(scenes(7, held_out=False), 50))
    ids = token_ids(words, [s.caption for s in sampled], MINI.max_text_tokens, "cpu")
    positions, named = noun_positions(ids, words)
    for row, scene in enumerate(sampled):
        read_there = words.convert_ids_to_tokens(ids[row, positions[row, named[row]]])
        assert read_there == [f"▁{thing.shape}" for thing in scene.things]
    targets = {
        "make the circle green": ("circle", "the", "green"),
        "turn the red square into a ring": ("square", "red", "ring"),
        "make the background grey": ("background", "the", "grey"),
        "remove the blue star": ("star", "blue", "nothing"),
    }
    for instruction, expected in targets.items():
        numbers = edit_targets(instruction)
        assert tuple(kind[n] for kind, n in zip(EDIT_TARGETS, numbers, strict=True)) == expected


def test_interrupted_training_resumes_with_equal_weights(tmp_path):
    stage = Stage(iterations=6, batch_size=1, learning_rate=0.1, warmup=1)

    def trained(folder: Path, stops_after: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 1)
        run = Run(folder=folder, device="cpu", seed=0, console=Console())
        folder.mkdir(exist_ok=True)

        def loss(iteration: int, generator: torch.Generator) -> torch.Tensor:
            if iteration == stops_after:
                raise KeyboardInterrupt
            return network(torch.randn(4, 3, generator=generator)).square().mean()

        fit("stage", {"network": network}, loss, stage, run)
        return network.weight.detach()

    whole = trained(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", 3)
    torch.testing.assert_close(trained(tmp_path / "parts", None), whole)


def test_a_nan_loss_stops_training_and_is_not_saved(tmp_path):
    network = torch.nn.Linear(3, 1)
    run = Run(folder=tmp_path, device="cpu", seed=0, console=Console())
    stage = Stage(iterations=2, batch_size=1, learning_rate=0.1, warmup=1)

    def loss(iteration: int, generator: torch.Generator) -> torch.Tensor:
        return network(torch.full((1, 3), float("nan") if iteration else 1.0)).mean()

    with pytest.raises(TrainingError, match="a loss of nan after 2 iterations"):
        fit("stage", {"network": network}, loss, stage, run)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> Path:
    """Return checkpoints of the tiny recipe: their images are noise, but every file is there."""
    work, weights = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("weights")
    train(TINY, Run(folder=work, device="cpu", seed=0, console=Console()), weights)
    return weights


@pytest.mark.parametrize("model", ["schnell", "dev", "kontext"])
def test_training_writes_checkpoints_in_the_published_layout(family, model):
    folder = family / f"mini-{model}"
    assert resolve(str(folder), "auto", detect("cpu")).model.name == model
    assert (folder / "vae").resolve() == (family / "mini-dev" / "vae").resolve()
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    assert pipeline.transformer.config.attention_head_dim == 128
    assert len(pipeline.tokenizer("a small red circle").input_ids) == 6
    assert len(pipeline.tokenizer_2("a small red circle").input_ids) == 5
    for part in ("scheduler/scheduler_config.json", "transformer/config.json"):
        files = (folder / part, WEIGHTS / folder.name / part)
        trained, shipped = (
            json.loads(f.read_text()) | {"_diffusers_version": "any"} for f in files
        )
        assert trained == shipped, part


def test_training_calls_the_transformer_as_the_pipeline_does(family):
    pipeline = DiffusionPipeline.from_pretrained(family / "mini-dev", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    calls = []
    pipeline.transformer.register_forward_hook(
        lambda module, args, given, out: calls.append((given, out[0])), with_kwargs=True
    )
    pipeline(
        "a small red circle on a white background",
        height=32,
        width=32,
        num_inference_steps=2,
        guidance_scale=3.0,
        max_sequence_length=MINI.max_text_tokens,
        output_type="latent",
    )
    given, output = calls[0]
    ids = pipeline.tokenizer_2(
        ["a small red circle on a white background"],
        padding="max_length",
        max_length=MINI.max_text_tokens,
        return_tensors="pt",
    ).input_ids
    with torch.no_grad():
        predicted = velocity(
            pipeline.transformer,
            given["hidden_states"],
            torch.ones(1),
            Conditions(
                states=pipeline.text_encoder_2(ids).last_hidden_state,
                pooled=given["pooled_projections"],
            ),
            torch.full((1,), 3.0),
        )
    torch.testing.assert_close(predicted, output)
