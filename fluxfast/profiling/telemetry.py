"""GPU telemetry: clocks, temperature, energy and throttling, read between images, never within."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fluxfast.hardware import Hardware, Platform, gpus_from, pci_address

# A GPU whose clock is below this share of its maximum clock counts as throttled. nvbench discards a
# sample below the same share of the default clock.
MIN_CLOCK = 0.75
# NVML's throttle reason that is not a fault: at its power cap a GPU runs at the highest clock that
# the cap allows, which on an H200 was now and then only 1335 to 1470 of 1980 MHz.
POWER_CAP = 0x04
# NVML's reasons that invalidate a sample.
THROTTLING = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}


@dataclass(frozen=True, kw_only=True)
class GpuReading:
    """One reading of the GPU, or of those that share an image.

    Attributes:
        sm_clock_mhz: clock of the multiprocessors in MHz, of several GPUs that of the first.
        memory_clock_mhz: clock of the memory in MHz, likewise.
        temperature_c: temperature in °C, of several GPUs the highest.
        energy_j: energy since the driver was loaded in J, of several GPUs their sum; None where one
            does not report it, as on a MIG slice or a virtual GPU.
        throttled: the reason for which a GPU is throttled, or None.
    """

    sm_clock_mhz: float
    memory_clock_mhz: float
    temperature_c: float
    energy_j: float | None
    throttled: str | None = None


GpuReader = Callable[[], GpuReading]


def gpu_reader(hardware: Hardware) -> GpuReader | None:
    """Return a function that reads this GPU, and the others that share an image with it.

    Returns None on a CPU, where the vendor's library or driver is absent, and where the driver
    does not support reading clocks and temperature.
    """
    if hardware.platform is Platform.CUDA:
        return _nvidia_reader(hardware.gpus)
    return _amd_reader(hardware.gpus) if hardware.platform is Platform.ROCM else None


def _of_all(readings: Sequence[GpuReading]) -> GpuReading:
    """Return the readings of all GPUs of an image as one: it waits for each of them."""
    energies = [one.energy_j for one in readings if one.energy_j is not None]
    reasons = [one.throttled for one in readings if one.throttled]
    return replace(
        readings[0],
        temperature_c=max(one.temperature_c for one in readings),
        energy_j=sum(energies) if len(energies) == len(readings) else None,
        throttled=", ".join(dict.fromkeys(reasons)) or None,
    )


def telemetry_of_image(before: GpuReading, after: GpuReading) -> dict[str, float]:
    """Return the telemetry of an image between two readings: MHz, °C, and J where available."""
    figures = {
        "sm_clock_mhz": after.sm_clock_mhz,
        "memory_clock_mhz": after.memory_clock_mhz,
        "temperature_c": after.temperature_c,
    }
    if before.energy_j is not None and after.energy_j is not None:
        figures["energy_j"] = round(after.energy_j - before.energy_j, 3)
    return figures


def _nvidia_reader(gpus: int) -> GpuReader | None:
    try:
        import pynvml as nvml
    except ImportError:
        return None
    import torch

    try:
        nvml.nvmlInit()
        indices = gpus_from(torch.cuda.current_device(), gpus)
        uuids = [torch.cuda.get_device_properties(index).uuid for index in indices]
        handles = [nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}") for uuid in uuids]
        highest_mhz = [nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM) for gpu in handles]

        def read() -> GpuReading:
            each = zip(handles, highest_mhz, strict=True)
            return _of_all([_nvidia_reading(nvml, gpu, highest) for gpu, highest in each])

        read()
    except nvml.NVMLError:
        return None
    return read


def _nvidia_reading(nvml: Any, gpu: Any, highest_mhz: float) -> GpuReading:
    clock_mhz = nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)
    reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)
    return GpuReading(
        sm_clock_mhz=clock_mhz,
        memory_clock_mhz=nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
        temperature_c=nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
        energy_j=_nvidia_energy_j(nvml, gpu),
        throttled=why_throttled(reasons, clock_mhz, highest_mhz),
    )


def _nvidia_energy_j(nvml: Any, gpu: Any) -> float | None:
    try:
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)) / 1e3
    except nvml.NVMLError:  # Not Supported on a MIG slice or a virtual GPU
        return None


def why_throttled(reasons: int, clock_mhz: float, highest_mhz: float) -> str | None:
    """Return the reason for which the GPU is throttled, or None.

    Args:
        reasons: NVML's bits of clock throttle reasons.
        clock_mhz: the current clock in MHz.
        highest_mhz: the GPU's maximum clock in MHz.
    """
    named = [name for bit, name in THROTTLING.items() if reasons & bit]
    if clock_mhz < MIN_CLOCK * highest_mhz and not reasons & POWER_CAP:
        named.append(f"{clock_mhz:.0f} of {highest_mhz:.0f} MHz")
    return ", ".join(named) or None


def _amd_reader(gpus: int) -> GpuReader | None:
    """Return a reader written against AMD SMI's documentation, not tried on a machine yet."""
    try:
        import amdsmi
    except ImportError:
        return None
    import torch

    amdsmi.amdsmi_init()
    # PyTorch counts the visible GPUs only, AMD SMI all of them.
    indices = gpus_from(torch.cuda.current_device(), gpus)
    handles = [amdsmi.amdsmi_get_processor_handle_from_bdf(pci_address(i)) for i in indices]
    highest_mhz = [_amd_clock(amdsmi, gpu)["max_clk"] for gpu in handles]

    def read_one(gpu: Any, highest: float) -> GpuReading:
        clock_mhz = _amd_clock(amdsmi, gpu)["clk"]
        energy = amdsmi.amdsmi_get_energy_count(gpu)
        return GpuReading(
            sm_clock_mhz=clock_mhz,
            memory_clock_mhz=amdsmi.amdsmi_get_clock_info(gpu, amdsmi.AmdSmiClkType.MEM)["clk"],
            temperature_c=amdsmi.amdsmi_get_temp_metric(
                gpu,
                amdsmi.AmdSmiTemperatureType.HOTSPOT,
                amdsmi.AmdSmiTemperatureMetric.CURRENT,
            ),
            energy_j=energy["energy_accumulator"] * energy["counter_resolution"] / 1e6,
            throttled=why_throttled(0, clock_mhz, highest),
        )

    return lambda: _of_all([read_one(*one) for one in zip(handles, highest_mhz, strict=True)])


def _amd_clock(amdsmi: Any, gpu: Any) -> dict[str, Any]:
    clock: dict[str, Any] = amdsmi.amdsmi_get_clock_info(gpu, amdsmi.AmdSmiClkType.GFX)
    return clock
