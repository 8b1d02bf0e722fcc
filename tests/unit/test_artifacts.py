"""The artifacts that a run writes with a result, and its progress lines."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image
from torch._C._autograd import DeviceType

from fluxfast.bench.cases.planned import planned_case, situation_of
from fluxfast.bench.measurement.measure import Measurement
from fluxfast.bench.measurement.recording import record
from fluxfast.bench.results.artifacts import (
    category_times_ms,
    eager_image,
    figures_path,
    image_path,
    image_quality,
    psnr_text,
    read_figures,
    write_artifacts,
    write_missing_quality,
)
from fluxfast.files import write_atomically
from fluxfast.hardware import detect
from fluxfast.models.weights import resolve
from fluxfast.optimizations.base import ProfiledStep
from fluxfast.pipeline.build import build
from fluxfast.profiling.evidence import profiled_step
from fluxfast.pytest_plugin.comparing import ComparedRevisions
from fluxfast.pytest_plugin.options import Options
from fluxfast.pytest_plugin.progress import left_s, left_text
from fluxfast.pytest_plugin.session import Suite
from tests.support.results import case, result

EAGER, ALL_ON = case(optimizations=("bf16",)), case()


def image_of(*, noise=0, base=90) -> Image.Image:
    image = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    image.putpixel((5, 5), (base, 200, 10))
    return image.point(lambda value: min(255, value + noise))


@pytest.mark.slow
def test_quality_compares_images_and_identical_ones_have_no_psnr():
    same = image_quality(image_of(), image_of())
    assert same == {"psnr_db": None, "ssim": 1.0} and psnr_text(same) == "same"
    before, after = image_of().resize((64, 64)), image_of(noise=2).resize((64, 64))
    pixels = list(zip(before.tobytes(), after.tobytes(), strict=True))
    error = sum((a - b) ** 2 for a, b in pixels) / len(pixels)
    found = image_quality(after, before)
    assert found["psnr_db"] == pytest.approx(10 * math.log10(255**2 / error), abs=1e-3)
    assert 0.9 < found["ssim"] < 1 and psnr_text(found) == f"{found['psnr_db']:.1f}"


def planned_on_cpu():
    hardware = detect("cpu")
    checkpoint = resolve("schnell", "mini", hardware)
    changes = {"height": 64, "width": 64, "num_inference_steps": 1}
    return planned_case((), checkpoint, situation_of(checkpoint, hardware, **changes))


@pytest.mark.slow
def test_nan_is_rendered_black_and_two_black_images_are_not_equal():
    planned = planned_on_cpu()
    with build(planned.checkpoint, planned.plan) as built:
        built.pipeline.transformer.proj_out.weight.data.fill_(math.nan)
        (black,) = built.generate()
    assert image_quality(black, black) is None and psnr_text(None) == "–"
    assert image_quality(black, image_of().resize((64, 64)))["psnr_db"] < 15


def store(folder, of_case, image, eager=None):
    step = ProfiledStep(kernels={"nvjet": 1}, own_ms={"nvjet": 2.0})
    write_artifacts(folder, result(case=of_case, device_busy=0.8), step, image, eager)


def test_the_bottleneck_of_a_case_and_its_idle_time(tmp_path):
    at = {"environment": {"gpu": {"power_cap_w": 700.0}}}
    # Three images of 20 ms: the GPU counted its energy once, within the last.
    nothing, all_at_once = {"energy_j": 0.0}, {"energy_j": 14.0}
    telemetry = (nothing, nothing, all_at_once)
    busy = result(0.02, case=EAGER, device_busy=0.95, telemetry=telemetry, **at)
    waiting = replace(busy, device_busy=0.8)
    hot = replace(waiting, telemetry=(all_at_once,) * 3)
    silent = replace(waiting, telemetry=())
    assert [r.bottleneck for r in (busy, waiting, hot, silent)] == [
        "device",
        "launch",
        "power",
        "launch",
    ]
    step = ProfiledStep(kernels={"nvjet": 1}, own_ms={"nvjet": 2.0})
    for case_result, idle in ((waiting, 0.5), (hot, None)):
        write_artifacts(tmp_path, case_result, step, image_of(), None)
        assert read_figures(tmp_path, "kernels", EAGER).get("idle") == idle


def test_a_gpu_case_is_compared_only_with_the_eager_case_of_this_run(tmp_path):
    store(tmp_path, EAGER, image_of())
    assert eager_image(tmp_path, EAGER, [EAGER]) is None  # not with itself
    assert eager_image(tmp_path, ALL_ON, []) is None  # an image of an earlier run
    assert eager_image(tmp_path, case(height=512), [EAGER]) is None
    eager = eager_image(tmp_path, ALL_ON, [EAGER])
    assert eager.tobytes() == image_of().tobytes()
    store(tmp_path, ALL_ON, image_of(noise=3), eager)
    assert read_figures(tmp_path, "quality", ALL_ON)["psnr_db"] > 30

    write_atomically(figures_path(tmp_path, "verdicts", ALL_ON), '{"outcome": "slower"}')
    store(tmp_path, ALL_ON, image_of(noise=9))  # again, without the eager case
    assert read_figures(tmp_path, "quality", ALL_ON) is None
    assert read_figures(tmp_path, "verdicts", ALL_ON) is None
    write_missing_quality(tmp_path, [EAGER, ALL_ON])  # as --against does, when both exist
    assert 20 < read_figures(tmp_path, "quality", ALL_ON)["psnr_db"] < 40
    assert not list(tmp_path.rglob(".*"))


def measurement(of_case, image):
    return Measurement(
        result=result(case=of_case), step=ProfiledStep(), image=image, eager_image=None
    )


def suite_of(folder, **options):
    return Suite(config=None, options=Options(results=folder, baselines=folder, **options))


def test_a_gpu_run_compares_with_its_own_eager_image_also_with_against(tmp_path, monkeypatch):
    images = {EAGER: image_of(), ALL_ON: image_of(noise=3)}
    planned = {of_case: SimpleNamespace(case=of_case, role=None) for of_case in images}
    measured = []
    for of_case, image in images.items():
        record(tmp_path, measurement(of_case, image), measured)
        measured.append(of_case)
    suite = suite_of(tmp_path, against=None)
    assert suite.quality_of(planned[EAGER]) is None
    found = suite.quality_of(planned[ALL_ON])
    assert found["psnr_db"] > 30

    def compare_all(measuring, cases, references):
        for of_case in cases:  # each in a process of its own
            store(tmp_path / "B1", of_case, images[of_case])
        return ComparedRevisions(measured={of_case.id: result(case=of_case) for of_case in cases})

    monkeypatch.setattr("fluxfast.pytest_plugin.session.compare_all", compare_all)
    suite = suite_of(tmp_path, against="main", gpu="auto", rounds=None, seconds=1.0)
    suite.selected, suite.progress = tuple(planned.values()), SimpleNamespace(line=print)
    suite.compare(lambda: tmp_path)
    assert suite.failed == set()
    assert suite.quality_of(planned[EAGER]) is None
    assert suite.quality_of(planned[ALL_ON]) == found


def test_the_image_is_stored_without_loss(tmp_path):
    store(tmp_path, ALL_ON, image_of(noise=1))
    with Image.open(image_path(tmp_path, ALL_ON)) as kept:
        assert kept.tobytes() == image_of(noise=1).tobytes()
    path = figures_path(tmp_path, "kernels", ALL_ON)
    assert json.loads(path.read_text()) == {"GEMM": 2.0, "idle": 0.5}


def test_kernel_times_are_summed_by_category_and_waiting_is_idle():
    own_ms = {"nvjet_1": 4.0, "nvjet_2": 2.0, "flash_fwd": 1.0, "triton_poi_fused_mul": 1.0}
    step = ProfiledStep(kernels=dict.fromkeys(own_ms, 1), own_ms=own_ms)
    assert category_times_ms(step, 0.8) == {
        "GEMM": 6.0,
        "attention": 1.0,
        "other": 1.0,
        "idle": 2.0,
    }
    assert category_times_ms(ProfiledStep(), None) == {}


def operator(name, begin_ms, ms, thread=1):
    return SimpleNamespace(
        name=lambda: name,
        device_type=lambda: DeviceType.CPU,
        start_ns=lambda: begin_ms * 1e6,
        duration_ns=lambda: ms * 1e6,
        start_thread_id=lambda: thread,
        is_user_annotation=lambda: False,
    )


def test_an_operator_on_a_cpu_counts_its_own_time_only():
    step = profiled_step(
        [
            operator("aten::linear", 0, 10),
            operator("aten::addmm", 1, 8),
            operator("aten::copy_", 2, 3),
            operator("aten::addmm", 2, 4, thread=2),
        ]
    )
    assert step.own_ms == {"aten::linear": 2.0, "aten::addmm": 9.0, "aten::copy_": 3.0}
    assert step.kernel_ms == 0.0  # there is no device
    assert category_times_ms(step, None) == {"GEMM": 11.0, "copy": 3.0}


def test_the_time_left_follows_the_finished_cases_and_is_never_negative():
    assert left_s([100.0], 160.0, after=5) is None  # nothing is known in the first case
    assert left_s([0.0, 60.0], 70.0, after=2) == 170.0
    assert left_s([0.0, 60.0, 80.0], 1000.0, after=0) == 0.0
    assert [left_text(s) for s in (None, 0.0, 40.0, 100.0, 1000.0)] == [
        *("", ", a few seconds left", ", about 40 s left"),
        *(", about 2 min left", ", about 17 min left"),
    ]
