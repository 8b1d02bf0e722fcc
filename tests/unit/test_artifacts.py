"""What a run writes beside a result, and what it says of itself while it goes on."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image
from torch._C._autograd import DeviceType

from fluxfast.bench.cases.planned import planned_case, situation_of
from fluxfast.bench.results.artifacts import (
    eager_picture,
    figures_path,
    kernels,
    picture_path,
    quality,
    read_figures,
    told,
    write_beside,
    write_quality,
)
from fluxfast.files import write_atomically
from fluxfast.hardware import detect
from fluxfast.models.weights import resolve
from fluxfast.optimizations.base import ProfiledStep
from fluxfast.pipeline.build import build
from fluxfast.profiling.evidence import profiled_step
from fluxfast.pytest_plugin.progress import left_s
from fluxfast.pytest_plugin.progress import told as time_left
from fluxfast.pytest_plugin.session import Suite
from tests.support.results import case, result

EAGER, ALL_ON = case(optimizations=("bf16",)), case()


def picture(*, noise=0, base=90) -> Image.Image:
    image = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    image.putpixel((5, 5), (base, 200, 10))
    return image.point(lambda value: min(255, value + noise))


def test_quality_is_of_the_pictures_and_the_same_is_no_number():
    same = quality(picture(), picture())
    assert same == {"psnr_db": None, "ssim": 1.0} and told(same) == "same"
    before, after = picture().resize((64, 64)), picture(noise=2).resize((64, 64))
    pixels = list(zip(before.tobytes(), after.tobytes(), strict=True))
    error = sum((a - b) ** 2 for a, b in pixels) / len(pixels)
    found = quality(after, before)
    assert found["psnr_db"] == pytest.approx(10 * math.log10(255**2 / error), abs=1e-3)
    assert 0.9 < found["ssim"] < 1 and told(found) == f"{found['psnr_db']:.1f}"


def planned_for_a_cpu():
    hardware = detect("cpu")
    checkpoint = resolve("schnell", "mini", hardware)
    changes = {"height": 64, "width": 64, "num_inference_steps": 1}
    return planned_case((), checkpoint, situation_of(checkpoint, hardware, **changes))


def test_what_is_not_a_number_is_drawn_black_and_two_of_those_are_not_alike():
    planned = planned_for_a_cpu()
    with build(planned.checkpoint, planned.plan) as built:
        built.pipeline.transformer.proj_out.weight.data.fill_(math.nan)
        (black,) = built.generate()
    assert quality(black, black) is None and told(None) == "–"
    assert quality(black, picture().resize((64, 64)))["psnr_db"] < 15


def store(folder, of_case, drawn, eager=None):
    step = ProfiledStep(kernels={"nvjet": 1}, own_ms={"nvjet": 2.0})
    write_beside(folder, result(case=of_case, device_busy=0.8), step, drawn, eager)


def test_what_bounds_a_case_and_what_then_is_idle(tmp_path):
    at = {"environment": {"gpu": {"power_cap_w": 700.0}}}
    # Three images of 20 ms: the GPU counted its energy once, within the last.
    nothing, all_at_once = {"energy_j": 0.0}, {"energy_j": 14.0}
    telemetry = (nothing, nothing, all_at_once)
    busy = result(0.02, case=EAGER, device_busy=0.95, telemetry=telemetry, **at)
    late = replace(busy, device_busy=0.8)
    hot = replace(late, telemetry=(all_at_once,) * 3)
    silent = replace(late, telemetry=())
    assert [r.bound for r in (busy, late, hot, silent)] == ["device", "host", "power", "host"]
    step = ProfiledStep(kernels={"nvjet": 1}, own_ms={"nvjet": 2.0})
    for case_result, idle in ((late, 0.5), (hot, None)):
        write_beside(tmp_path, case_result, step, picture(), None)
        assert read_figures(tmp_path, "kernels", EAGER).get("idle") == idle


def test_a_gpu_case_is_compared_with_the_eager_case_of_this_run_alone(tmp_path):
    store(tmp_path, EAGER, picture())
    assert eager_picture(tmp_path, EAGER, [EAGER]) is None  # not with itself
    assert eager_picture(tmp_path, ALL_ON, []) is None  # a picture of some earlier run
    assert eager_picture(tmp_path, case(height=512), [EAGER]) is None
    eager = eager_picture(tmp_path, ALL_ON, [EAGER])
    assert eager.tobytes() == picture().tobytes()
    store(tmp_path, ALL_ON, picture(noise=3), eager)
    assert read_figures(tmp_path, "quality", ALL_ON)["psnr_db"] > 30

    write_atomically(figures_path(tmp_path, "verdicts", ALL_ON), '{"outcome": "slower"}')
    store(tmp_path, ALL_ON, picture(noise=9))  # again, without the eager case
    assert read_figures(tmp_path, "quality", ALL_ON) is None
    assert read_figures(tmp_path, "verdicts", ALL_ON) is None
    write_quality(tmp_path, ALL_ON, [EAGER])  # as --against does when both are drawn
    assert 20 < read_figures(tmp_path, "quality", ALL_ON)["psnr_db"] < 40
    assert not list(tmp_path.rglob(".*"))


def test_a_run_on_a_gpu_finds_its_eager_picture_with_against_too(tmp_path):
    suite = Suite(config=SimpleNamespace(getoption={"--results": tmp_path}.get))
    drawn = {EAGER: picture(), ALL_ON: picture(noise=3)}
    planned = {of_case: SimpleNamespace(case=of_case) for of_case in drawn}
    for of_case, image in drawn.items():
        suite.store(result(case=of_case), ProfiledStep(), image, None)
        suite.measured[of_case.id] = result(case=of_case)
    assert suite.quality_of(planned[EAGER]) is None
    found = suite.quality_of(planned[ALL_ON])
    assert found["psnr_db"] > 30

    options = {"--results": tmp_path, "--against": "main"}
    suite = Suite(config=SimpleNamespace(getoption=options.get))
    for of_case, image in drawn.items():  # each in a process of its own
        store(tmp_path / "B1", of_case, image)
        suite.store_quality(planned[of_case])
        suite.measured[of_case.id] = result(case=of_case)
    assert suite.quality_of(planned[EAGER]) is None
    assert suite.quality_of(planned[ALL_ON]) == found


def test_the_picture_is_kept_without_loss(tmp_path):
    store(tmp_path, ALL_ON, picture(noise=1))
    with Image.open(picture_path(tmp_path, ALL_ON)) as kept:
        assert kept.tobytes() == picture(noise=1).tobytes()
    path = figures_path(tmp_path, "kernels", ALL_ON)
    assert json.loads(path.read_text()) == {"GEMM": 2.0, "idle": 0.5}


def test_kernels_go_by_category_and_a_gpu_that_waits_is_idle():
    own_ms = {"nvjet_1": 4.0, "nvjet_2": 2.0, "flash_fwd": 1.0, "triton_poi_fused_mul": 1.0}
    step = ProfiledStep(kernels=dict.fromkeys(own_ms, 1), own_ms=own_ms)
    assert kernels(step, 0.8) == {"GEMM": 6.0, "attention": 1.0, "other": 1.0, "idle": 2.0}
    assert kernels(ProfiledStep(), None) == {}


def operator(name, begin_ms, ms, thread=1):
    return SimpleNamespace(
        name=lambda: name,
        device_type=lambda: DeviceType.CPU,
        start_ns=lambda: begin_ms * 1e6,
        duration_ns=lambda: ms * 1e6,
        start_thread_id=lambda: thread,
        is_user_annotation=lambda: False,
    )


def test_an_operator_of_a_cpu_is_charged_what_it_took_itself():
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
    assert kernels(step, None) == {"GEMM": 11.0, "copy": 3.0}


def test_the_time_left_is_that_of_the_cases_done_and_never_less_than_none():
    assert left_s([100.0], 160.0, after=5) is None  # nothing is known in the first case
    assert left_s([0.0, 60.0], 70.0, after=2) == 170.0
    assert left_s([0.0, 60.0, 80.0], 1000.0, after=0) == 0.0
    assert [time_left(s) for s in (None, 0.0, 40.0, 100.0, 1000.0)] == [
        *("", ", a few seconds left", ", about 40 s left"),
        *(", about 2 min left", ", about 17 min left"),
    ]
