"""The figures of image quality, their budgets, and what no picture may be."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
import torch

from fluxfast.errors import FluxFastError
from fluxfast.mini.render import draw
from fluxfast.mini.world import scenes
from fluxfast.quality.asks import Ask, Drawing
from fluxfast.quality.budget import read_budgets, violations
from fluxfast.quality.golden import golden_error, golden_path, write_golden
from fluxfast.quality.metrics import Quality, compare, faults, scenes_right
from fluxfast.quality.sheet import write_sheet

BUDGETS = """
cpu:
  lossless:
    any: {latent_relative_error: 0.001, psnr_db: 60}
    from: a test
  int8:
    any: {latent_relative_error: 0.1, psnr_db: 45}
    dev: {psnr_db: 40}
    from: a test
"""


@pytest.fixture
def asked() -> list[Ask]:
    return [
        Ask(prompt=s.caption, seed=i, expected=s)
        for i, s in enumerate(islice(scenes(11, held_out=True), 4))
    ]


@pytest.fixture
def drawing(asked) -> Drawing:
    """Pictures that show what was asked for, and latents of any kind."""
    generator = torch.Generator().manual_seed(0)
    return Drawing(
        images=draw([ask.expected for ask in asked], 128),
        latents=torch.randn(4, 16, 64, generator=generator),
    )


def test_a_drawing_is_itself(drawing, asked):
    quality = compare(drawing, drawing, asked)
    assert quality.figure("latent_relative_error") == 0
    assert quality.figure("latent_cosine") == pytest.approx(1)
    assert quality.figure("psnr_db") == float("inf")
    assert quality.figure("ssim") == pytest.approx(1, abs=0.003)
    assert quality.figure("scenes_lost") == 0


def test_one_image_that_is_a_copy_of_another_shows_in_every_figure(drawing, asked):
    copied = replace(
        drawing, images=drawing.images[[0, 0, 2, 3]], latents=drawing.latents[[0, 0, 2, 3]]
    )
    quality = compare(copied, drawing, asked)
    assert quality.figure("latent_relative_error") > 1
    assert quality.figure("psnr_db") < 25
    assert quality.figure("scenes_lost") == 1
    assert scenes_right(copied, asked) == [True, False, True, True]


def test_psnr_is_the_known_one_for_known_noise(drawing, asked):
    noisy = replace(drawing, images=drawing.images * 0 + 0.5)
    grey = replace(drawing, images=drawing.images * 0 + 0.6)
    assert compare(noisy, grey, asked).figure("psnr_db") == pytest.approx(20, abs=0.01)


@pytest.mark.parametrize(
    ("value", "fault"), [(float("nan"), "no numbers"), (0.0, "black"), (0.7, "flat")]
)
def test_no_picture_may_be_empty(drawing, value, fault):
    images = drawing.images.clone()
    images[2] = value
    assert [fault in found for found in faults(replace(drawing, images=images))] == [True]
    assert "image 2" in faults(replace(drawing, images=images))[0]
    assert not faults(drawing)


def test_a_case_has_the_loosest_budget_of_its_optimizations(tmp_path):
    path = tmp_path / "budgets.yaml"
    path.write_text(BUDGETS)
    budgets = read_budgets(path, "cpu")
    assert budgets.of((), "dev") == {"latent_relative_error": 0.001, "psnr_db": 60}
    assert budgets.of(("sdpa",), "dev") == budgets.of((), "dev")
    assert budgets.of(("sdpa", "int8"), "dev") == {"latent_relative_error": 0.1, "psnr_db": 40}
    assert budgets.of(("sdpa", "int8"), "schnell")["psnr_db"] == 45


def test_a_violation_has_both_numbers():
    quality = Quality(values={"psnr_db": (61.0, 38.5), "latent_relative_error": (0.01, 0.02)})
    bounds = {"psnr_db": 40.0, "latent_relative_error": 0.1, "ssim": 0.9}
    assert violations(quality, bounds) == ["psnr_db 38.5 dB, at least 40"]


@pytest.mark.parametrize(
    ("text", "hardware", "told"),
    [
        (BUDGETS, "nvidia-h100", "no budgets of image quality"),
        (BUDGETS.replace("psnr_db", "psnr"), "cpu", "psnr"),
        (BUDGETS.replace("    from: a test\n", ""), "cpu", "no `from`"),
    ],
)
def test_a_budget_that_cannot_be_used_says_why(tmp_path, text, hardware, told):
    path = tmp_path / "budgets.yaml"
    path.write_text(text)
    with pytest.raises(FluxFastError, match=told):
        read_budgets(path, hardware)


def test_a_sheet_has_a_line_of_pictures_and_differences_for_each_optimization(tmp_path, drawing):
    from PIL import Image

    darker = replace(drawing, images=drawing.images * 0.9)
    write_sheet(tmp_path / "sheet.png", {"int8": darker}, drawing)
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size == (2 * 4 * 128, 2 * 128)
        same, changed = ((4 * 128 + 300, top + 100) for top in (0, 128))
        assert image.getpixel(same) == (128, 128, 128) != image.getpixel(changed)


def test_a_golden_holds_a_case_to_what_it_drew(tmp_path, drawing):
    path = golden_path(tmp_path, "cpu", "a-case")
    with pytest.raises(FluxFastError, match="no golden"):
        golden_error(path, drawing.latents)
    write_golden(path, drawing.latents)
    assert golden_error(path, drawing.latents) < 3e-4
    assert golden_error(path, drawing.latents * 1.01) == pytest.approx(0.01, rel=0.05)
    with pytest.raises(FluxFastError, match="another request"):
        golden_error(path, drawing.latents[:, :8])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FluxFastError, match="no golden"):
        golden_error(path, drawing.latents)
