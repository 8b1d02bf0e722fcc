"""Warm-up, stop rule, throttling and paired references, without a pipeline."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch._C._autograd import DeviceType

from fluxfast.bench.measurement import sampler as sampler_module
from fluxfast.bench.measurement import warm_up as warm_up_module
from fluxfast.bench.measurement.canary import FixedWork, canaries
from fluxfast.bench.measurement.counters import kernels, step_counters
from fluxfast.bench.measurement.limits import Limits, why_ended, why_warm
from fluxfast.bench.measurement.measure import PlainRounds, sample_until_enough
from fluxfast.bench.measurement.paired import PairedReference
from fluxfast.bench.measurement.sampler import Sampler
from fluxfast.bench.measurement.warm_up import FirstImage, WarmUp, first_image, warm_up
from fluxfast.bench.results.image_timing import ImageTiming
from fluxfast.bench.verdicts.runner import CPU_BAND, DEVICE_BAND, HOST_BAND
from fluxfast.profiling import telemetry
from fluxfast.profiling.evidence import profiled_step
from fluxfast.profiling.sm_clock import mean_sm_clock_mhz
from fluxfast.profiling.telemetry import GpuReading
from tests.support.machines import CPU, H200, MI300X

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
    assert why_ended(samples, elapsed_s, LIMITS) == why


def test_rounds_and_an_undecided_verdict_fix_the_number_of_images():
    assert not why_ended([1.0] * 2, 99, Limits(rounds=3))
    assert why_ended([1.0] * 3, 0, Limits(rounds=3))
    extended = LIMITS.extended(5)
    assert not why_ended([1.0] * 9, 99, extended) and why_ended([1.0] * 10, 99, extended)


def timing(e2e_s=1.0):
    return ImageTiming(
        e2e_s=e2e_s,
        encode_ms=1.0,
        prepare_ms=1.0,
        step_ms=(100.0,),
        decode_ms=1.0,
        postprocess_ms=1.0,
    )


def test_the_mean_clock_is_that_of_the_multiprocessors_in_both_readings():
    before = torch.tensor([[100, 1_000], [0, 0], [900, 1_000], [700, 0]])
    after = torch.tensor([[1_600, 2_000], [5_000, 2_000], [2_100, 1_800], [0, 0]])
    assert mean_sm_clock_mhz(before, after) == pytest.approx(1500)
    assert mean_sm_clock_mhz(after, torch.zeros(4, 2, dtype=torch.int64)) is None


class Clock:
    """Stand in for the `time` module; images of `e2e_s` seconds advance it."""

    def __init__(self, monkeypatch, *modules, e2e_s):
        self.now, self.e2e_s, self.injected = 0.0, e2e_s, []
        for module in modules:
            monkeypatch.setattr(module, "time", self)
            monkeypatch.setattr(module, "time_image", self.time_image)

    def perf_counter(self):
        return self.now

    def time_image(self, built, *injected):
        self.now += self.e2e_s
        self.injected.append(injected)
        return timing(self.e2e_s), None


def pipeline(hardware=CPU, compiles=False, e2e_s=2.0):
    """Return what the sampler needs of a built pipeline."""
    plan = SimpleNamespace(situation=SimpleNamespace(hardware=hardware), compiles=compiles)
    return SimpleNamespace(plan=plan, e2e_s=e2e_s)


def warm(e2e_s):
    """Return a warm-up whose last image took `e2e_s` seconds."""
    first = FirstImage(timing=timing(e2e_s), ended_at_s=0.0)
    return WarmUp(first=first, last=timing(e2e_s), ended="", compiled_graphs=0)


def sampler_of(built, limits=LIMITS, **changes):
    return Sampler(built=built, limits=limits, warm_up=warm(built.e2e_s), **changes)


@pytest.fixture
def timed(monkeypatch):
    """Let an image take as long as its pipeline has it, without a wait."""
    monkeypatch.setattr(
        sampler_module, "time_image", lambda built, *injected: (timing(built.e2e_s), None)
    )


def readings(*throttled):
    """Return a reader: for each image a reading before and one after, throttled as given."""
    figures = {"sm_clock_mhz": 1700, "memory_clock_mhz": 3200, "temperature_c": 60}
    whys = iter([why for pair in throttled for why in (None, pair)])
    joules = iter(range(0, 10**6, 700))
    return lambda: GpuReading(energy_j=next(joules), throttled=next(whys, None), **figures)


@pytest.mark.parametrize(("hardware", "count"), [(H200, 4), (CPU, 0)], ids=["GPU", "CPU"])
def test_boosted_images_of_a_gpu_are_discarded(hardware, count, monkeypatch):
    clock = Clock(monkeypatch, sampler_module, e2e_s=0.32)
    sampler = sampler_of(pipeline(hardware, e2e_s=0.32), injected=("slower",))
    sampler.discard_boosted_images()
    assert clock.injected == [("slower",)] * count and not sampler.timings


@pytest.mark.parametrize(
    ("compiles", "e2e_s", "ended", "images"),
    [
        pytest.param(False, 10.0, "2 images: steady within 1%", 2, id="unoptimized Kontext"),
        pytest.param(True, 10.0, "3 images: steady within 1%", 3, id="compiled, long image"),
        pytest.param(False, 0.5, "2 images: steady within 1%", 4, id="unoptimized schnell"),
    ],
)
def test_an_image_of_ten_seconds_is_generated_no_more_often_than_needed(
    compiles, e2e_s, ended, images, monkeypatch
):
    clock = Clock(monkeypatch, warm_up_module, sampler_module, e2e_s=e2e_s)
    monkeypatch.setattr(warm_up_module, "reset_peak_memory", lambda built: None)
    built = pipeline(H200, compiles, e2e_s)
    warmed = warm_up(built, first_image(built), LIMITS)
    Sampler(built=built, limits=LIMITS, warm_up=warmed).discard_boosted_images()
    assert warmed.ended == ended and clock.now == images * e2e_s


def test_a_throttled_image_is_discarded_counted_and_bounded(timed):
    sampler = sampler_of(
        pipeline(),
        Limits(rounds=2, max_discarded=1),
        read_gpu=readings("power brake", None, "power brake"),
    )
    sample_until_enough(sampler, PlainRounds())
    assert sampler.discarded == sampler.throttled == ["power brake"] and len(sampler.timings) == 2
    assert sampler.telemetry[0]["energy_j"] == 700 and len(sampler.telemetry) == 2


def test_a_paired_reference_stays_with_its_image(timed):
    fixed_work = SimpleNamespace(ms=iter([10.0, 20.0, 30.0, 50.0]).__next__)
    paired = PairedReference(eager=pipeline(e2e_s=4.0), fixed_work=fixed_work)
    sampler = sampler_of(pipeline(), paired=paired)
    sampler.sample()
    sampler.generate()
    sampler.finish()  # without a reference, as pytest-benchmark's cprofile generates an image
    sampler.sample()
    assert sampler.reference_e2e_s == [4.0, 4.0] and sampler.fixed_work_ms == [15.0, 40.0]
    assert len(sampler.timings) == 2


class NvmlError(Exception):
    """Stand in for pynvml.NVMLError."""


def not_supported(*_):
    raise NvmlError("Not Supported")


def fake_nvml(monkeypatch, **changes):
    """Install a pynvml with one throttled GPU; return the list of UUIDs that are looked up."""
    seen = []
    nvml = dict(
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        NVMLError=NvmlError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=seen.append,
        nvmlDeviceGetMaxClockInfo=lambda gpu, kind: 1980,
        nvmlDeviceGetClockInfo=lambda gpu, kind: {1: 1200, 2: 3201}[kind],
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda gpu: 0x4 | 0x40,
        nvmlDeviceGetTemperature=lambda gpu, kind: 88,
        nvmlDeviceGetTotalEnergyConsumption=lambda gpu: 5000,
    )
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(**(nvml | changes)))
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr(
        "torch.cuda.get_device_properties", lambda index: SimpleNamespace(uuid="1234")
    )
    return seen


def test_nvml_is_read_for_the_selected_gpu(monkeypatch):
    seen = fake_nvml(monkeypatch)
    reading = telemetry.gpu_reader(H200)()
    assert seen == ["GPU-1234"] and reading.energy_j == 5.0
    assert reading.throttled == "hardware thermal slowdown"
    assert telemetry.why_throttled(0x4, 1200, 1980) is None  # a power cap is no fault
    assert telemetry.why_throttled(0x0, 1200, 1980) == "1200 of 1980 MHz"
    assert telemetry.gpu_reader(CPU) is None


def test_all_gpus_of_an_image_are_read(monkeypatch):
    """Their energy is the image's, and the image waits for the one that is throttled."""
    fake_nvml(
        monkeypatch,
        nvmlDeviceGetHandleByUUID=lambda uuid: int(uuid.removeprefix("GPU-")),
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda gpu: (0x4, 0x4 | 0x40)[gpu],
        nvmlDeviceGetTemperature=lambda gpu, kind: (50, 88)[gpu],
    )
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(
        "torch.cuda.get_device_properties", lambda index: SimpleNamespace(uuid=str(index))
    )
    reading = telemetry.gpu_reader(replace(H200, gpus=2))()
    assert reading.energy_j == 10.0 and reading.temperature_c == 88
    assert reading.throttled == "hardware thermal slowdown"
    assert telemetry.gpu_reader(H200)().throttled is None


def test_amd_smi_reads_the_gpu_that_pytorch_uses(monkeypatch):
    """AMD SMI lists GPUs that HIP_VISIBLE_DEVICES hides, too."""
    of_gpu = {"0000:c1:00.0": 2100}
    smi = SimpleNamespace(
        AmdSmiClkType=SimpleNamespace(GFX=0, MEM=1),
        AmdSmiTemperatureType=SimpleNamespace(HOTSPOT=1),
        AmdSmiTemperatureMetric=SimpleNamespace(CURRENT=0),
        amdsmi_init=lambda: None,
        amdsmi_get_processor_handle_from_bdf=of_gpu.__getitem__,
        amdsmi_get_clock_info=lambda gpu, kind: {"clk": gpu, "max_clk": gpu},
        amdsmi_get_temp_metric=lambda *_: 50,
        amdsmi_get_energy_count=lambda gpu: {"energy_accumulator": 2e6, "counter_resolution": 1.5},
    )
    monkeypatch.setitem(sys.modules, "amdsmi", smi)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    address = SimpleNamespace(pci_domain_id=0, pci_bus_id=0xC1, pci_device_id=0)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: address)
    reading = telemetry.gpu_reader(MI300X)()
    assert (reading.sm_clock_mhz, reading.energy_j) == (2100, 3.0)


def test_a_gpu_that_does_not_report_energy_is_read_without_it(monkeypatch):
    """A MIG slice and a virtual GPU raise Not Supported."""
    fake_nvml(monkeypatch, nvmlDeviceGetTotalEnergyConsumption=not_supported)
    reading = telemetry.gpu_reader(H200)()
    assert reading.energy_j is None and reading.temperature_c == 88
    figures = telemetry.telemetry_of_image(reading, reading)
    assert figures == {"sm_clock_mhz": 1200, "memory_clock_mhz": 3201, "temperature_c": 88}


@pytest.mark.parametrize("call", ["nvmlDeviceGetHandleByUUID", "nvmlDeviceGetClockInfo"])
def test_a_gpu_whose_clocks_cannot_be_read_has_no_telemetry(call, monkeypatch):
    fake_nvml(monkeypatch, **{call: not_supported})
    assert telemetry.gpu_reader(H200) is None


def event(name, on_gpu=False, ms=0.0, annotation=False):
    return SimpleNamespace(
        name=lambda: name,
        device_type=lambda: DeviceType.CUDA if on_gpu else DeviceType.CPU,
        duration_ns=lambda: ms * 1e6,
        is_user_annotation=lambda: annotation,
    )


def test_a_step_on_a_gpu_is_counted_by_its_kernels():
    """The events have the shape of kineto's; no GPU is involved."""
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
