"""Inputs as people have them: what is not read of a prompt or an image is said, or refused."""

import dataclasses
import inspect
import os
import warnings
from contextlib import AbstractContextManager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from transformers import CLIPTokenizer, T5Tokenizer

from fluxfast.cli.main import main
from fluxfast.errors import FluxFastError
from fluxfast.mini import WEIGHTS
from fluxfast.models.architecture import MINI, PUBLISHED
from fluxfast.models.arguments import call_arguments, input_image, input_image_changes
from fluxfast.models.dropped_text import (
    DroppedTextWarning,
    dropped_text,
    warn_of_dropped_text,
)
from fluxfast.models.memory import check_images_fit
from fluxfast.models.spec import DEV, ImageRequest, default_request
from fluxfast.models.synthetic.pipeline import byte_tokenizer
from tests.support.machines import CPU, H200


@pytest.fixture(scope="module")
def tokenizers():
    """Return the tokenizers of a mini pipeline, without the pipeline."""
    return SimpleNamespace(
        tokenizer=CLIPTokenizer.from_pretrained(WEIGHTS / "mini-dev" / "tokenizer"),
        tokenizer_2=T5Tokenizer.from_pretrained(WEIGHTS / "mini-dev" / "tokenizer_2"),
    )


def test_a_prompt_that_fits_loses_nothing(tokenizers):
    assert dropped_text(tokenizers, "a large red circle", 32) == ()
    assert dropped_text(tokenizers, "", 32) == ()


def test_the_words_beyond_the_text_length_are_named(tokenizers):
    prompt = " ".join(["red"] * 31 + ["left", "of", "green"])
    (line,) = dropped_text(tokenizers, prompt, 32)
    assert line == "the prompt is longer than 32 tokens, not read: “left of green”"
    fitting = " ".join(["red"] * 31)
    assert dropped_text(tokenizers, fitting, 32) == ()


def test_words_that_only_clip_cuts_are_named(tokenizers):
    prompt = " ".join(["red"] * 75 + ["green"])
    (line,) = dropped_text(tokenizers, prompt, 512)
    assert "CLIP's 77 tokens" in line and "“green”" in line


def test_words_outside_the_vocabulary_are_named_once(tokenizers):
    (line,) = dropped_text(tokenizers, "a 猫 and a 猫 here", 512)
    assert line.startswith("not in the vocabulary") and line.count("猫") == 1
    assert "here" not in line


def test_a_call_warns_of_each_prompt_that_is_cut(tokenizers):
    class Pipeline(FluxPipeline):
        def __init__(self):
            self.__dict__.update(vars(tokenizers))

    def warn(*arguments, **keywords):
        pipeline = Pipeline()
        call = inspect.signature(pipeline.__call__).bind(*arguments, **keywords)
        call.apply_defaults()
        warn_of_dropped_text(pipeline, call.arguments)

    long = "red " * 40 + "green"
    with pytest.warns(DroppedTextWarning) as found:
        call = dict(negative_prompt=[long, "red"], max_sequence_length=32)
        warn(["red", "blue"], **call)
    assert [str(w.message).count("green") for w in found] == [1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn(prompt=long)  # 512 tokens by default
        warn(prompt_embeds=torch.zeros(1, 4, 8))
        both = dict(prompt="red", prompt_2=long, max_sequence_length=32)
    with pytest.warns(DroppedTextWarning, match="green"):
        warn(**both)


def test_a_long_rest_of_a_prompt_is_shortened_and_byte_tokenizers_work():
    synthetic = SimpleNamespace(
        tokenizer=byte_tokenizer(max_length=77, begins=True),
        tokenizer_2=byte_tokenizer(max_length=512, begins=False),
    )
    beyond_t5, beyond_clip = dropped_text(synthetic, "猫" * 1000, 512)
    assert len(beyond_t5) < 300 and "…" in beyond_t5 and "CLIP" in beyond_clip


def saved(tmp_path, image, **options):
    path = tmp_path / "image.png"
    image.save(path, **options)
    return path


def test_an_image_of_the_right_size_is_unchanged(tmp_path):
    path = saved(tmp_path, Image.effect_noise((32, 32), 50).convert("RGB"))
    assert input_image_changes(path, 32, 32) == ()
    assert np.array_equal(np.asarray(input_image(path, 32, 32)), np.asarray(Image.open(path)))


def test_what_is_scaled_and_cropped_is_said(tmp_path):
    wide = saved(tmp_path, Image.new("RGB", (512, 128)))
    scaled, cropped = input_image_changes(wide, 256, 256)
    assert scaled == "scaled from 512 × 128 to fill 256 × 256 pixels"
    assert cropped.startswith("75% of the width is cropped")
    (_, cropped) = input_image_changes(saved(tmp_path, Image.new("RGB", (50, 100))), 200, 100)
    assert cropped.startswith("75% of the height is cropped")


def test_transparent_parts_become_white_and_opaque_ones_stay(tmp_path):
    image = Image.new("RGBA", (16, 16), (200, 0, 0, 255))
    assert input_image_changes(saved(tmp_path, image), 16, 16) == ()
    image.putpixel((0, 0), (0, 0, 0, 0))
    path = saved(tmp_path, image)  # a changed file is read again
    assert input_image_changes(path, 16, 16) == ("transparent parts are composited on white",)
    shown = input_image(path, 16, 16)
    assert (shown.getpixel((0, 0)), shown.getpixel((5, 5))) == ((255, 255, 255), (200, 0, 0))


def test_sixteen_bits_are_rounded_and_not_cut_off(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    path = saved(tmp_path, Image.fromarray(ramp))
    assert input_image_changes(path, 16, 16) == ("16 bits are rounded to 8",)
    assert abs(np.asarray(input_image(path, 16, 16))[..., 0] - ramp / 257).max() <= 1


def test_a_colour_profile_is_applied_or_said_to_be_ignored(tmp_path):
    image = Image.new("RGB", (16, 16), (200, 100, 50))
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = saved(tmp_path, image, icc_profile=lab)
    assert input_image_changes(path, 16, 16) == ()
    damaged = saved(tmp_path, image, icc_profile=b"damaged").rename(tmp_path / "damaged.png")
    assert "profile cannot be used" in input_image_changes(damaged, 16, 16)[0]


def test_only_the_first_frame_is_used_and_said(tmp_path):
    path = tmp_path / "animation.gif"
    Image.new("RGB", (16, 16)).save(
        path, save_all=True, append_images=[Image.new("RGB", (16, 16), "red")]
    )
    assert input_image_changes(path, 16, 16) == ("the first of 2 frames is used",)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FluxFastError, match="not a file"):
        input_image(tmp_path / "pipe", 16, 16)


def test_images_that_cannot_be_decoded_in_memory_are_refused():
    check_images_fit(default_request(DEV, side=1024), PUBLISHED, H200)
    check_images_fit(default_request(DEV, side=4096), MINI, CPU)
    with pytest.raises(FluxFastError, match="do not fit in memory"):
        check_images_fit(default_request(DEV, side=16384), PUBLISHED, H200)
    with pytest.raises(FluxFastError, match="need more than"):
        check_images_fit(default_request(DEV, side=1024, batch_size=1000), PUBLISHED, H200)


NUMBERS = st.one_of(
    st.integers(-(2**66), 2**66), st.integers(-20, 2000), st.floats(), st.booleans(), st.text()
)
FIELDS = [field.name for field in dataclasses.fields(ImageRequest) if field.name != "scene"]


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.dictionaries(st.sampled_from([*FIELDS, "heigth"]), NUMBERS, max_size=3))
def test_any_value_of_a_request_is_refused_or_can_be_called_with(changes):
    try:
        request = default_request(DEV, side=64, **changes)
    except FluxFastError:
        return
    arguments = call_arguments(request, takes_image=False)
    assert arguments["height"] % 16 == arguments["width"] % 16 == 0
    assert 1 <= arguments["num_inference_steps"] <= 1000 and arguments["num_images_per_prompt"] >= 1
    assert torch.tensor(arguments["guidance_scale"] * 1000).isfinite()
    assert arguments["prompt"].encode() is not None


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--output-file", "x.xbm"], "unsuitable image format"),
        (["--output-file", "x.webp", "--resolution", "16400x16"], "limit of 16383 pixels"),
        (["--trace-file", "x.txt"], "unknown trace format"),
        (
            ["--compile_export_mode", "export_aoti", "--cache-dir", "/dev/null"],
            "cannot write this file",
        ),
        (["--num_inference_steps", "1000000000"], "this num_inference_steps is not possible"),
        (["--prompt", "caf\udce9"], "this prompt is not possible"),
        (["--batch_size", "100000"], "these images do not fit in memory"),
    ],
    ids=str,
)
def test_generate_refuses_before_it_loads(arguments, problem, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fluxfast.cli.pipeline_options.build", None)  # calling it would raise
    assert main(["generate", "--ckpt", "mini-dev", "--device", "cpu", *arguments]) == 2
    assert problem in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_generate_prints_what_it_does_not_use(tokenizers, tmp_path, monkeypatch, capsys):
    class Built(AbstractContextManager):
        def __init__(self, checkpoint, plan, **_):
            self.pipeline, self.request = tokenizers, plan.situation.request

        def __exit__(self, *_):
            raise FluxFastError("stop here", got="", allowed="", remedy="")

    monkeypatch.setattr("fluxfast.cli.pipeline_options.build", Built)
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path, Image.new("RGB", (512, 128)))
    prompt = "red " * 40 + "green"
    arguments = ["--ckpt", "mini-kontext", "--image", str(path), "--prompt", prompt]
    assert main(["generate", "--device", "cpu", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("prompt: ") and line.endswith("green”") for line in lines)
    assert "input image: scaled from 512 × 128 to fill 256 × 256 pixels" in lines
    assert any(line.startswith("input image: 75% of the width is cropped") for line in lines)
