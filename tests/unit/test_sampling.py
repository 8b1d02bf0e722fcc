"""Warm-up, stop rule, throttling and what is timed beside an image, without a pipeline."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch._C._autograd import DeviceType

from fluxfast.bench.measurement import sampler as measure
from fluxfast.bench.measurement.canary import FixedWork, canaries
from fluxfast.bench.measurement.counters import kernels, step_counters
from fluxfast.bench.measurement.sampler import Sampler
from fluxfast.bench.measurement.sampling import Limits, why_enough, why_warm
from fluxfast.bench.results.result import ImageTiming
from fluxfast.bench.verdicts.runner import CPU_BAND, DEVICE_BAND, HOST_BAND
from fluxfast.profiling import telemetry
from fluxfast.profiling.evidence import profiled_step
from fluxfast.profiling.telemetry import Reading
from tests.support.machines import CPU, H200

LIMITS = Limits()


@pytest.mark.parametrize(
    ("steps", "elapsed_s", "why"),
    [
        ([100.0], 1, ""),
        ([140.0, 110.0], 1, ""),  # still getting faster
        ([100.0, 103.0], 1, ""),  # heating up
        ([140.0, 100.0, 100.5], 1, "steady within 1%"),
        ([100.0, 120.0] * 5, 1, "10 images, not steady"),
        ([100.0, 120.0], 31, "30 s, not steady"),
    ],
)
def test_warm_up_ends_when_the_step_time_has_no_trend_or_the_bound_is_reached(
    steps, elapsed_s, why
):
    assert why_warm(steps, elapsed_s, 0.01, LIMITS) == why


@pytest.mark.parametrize(
    ("samples", "elapsed_s", "why"),
    [
        ([1.0] * 4, 6, ""),
        ([1.0, 1.001, 0.999, 1.0, 1.0], 4, ""),  # alike, for they follow each other
        ([1.0, 1.001, 0.999, 1.0, 1.0], 6, "noise 0.07%"),
        ([1.0, 1.2] * 4, 6, ""),
        ([1.0, 1.2] * 40, 6, "noise 9.1% and no longer changing"),
        ([1.0, 1.3, 1.2, 1.1, 1.0], 31, "30 s, noise 11.6%"),
    ],
)
def test_sampling_ends_when_the_noise_is_small_or_known_or_time_is_up(samples, elapsed_s, why):
    assert why_enough(samples, elapsed_s, LIMITS) == why


def test_rounds_and_an_undecided_verdict_fix_the_number_of_images():
    assert not why_enough([1.0] * 2, 99, Limits(rounds=3))
    assert why_enough([1.0] * 3, 0, Limits(rounds=3))
    extended = LIMITS.extended(5)
    assert not why_enough([1.0] * 9, 99, extended) and why_enough([1.0] * 10, 99, extended)


def image(e2e_s=1.0):
    return ImageTiming(
        e2e_s=e2e_s,
        encode_ms=1.0,
        prepare_ms=1.0,
        step_ms=(100.0,),
        decode_ms=1.0,
        postprocess_ms=1.0,
    )


@pytest.fixture
def built(monkeypatch):
    monkeypatch.setattr(measure, "time_image", lambda built, *faults: (image(built.e2e_s), None))
    return SimpleNamespace(e2e_s=2.0)


def readings(*throttled):
    look = {"sm_clock_mhz": 1700, "memory_clock_mhz": 3200, "temperature_c": 60}
    whys = iter([why for pair in throttled for why in (None, pair)])
    joules = iter(range(0, 10**6, 700))
    return lambda: Reading(energy_j=next(joules), throttled=next(whys, None), **look)


@pytest.mark.parametrize(("hardware", "count"), [(H200, 4), (CPU, 0)], ids=["GPU", "CPU"])
def test_what_a_pause_gave_a_gpu_is_spent_before_the_images_that_count(
    hardware, count, monkeypatch
):
    clock, drawn = [0.0], []

    def draw(built, *faults):
        clock[0] += 0.32
        drawn.append(faults)
        return image(0.32), None

    monkeypatch.setattr(measure, "time_image", draw)
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    built = SimpleNamespace(
        plan=SimpleNamespace(situation=SimpleNamespace(hardware=hardware)), e2e_s=0.32
    )
    sampler = Sampler(built=built, limits=LIMITS, faults=("slower",))
    sampler.discard_boosted_images()
    assert drawn == [("slower",)] * count and not sampler.images


@pytest.mark.parametrize(
    ("compiles", "e2e_s", "warm_up", "in_all"),
    [
        pytest.param(False, 10.0, "2 images: steady within 1%", 2, id="unoptimized Kontext"),
        pytest.param(True, 10.0, "3 images: steady within 1%", 3, id="a long one that compiles"),
        pytest.param(False, 0.5, "2 images: steady within 1%", 4, id="unoptimized schnell"),
    ],
)
def test_an_image_of_ten_seconds_is_not_drawn_more_than_it_has_to(
    compiles, e2e_s, warm_up, in_all, monkeypatch
):
    clock = [0.0]

    def draw(built, *faults):
        clock[0] += e2e_s
        return image(e2e_s), None

    monkeypatch.setattr(measure, "time_image", draw)
    monkeypatch.setattr(measure, "reset_peak_memory", lambda built: None)
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    plan = SimpleNamespace(situation=SimpleNamespace(hardware=H200), compiles=compiles)
    sampler = Sampler(built=SimpleNamespace(plan=plan), limits=Limits())
    sampler.first_image()
    sampler.warm_up()
    sampler.discard_boosted_images()
    assert sampler.why_warm == warm_up and clock[0] == in_all * e2e_s


def test_a_throttled_image_is_discarded_counted_and_bounded(built):
    sampler = Sampler(
        built=built,
        limits=Limits(rounds=2, max_discarded=1),
        read_gpu=readings("power brake", None, "power brake"),
    )
    while not sampler.why_enough:
        sampler.sample()
    assert sampler.discarded == sampler.held_back == ["power brake"] and len(sampler.images) == 2
    assert sampler.telemetry[0]["energy_j"] == 700 and len(sampler.telemetry) == 2


def test_what_is_timed_beside_an_image_stays_with_it(built):
    pace = SimpleNamespace(ms=iter([10.0, 20.0, 30.0, 50.0]).__next__)
    sampler = Sampler(built=built, limits=LIMITS, eager=SimpleNamespace(e2e_s=4.0), fixed_work=pace)
    sampler.sample()
    sampler.generate()
    sampler.finish()  # an image that nothing was timed beside, as pytest-benchmark's cprofile draws
    sampler.sample()
    assert sampler.reference_e2e_s == [4.0, 4.0] and sampler.pace_ms == [15.0, 40.0]
    assert len(sampler.images) == 2


def test_nvml_is_read_for_the_selected_gpu(monkeypatch):
    seen = {}
    nvml = SimpleNamespace(
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: seen.setdefault("gpu", uuid),
        nvmlDeviceGetMaxClockInfo=lambda gpu, kind: 1980,
        nvmlDeviceGetClockInfo=lambda gpu, kind: {1: 1200, 2: 3201}[kind],
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda gpu: 0x4 | 0x40,
        nvmlDeviceGetTemperature=lambda gpu, kind: 88,
        nvmlDeviceGetTotalEnergyConsumption=lambda gpu: 5000,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr(
        "torch.cuda.get_device_properties", lambda index: SimpleNamespace(uuid="1234")
    )
    reading = telemetry.reader(H200)()
    assert seen["gpu"] == "GPU-1234" and reading.energy_j == 5.0
    assert reading.throttled == "hardware thermal slowdown"
    assert telemetry.why_throttled(0x4, 1200, 1980) is None  # a power cap is no fault
    assert telemetry.why_throttled(0x0, 1200, 1980) == "1200 of 1980 MHz"
    assert telemetry.reader(CPU) is None


def event(name, on_gpu=False, ms=0.0, annotation=False):
    return SimpleNamespace(
        name=lambda: name,
        device_type=lambda: DeviceType.CUDA if on_gpu else DeviceType.CPU,
        duration_ns=lambda: ms * 1e6,
        is_user_annotation=lambda: annotation,
    )


def test_a_step_on_a_gpu_is_counted_by_its_kernels():
    """Of events as kineto gives them; nothing here has seen a GPU."""
    step = profiled_step(
        [
            event("aten::mm"),
            event("aten::_local_scalar_dense"),
            event("cudaStreamSynchronize"),
            event("cudaGraphLaunch"),
            event("nvjet_qqtst_128x256", on_gpu=True, ms=2.0),
            event("nvjet_qqtst_128x256", on_gpu=True, ms=2.0),
            event("cudnn_flash_fwd_sm90", on_gpu=True, ms=1.0),
            event("triton_poi_fused_gelu_mm_12", on_gpu=True, ms=0.5),
            event("CompiledFxGraph", on_gpu=True, ms=99.0, annotation=True),
        ]
    )
    assert step.kernel_ms == 5.5
    assert step_counters(step) == {
        "launches_in_a_step": 4,
        "host_syncs_in_a_step": 2,
        "graph_replays_in_a_step": 1,
    }
    assert kernels(step) == {
        "gemm": ("nvjet_qqtst_128x256",),
        "attention": ("cudnn_flash_fwd_sm90",),
    }


def test_canaries_leave_no_trace_and_have_a_band_each():
    before = torch.random.get_rng_state()
    found = canaries(CPU)
    work = FixedWork()
    assert work.ms(passes=1) > 0 and torch.equal(torch.random.get_rng_state(), before)
    assert set(found) == set(CPU_BAND) == set(DEVICE_BAND | HOST_BAND)
    assert all(value > 0 for value in found.values())
