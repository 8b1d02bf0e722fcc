"""The result of one case in one process: raw samples and all that judging needs. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.role import Role
from fluxfast.bench.results.checks import (
    SCHEMA,
    check_environment,
    check_positive,
    check_provenance,
    check_readings,
    check_schema,
    check_texts,
    why_unreadable,
)
from fluxfast.bench.results.image_timing import ImageTiming
from fluxfast.errors import BaselineError

# Share of a step. Below it the device waits for kernel launches at least a tenth of the time.
DEVICE_BOUND = 0.9
# Share of the power limit. Above it the power limit determines the clock.
POWER_BOUND = 0.95


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """Everything that one process measured of one case.

    Attributes:
        case: the case.
        images: the timings of each sampled image.
        reference_e2e_s: on a CPU, seconds of the eager image that was timed immediately before
            each image of the case; empty on a GPU.
        load_s: seconds to load the weights.
        apply_s: seconds to apply the optimizations and to ask for their kernels.
        first_image_s: seconds of the first image, with all compilation; on a GPU the compile cache
            is empty.
        compiles: whether an optimization of the case compiles.
        peak_memory_gib: peak device memory in GiB; None where it is not measured.
        counters: integers that are compared exactly, by name.
        proofs: the evidence that each optimization is active, by optimization.
        environment: hardware, driver and versions, see `hardware.environment`.
        provenance: commit, date and command, see `provenance.provenance`.
        pace_ms: on a CPU, milliseconds of a fixed workload timed just before and after each image.
        telemetry: clocks and temperature after each image, and its energy, where the GPU reports
            them; power is derived (see `power_w`).
        canaries: readings of each canary benchmark before and after the case, in the unit that
            its name ends with.
        kernels: names of the kernels in each category (gemm, attention), compared exactly.
        package_mib: size of the exported AOTInductor package in MiB; None without one.
        device_busy: share of one profiled step in which the GPU computes; None on a CPU. Under the
            power limit the single step runs at a higher clock, so the share is too small.
        sampling: images of warm-up, discarded images, images that were kept although the GPU was
            throttled (`held_back`), why sampling ended, and the seconds from the first image to
            the last canary.
        starts_cold: whether the times to load, to compile and to the first image compare between
            processes, see `measurement.cold_start`; False in results from before cold starts.
        role: what the optimizations stood for when they were measured, see `role.Role`; None for
            any other combination, and in results from before roles.
        weights_profile: the distribution of synthetic weights, see `synthetic.profiles`; None for
            other weights, and in results from before profiles, see `profile_of`.
        lora_swaps_s: seconds of each swap to a LoRA, see `perf_tests/test_lora_swap.py`; empty
            where they were not timed.
        other_sizes_extra_s: for each further size, seconds of its first image beyond a steady one,
            see `perf_tests/test_other_sizes.py`; empty where they were not timed.
    """

    case: Case
    images: tuple[ImageTiming, ...]
    reference_e2e_s: tuple[float, ...]
    load_s: float
    apply_s: float
    first_image_s: float
    compiles: bool
    peak_memory_gib: float | None
    counters: Mapping[str, int]
    proofs: Mapping[str, str]
    environment: Mapping[str, Any]
    provenance: Mapping[str, Any]
    pace_ms: tuple[float, ...] = ()
    telemetry: tuple[Mapping[str, float], ...] = ()
    canaries: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    kernels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    package_mib: float | None = None
    device_busy: float | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    starts_cold: bool = False
    role: Role | None = None
    weights_profile: str | None = None
    lora_swaps_s: tuple[float, ...] = ()
    other_sizes_extra_s: tuple[float, ...] = ()

    @property
    def on_gpu(self) -> bool:
        """Return whether the case was measured on a GPU."""
        return bool(self.environment["hardware"]["platform"] != "cpu")

    @property
    def card(self) -> str:
        """The UUID of the GPU, because cards of one model differ; empty on a CPU or if unknown."""
        return str((self.environment.get("gpu") or {}).get("uuid", ""))

    @property
    def step_mcycles(self) -> list[float]:
        """Millions of cycles of each image's mean step; empty unless all were counted."""
        counted = [image.step_mcycles for image in self.images]
        known = [mcycles for mcycles in counted if mcycles is not None]
        return known if len(known) == len(counted) else []

    @property
    def eager_ratios(self) -> list[float]:
        """The time of each image over that of its paired eager image; empty without references."""
        return eager_ratios(self.images, self.reference_e2e_s)

    @property
    def bottleneck(self) -> str:
        """The bottleneck: `power`, `device`, or `launch` (the CPU, which launches kernels)."""
        if self.power_share and self.power_share >= POWER_BOUND:
            return "power"
        if self.device_busy is None:
            return "launch"
        return "device" if self.device_busy >= DEVICE_BOUND else "launch"

    @property
    def power_w(self) -> float | None:
        """Mean power of all images in watts; None where the GPU does not report energy.

        The energy counter is updated ten times a second. For an image of 0.3 s the value is
        coarse; for shorter images it is wrong.
        """
        if any(image.get("energy_j") is None for image in self.telemetry):
            return None
        energy_j: float = sum(image["energy_j"] for image in self.telemetry)
        return energy_j / sum(image.e2e_s for image in self.images) if energy_j else None

    @property
    def power_share(self) -> float | None:
        """Mean power over the limits of all GPUs; None where a GPU does not report both."""
        limit_w = (self.environment.get("gpu") or {}).get("power_cap_w")
        if not isinstance(limit_w, int | float) or not limit_w:  # text such as [N/A]
            return None
        limits_w = limit_w * (self.environment.get("hardware") or {}).get("gpus", 1)
        return self.power_w / limits_w if self.power_w else None

    @property
    def compile_s(self) -> float | None:
        """Seconds of export, compilation, autotuning and capture; None if nothing is compiled.

        It is the time to apply the optimizations plus the first image's time beyond the median.
        """
        if not self.compiles:
            return None
        steady = statistics.median(image.e2e_s for image in self.images)
        return self.apply_s + max(0.0, self.first_image_s - steady)

    @property
    def to_first_image_s(self) -> float:
        """Seconds to the first image without loading: applying the optimizations, and it."""
        return self.apply_s + self.first_image_s

    @property
    def lora_swap_s(self) -> float | None:
        """Seconds of a swap to a LoRA, the median; None where none was timed."""
        return statistics.median(self.lora_swaps_s) if self.lora_swaps_s else None

    @property
    def other_size_extra_s(self) -> float | None:
        """Extra seconds of the first image of a further size, the worst; None where not timed."""
        return max(self.other_sizes_extra_s, default=None)

    def to_json(self) -> dict[str, Any]:
        """Return the result for JSON, with its schema version."""
        nested = {
            "case": self.case.to_json(),
            "images": tuple(image.to_json() for image in self.images),
        }
        return {"schema": SCHEMA} | asdict(self) | nested

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str) -> CaseResult:
        """Return the result that JSON describes.

        Args:
            data: the parsed JSON.
            where: the file that it comes from, for errors.

        Raises:
            BaselineError: the schema is another one, a key is missing, or a value is wrong.
        """
        check_schema(data, where)
        try:
            found = cls(**_values(data, where))
            check_environment(data["environment"])
            check_provenance(found.provenance)
            _check_figures(found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BaselineError(
                f"this result is incomplete or wrong: {why_unreadable(error)}",
                got=where,
                allowed=f"a result of schema {SCHEMA}",
                remedy="restore it from version control, or delete it and measure again",
            ) from error
        return found


TIMED_APART = ("lora_swaps_s", "other_sizes_extra_s")  # in tests of their own, if at all
ADDED_LATER = {"starts_cold", "role", "weights_profile", *TIMED_APART}  # some results lack them


def _values(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the fields of a result with the types that the class declares."""
    required = {field.name for field in fields(CaseResult)} - ADDED_LATER
    values = {name: data[name] for name in required}
    values["starts_cold"] = data.get("starts_cold", False)
    values["weights_profile"] = data.get("weights_profile")
    values["role"] = Role(data["role"]) if data.get("role") is not None else None
    values["case"] = Case.from_json(data["case"], where)
    values["images"] = tuple(map(ImageTiming.from_json, data["images"]))
    if not values["images"]:
        raise ValueError("no images")
    for name in ("reference_e2e_s", "pace_ms"):
        values[name] = tuple(values[name])
    for name in TIMED_APART:
        values[name] = tuple(data.get(name, ()))
    values["telemetry"] = tuple(map(dict, values["telemetry"]))
    for name in ("counters", "proofs", "provenance", "sampling"):
        values[name] = dict(values[name])
    for name in ("canaries", "kernels"):
        values[name] = {k: tuple(v) for k, v in values[name].items()}
    for name in ("reference_e2e_s", "pace_ms"):
        if len(values[name]) not in (0, len(values["images"])):
            raise ValueError(f"{len(values[name])} {name} for {len(values['images'])} images")
    return values


def _check_figures(result: CaseResult) -> None:
    """Raise ValueError for a figure that has no logarithm, while the file's name is known."""
    check_positive(load_s=result.load_s, apply_s=result.apply_s, first_image_s=result.first_image_s)
    check_positive(reference_e2e_s=result.reference_e2e_s, pace_ms=result.pace_ms)
    check_positive(**{name: getattr(result, name) for name in TIMED_APART})
    check_positive(**result.canaries)
    for reading in result.telemetry:
        check_readings(**reading)
    for image in result.images:
        figures = dict(vars(image))
        if image.sm_clock_mhz is None:
            del figures["sm_clock_mhz"]
        check_positive(**figures)
    check_texts(**result.proofs, weights_profile=result.weights_profile or "")
    check_texts(**result.kernels)
    for name in ("compiles", "starts_cold"):
        if not isinstance(answer := getattr(result, name), bool):
            raise ValueError(f"{name} is {answer!r}")
    for name, count in result.counters.items():
        if type(count) is not int:
            raise ValueError(f"the counter {name} is {count!r}, which is no integer")
    for name in ("peak_memory_gib", "package_mib", "device_busy"):
        if figure := getattr(result, name):  # 0 and None: not measured
            check_positive(**{name: figure})


def eager_ratios(images: Sequence[ImageTiming], reference_e2e_s: Sequence[float]) -> list[float]:
    """Return the time of each image over that of its paired eager image; empty without those."""
    if not reference_e2e_s:
        return []
    return [i.e2e_s / eager_s for i, eager_s in zip(images, reference_e2e_s, strict=True)]
