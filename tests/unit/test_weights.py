"""Which weights are chosen, requests, input images, and the errors where they are unusable."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fluxfast.errors import CheckpointError, FluxFastError
from fluxfast.hardware import detect
from fluxfast.mini.reader import read, shows
from fluxfast.mini.world import DEFAULT_EDIT
from fluxfast.models.arguments import call_arguments, input_image, scene_image
from fluxfast.models.configuration import NETWORKS
from fluxfast.models.loading import load
from fluxfast.models.spec import (
    DEDISTILLED,
    DEV,
    KONTEXT,
    MODELS,
    SCHNELL,
    ImageRequest,
    default_request,
)
from fluxfast.models.weights import WeightsKind, resolve
from tests.support.machines import CPU, H200

NEEDED_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    *(f"{network}/config.json" for network in NETWORKS),
)


@pytest.fixture(scope="module")
def here():
    return detect("cpu")


@pytest.fixture(scope="module")
def folder(here, tmp_path_factory):
    """Return a checkpoint in diffusers layout, as a download has it."""
    path = tmp_path_factory.mktemp("checkpoint") / "my-flux"
    mini = resolve(Path("mini-dev"), "auto", here)
    load(mini, dtype=torch.float32, hardware=here).save_pretrained(path)
    return path


def change(config, **values):
    config.write_text(json.dumps(json.loads(config.read_text()) | values))


def generate(pipeline):
    return pipeline(
        "a boat",
        height=32,
        width=32,
        num_inference_steps=1,
        max_sequence_length=16,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images


@pytest.mark.parametrize("name", MODELS)
def test_a_mini_model_loads_equal_weights_each_time(name, here):
    checkpoint = resolve(f"mini-{name}", "auto", here)
    first, second = (load(checkpoint, dtype=torch.float32, hardware=here) for _ in range(2))
    assert type(first).__name__ == MODELS[name].pipeline_class
    weights = zip(first.transformer.parameters(), second.transformer.parameters(), strict=True)
    assert all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in weights)


@pytest.mark.slow
def test_prompt_and_seed_change_a_mini_image(here):
    pipeline = load(resolve("mini-dev", "auto", here), dtype=torch.float32, hardware=here)
    arguments = dict(height=256, width=256, num_inference_steps=4, output_type="pt")

    def image(text, seed):
        return pipeline(text, generator=torch.Generator().manual_seed(seed), **arguments).images

    prompt = "a large red circle left of a small blue square on a white background"
    reference = image(prompt, 0)
    assert reference.isfinite().all() and reference.std() > 0.05
    for other in (image("a large green star on a black background", 0), image(prompt, 1)):
        assert (other - reference).abs().mean() > 0.02


def test_a_local_folder_is_recognised_by_its_content(folder, here):
    checkpoint = resolve(str(folder), "auto", here)
    assert checkpoint.model == DEV and checkpoint.kind is WeightsKind.HUB
    loaded = generate(load(checkpoint, dtype=torch.float32, hardware=here))
    shipped = generate(load(resolve("mini-dev", "auto", here), dtype=torch.float32, hardware=here))
    assert torch.allclose(
        loaded, shipped, atol=1e-4
    )  # files are memory-mapped: another alignment, another rounding


def test_the_model_is_recognised_by_its_configuration_not_its_name(folder, here, tmp_path):
    misnamed = tmp_path / "FLUX.1-dev"
    shutil.copytree(folder, misnamed)
    change(misnamed / "transformer" / "config.json", guidance_embeds=False)
    found = resolve(str(misnamed), "auto", here)
    assert found.model == DEDISTILLED and not found.model.is_few_step
    assert "use_dynamic_shifting" in found.why
    change(misnamed / "scheduler" / "scheduler_config.json", use_dynamic_shifting=False)
    assert resolve(str(misnamed), "auto", here).model == SCHNELL


def test_a_truncated_weights_file_is_named(folder, here, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    weights = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated file is the usual cause"):
        load(resolve(str(broken), "auto", here), dtype=torch.float32, hardware=here)


@pytest.mark.parametrize(
    "failure",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_failed_allocation_is_not_the_checkpoints_fault(failure, here, monkeypatch):
    def refuse(*arguments, **keywords):
        raise failure

    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", refuse)
    with pytest.raises(FluxFastError, match="out of memory") as error:
        load(resolve("mini-dev", "auto", here), dtype=torch.float32, hardware=here)
    assert type(error.value) is FluxFastError


def test_a_folder_that_is_no_checkpoint_is_refused(here, tmp_path):
    with pytest.raises(CheckpointError, match=r"model_index\.json"):
        resolve(str(tmp_path), "auto", here)


def test_a_checkpoint_of_another_family_is_refused(here, tmp_path):
    for file in NEEDED_FILES:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(FluxFastError, match="not a Flux"):
        resolve(str(tmp_path), "auto", here)


@pytest.mark.parametrize("name", ["flux2", "./nowhere", "mini-flux"])
def test_an_unknown_model_is_refused_with_the_known_ones(name, here):
    with pytest.raises(CheckpointError, match="schnell, dev, kontext"):
        resolve(name, "auto", here)


def test_auto_weights_follow_the_machine(monkeypatch):
    assert resolve("dev", "auto", CPU).kind is WeightsKind.MINI
    assert resolve(DEV.hub_id, "auto", H200).kind is WeightsKind.SYNTHETIC
    monkeypatch.setattr("fluxfast.models.weights.is_cached", lambda hub_id: True)
    assert resolve("kontext", "auto", H200).kind is WeightsKind.HUB
    with pytest.raises(FluxFastError, match="auto, hub, synthetic, synthetic_outliers"):
        resolve("dev", "random", CPU)


def test_synthetic_weights_that_do_not_fit_are_refused_before_loading():
    small = dataclasses.replace(CPU, memory_gib=16.0)
    with pytest.raises(FluxFastError, match="use --weights mini"):
        load(resolve("dev", "synthetic", small), dtype=torch.bfloat16, hardware=small)


def test_a_default_request_is_the_model_cards():
    assert default_request(SCHNELL, side=1024).num_inference_steps == 4
    assert default_request(DEV, side=1024).image_tokens == 4096
    kontext = default_request(KONTEXT, side=1024, guidance_scale=None, height=512)
    assert (kontext.guidance_scale, kontext.height, kontext.width) == (2.5, 512, 1024)


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 100},
        {"width": 0},
        {"batch_size": 0},
        {"num_inference_steps": 0},
        {"seed": 2**64},
        {"seed": -(2**63) - 1},
        {"guidance_scale": math.nan},
        {"guidance_scale": math.inf},
    ],
    ids=str,
)
def test_an_impossible_request_is_refused(wrong):
    with pytest.raises(FluxFastError, match="allowed"):
        default_request(DEV, side=1024, **wrong)
    assert ImageRequest.__dataclass_params__.frozen


def test_the_extreme_seeds_are_those_of_torch():
    for seed in (-(2**63), 2**64 - 1):
        request = default_request(DEV, side=32, seed=seed)
        assert call_arguments(request, takes_image=False)["generator"].initial_seed() % 2**64 == (
            seed % 2**64
        )


def save_with_damaged_exif(path):
    Image.new("RGB", (8, 8)).save(path, exif=b"Exif\0\0no TIFF header")


def save_whole(path):
    Image.effect_noise((64, 64), 50).save(path)


def save_truncated(path):
    save_whole(path)
    path.write_bytes(path.read_bytes()[:500])


@pytest.mark.parametrize(
    ("save", "max_pixels"),
    [(save_with_damaged_exif, 10**6), (save_truncated, 10**6), (save_whole, 1_000)],
    ids=["damaged EXIF", "truncated", "too large"],
)
def test_an_input_image_that_pillow_refuses_is_an_error(save, max_pixels, tmp_path, monkeypatch):
    """Pillow raises SyntaxError, OSError and, above twice its limit, DecompressionBombError."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", max_pixels)
    save(tmp_path / "image.png")
    with pytest.raises(FluxFastError, match="input image cannot be read"):
        input_image(tmp_path / "image.png", 32, 32)


def test_the_input_image_of_a_scene_shows_the_scene():
    image = np.asarray(scene_image(DEFAULT_EDIT.before, 256, 256))
    assert image.shape == (256, 256, 3)
    assert shows(read(image), DEFAULT_EDIT.before)
    assert scene_image(DEFAULT_EDIT.before, 64, 32).size == (64, 32)
