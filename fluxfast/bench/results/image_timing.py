"""The timings of one image and its stages. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ImageTiming:
    """The timings of one image and its stages.

    The wall time lies between two device synchronizations. Stages are timed with device events on
    a GPU and with the host clock on a CPU.

    Attributes:
        e2e_s: seconds of the whole image.
        encode_ms: milliseconds of the text encoders.
        prepare_ms: milliseconds between encoding and the first step: latents, schedule, and
            Kontext's VAE encoder.
        step_ms: milliseconds of each denoising step.
        decode_ms: milliseconds of the VAE decoder.
        postprocess_ms: milliseconds from the decoded tensor to the PIL image.
        sm_clock_mhz: mean clock of the multiprocessors during the steps in MHz, from their cycle
            counters; None where they were not read.
    """

    e2e_s: float
    encode_ms: float
    prepare_ms: float
    step_ms: tuple[float, ...]
    decode_ms: float
    postprocess_ms: float
    sm_clock_mhz: float | None = None

    @property
    def step_mcycles(self) -> float | None:
        """Millions of SM cycles of a step, the mean over the steps; None without a clock."""
        if self.sm_clock_mhz is None:
            return None
        return statistics.fmean(self.step_ms) * self.sm_clock_mhz / 1e3

    def to_json(self) -> dict[str, Any]:
        """Return the fields for JSON, without a clock that was not read."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ImageTiming:
        """Return the timing that JSON describes; raise ValueError if it has no steps."""
        step_ms = tuple(data["step_ms"])
        if not step_ms:
            raise ValueError("an image without steps")
        return cls(**{**data, "step_ms": step_ms})
