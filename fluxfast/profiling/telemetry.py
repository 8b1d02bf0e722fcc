"""Clocks, temperature, energy and throttling of the GPU, read between samples, never within one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fluxfast.hardware import Hardware, Platform

# nvbench discards a sample whose clock is below this share of the default.
MIN_CLOCK = 0.75
# A reason of NVML that is no fault: at its power cap a GPU works as well as it can, whatever clock
# that leaves (1335 to 1470 of 1980 MHz on an H200 now and then).
POWER_CAP = 0x04
# Those that are faults of the moment.
THROTTLING = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One look at the GPU; `energy_j` counts from when the driver was loaded."""

    sm_clock_mhz: float
    memory_clock_mhz: float
    temperature_c: float
    energy_j: float
    throttled: str | None = None


Reader = Callable[[], Reading]


def reader(hardware: Hardware) -> Reader | None:
    """How to read this GPU; None on a CPU, or where the vendor's library or driver is absent."""
    if hardware.platform is Platform.CUDA:
        return _nvidia_reader()
    return _amd_reader() if hardware.platform is Platform.ROCM else None


def during(before: Reading, after: Reading) -> dict[str, float]:
    """What an image between the two readings was drawn with."""
    return {
        "sm_clock_mhz": after.sm_clock_mhz,
        "memory_clock_mhz": after.memory_clock_mhz,
        "temperature_c": after.temperature_c,
        "energy_j": round(after.energy_j - before.energy_j, 3),
    }


def _nvidia_reader() -> Reader | None:
    try:
        import pynvml as nvml
    except ImportError:
        return None
    import torch

    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
    gpu = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    highest = nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM)

    def read() -> Reading:
        clock = nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)
        reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)
        return Reading(
            sm_clock_mhz=clock,
            memory_clock_mhz=nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
            temperature_c=nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
            energy_j=nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3,
            throttled=why_throttled(reasons, clock, highest),
        )

    return read


def why_throttled(reasons: int, clock_mhz: float, highest_mhz: float) -> str | None:
    """What held the GPU back, of NVML's bits and its clock; None where nothing did."""
    named = [name for bit, name in THROTTLING.items() if reasons & bit]
    if clock_mhz < MIN_CLOCK * highest_mhz and not reasons & POWER_CAP:
        named.append(f"{clock_mhz:.0f} of {highest_mhz:.0f} MHz")
    return ", ".join(named) or None


def _amd_reader() -> Reader | None:
    """Written against AMD SMI's published interface; untried on a real machine."""
    try:
        import amdsmi
    except ImportError:
        return None
    import torch

    amdsmi.amdsmi_init()
    gpu = amdsmi.amdsmi_get_processor_handles()[torch.cuda.current_device()]
    highest = _amd_clock(amdsmi, gpu)["max_clk"]

    def read() -> Reading:
        clock = _amd_clock(amdsmi, gpu)["clk"]
        energy = amdsmi.amdsmi_get_energy_count(gpu)
        return Reading(
            sm_clock_mhz=clock,
            memory_clock_mhz=amdsmi.amdsmi_get_clock_info(gpu, amdsmi.AmdSmiClkType.MEM)["clk"],
            temperature_c=amdsmi.amdsmi_get_temp_metric(
                gpu,
                amdsmi.AmdSmiTemperatureType.HOTSPOT,
                amdsmi.AmdSmiTemperatureMetric.CURRENT,
            ),
            energy_j=energy["energy_accumulator"] * energy["counter_resolution"] / 1e6,
            throttled=why_throttled(0, clock, highest),
        )

    return read


def _amd_clock(amdsmi: Any, gpu: Any) -> dict[str, Any]:
    clock: dict[str, Any] = amdsmi.amdsmi_get_clock_info(gpu, amdsmi.AmdSmiClkType.GFX)
    return clock
