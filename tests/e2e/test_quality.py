"""Image-quality metrics, budgets, defects, goldens and comparison sheets."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
import torch

from fluxfast.errors import FluxFastError
from fluxfast.mini.render import render_scenes
from fluxfast.mini.world import scenes
from fluxfast.pytest_plugin.quality_tables import Measured, quality_tables
from fluxfast.quality.budget import read_budgets, unmeasured, violations
from fluxfast.quality.figures import IMAGE_METRICS
from fluxfast.quality.golden import golden_error, golden_path, write_golden
from fluxfast.quality.metrics import Quality, compare_images, image_defects, shows_expected
from fluxfast.quality.prompts import GeneratedImages, Prompt
from fluxfast.quality.sheet import write_sheet
from fluxfast.quality.step_golden import check_step_golden, has_step_goldens, write_step_golden

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
def prompts() -> list[Prompt]:
    return [
        Prompt(text=scene.caption, seed=seed, expected=scene)
        for seed, scene in enumerate(islice(scenes(11, held_out=True), 4))
    ]


@pytest.fixture
def generated(prompts) -> GeneratedImages:
    """Return rendered images of the prompts' scenes, with random latents."""
    generator = torch.Generator().manual_seed(0)
    return GeneratedImages(
        images=render_scenes([prompt.expected for prompt in prompts], 128),
        latents=torch.randn(4, 16, 64, generator=generator),
    )


def test_images_compared_with_themselves_are_identical(generated, prompts):
    quality = compare_images(generated, generated, prompts)
    assert quality.figure("latent_relative_error") == 0
    assert quality.figure("latent_cosine") == pytest.approx(1)
    assert quality.figure("psnr_db") == float("inf")
    assert quality.figure("ssim") == pytest.approx(1, abs=0.003)
    assert quality.figure("scenes_lost") == 0


def test_a_copied_image_lowers_every_metric(generated, prompts):
    copied = replace(
        generated, images=generated.images[[0, 0, 2, 3]], latents=generated.latents[[0, 0, 2, 3]]
    )
    quality = compare_images(copied, generated, prompts)
    assert quality.figure("latent_relative_error") > 1
    assert quality.figure("psnr_db") < 25
    assert quality.figure("scenes_lost") == 1
    assert shows_expected(copied, prompts) == [True, False, True, True]


def test_psnr_of_a_known_difference(generated, prompts):
    noisy = replace(generated, images=generated.images * 0 + 0.5)
    grey = replace(generated, images=generated.images * 0 + 0.6)
    assert compare_images(noisy, grey, prompts).figure("psnr_db") == pytest.approx(20, abs=0.01)


@pytest.mark.parametrize(
    ("value", "defect"), [(float("nan"), "NaN"), (0.0, "black"), (0.7, "flat")]
)
def test_defects_name_the_image(generated, value, defect):
    images = generated.images.clone()
    images[2] = value
    assert [defect in found for found in image_defects(replace(generated, images=images))] == [True]
    assert "image 2" in image_defects(replace(generated, images=images))[0]
    assert not image_defects(generated)


def test_a_case_has_the_loosest_budget_of_its_optimizations(tmp_path):
    path = tmp_path / "budgets.yaml"
    path.write_text(BUDGETS)
    budgets = read_budgets(path, "cpu")
    assert budgets.of((), "dev") == {"latent_relative_error": 0.001, "psnr_db": 60}
    assert budgets.of(("sdpa",), "dev") == budgets.of((), "dev")
    assert budgets.of(("sdpa", "int8"), "dev") == {"latent_relative_error": 0.1, "psnr_db": 40}
    assert budgets.of(("sdpa", "int8"), "schnell")["psnr_db"] == 45
    with pytest.raises(FluxFastError, match=r"(?s)lossy.*got.*fa3_fp8 on .*--record"):
        budgets.of(("sdpa", "fa3_fp8"), "dev")


def test_a_violation_reports_both_numbers():
    quality = Quality(values={"psnr_db": (61.0, 38.5), "latent_relative_error": (0.01, 0.02)})
    bounds = {"psnr_db": 40.0, "latent_relative_error": 0.1, "ssim": 0.9}
    assert violations(quality, bounds) == ["psnr_db 38.5 dB, at least 40"]
    (line,) = unmeasured(quality, {"psnr_db": 40, "lpips": 0.1}, IMAGE_METRICS)
    assert line.startswith("lpips has a bound")  # LPIPS needs weights that may not be there


@pytest.mark.parametrize(
    ("text", "hardware", "message"),
    [
        (BUDGETS, "nvidia-h100", "no image-quality budgets"),
        (BUDGETS.replace("psnr_db", "psnr"), "cpu", "psnr"),
        (BUDGETS.replace("    from: a test\n", ""), "cpu", "no `from`"),
    ],
)
def test_an_unusable_budget_is_an_error_with_the_reason(tmp_path, text, hardware, message):
    path = tmp_path / "budgets.yaml"
    path.write_text(text)
    with pytest.raises(FluxFastError, match=message):
        read_budgets(path, hardware)


def test_a_sheet_has_a_row_of_images_and_differences_for_each_optimization(tmp_path, generated):
    from PIL import Image

    darker = replace(generated, images=generated.images * 0.9)
    write_sheet(tmp_path / "sheet.png", {"int8": darker}, generated)
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size == (2 * 4 * 128, 2 * 128)
        same, changed = ((4 * 128 + 300, top + 100) for top in (0, 128))
        assert image.getpixel(same) == (128, 128, 128) != image.getpixel(changed)


def test_a_golden_detects_changed_latents(tmp_path, generated):
    path = golden_path(tmp_path, "cpu", "a-case")
    with pytest.raises(FluxFastError, match="no golden"):
        golden_error(path, generated.latents)
    write_golden(path, generated.latents)
    assert golden_error(path, generated.latents) < 3e-4
    assert golden_error(path, generated.latents * 1.01) == pytest.approx(0.01, rel=0.05)
    with pytest.raises(FluxFastError, match="another request"):
        golden_error(path, generated.latents[:, :8])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FluxFastError, match="no golden"):
        golden_error(path, generated.latents)


def test_a_step_error_may_not_move_by_ten_percent_in_either_direction(tmp_path):
    def quality(step, decoder=0.0):
        return Quality(
            values={
                "step_error_mean": (step / 2, step * 1.5),
                "prompt_error": (0.0, 0.0),
                "decoder_error": (decoder,),
            }
        )

    assert not has_step_goldens(tmp_path)
    write_step_golden(tmp_path, "other", quality(0.5))
    write_step_golden(tmp_path, "a-case", quality(0.02))
    assert not check_step_golden(tmp_path, "a-case", quality(0.0215, decoder=1e-5))
    for moved, change in ((0.0225, "+12%"), (0.0175, "-12%")):
        (problem,) = check_step_golden(tmp_path, "a-case", quality(moved))
        assert f"({change})" in problem and "either direction" in problem and "--record" in problem
    (problem,) = check_step_golden(tmp_path, "a-case", quality(0.02, decoder=0.01))
    assert "none before" in problem
    for wrong in (float("nan"), float("inf")):
        assert check_step_golden(tmp_path, "a-case", quality(wrong))
        with pytest.raises(FluxFastError, match="not finite"):  # the file would be unreadable
            write_step_golden(tmp_path, "b-case", quality(wrong))
    assert not check_step_golden(tmp_path, "a-case", quality(0.02))
    with pytest.raises(FluxFastError, match="no golden of its step error"):
        check_step_golden(tmp_path, "new-case", quality(0.02))
    for damaged in ("{", "[]", '{"a-case": {"step_error": "0"}}', '{"a-case": {"a": NaN}}'):
        (tmp_path / "step_errors.json").write_text(damaged)
        with pytest.raises(FluxFastError, match="goldens of step errors cannot be read"):
            check_step_golden(tmp_path, "a-case", quality(0.02))


def test_the_table_of_step_errors_has_configurations_and_models():
    rows = [
        Measured(model=model, label="int8", forced={"step_error": errors}, shown={})
        for model, errors in (("dev", [0.01, 0.02]), ("schnell", [0.03, 0.03]))
    ]
    rows.append(Measured(model="dev", label="sdpa", forced={}, shown={"psnr_db": "91.2"}))
    broken = {"step_error": [0.01, float("nan")], "error_ratio": [1.0, float("nan")]}
    rows.append(Measured(model="dev", label="broken", forced=broken, shown={}))
    steps, images = quality_tables(rows).values()
    assert "0.01–0.02" in steps and "0.03" in steps and "sdpa" not in steps
    assert steps.count("nan") == 2  # people copy budgets from this table
    assert "dev, sdpa" in images and "int8" not in images
