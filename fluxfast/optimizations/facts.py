"""Facts of an optimization for other modules: its kernels, number format and packages."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class KernelCategory(StrEnum):
    """The kind of work that a kernel does, as profiles, rooflines and reports group kernels."""

    GEMM = "GEMM"
    ATTENTION = "attention"
    NORM = "norm"
    QUANTIZE = "quantize"
    COPY = "copy"
    EXCHANGE = "exchange"
    OTHER = "other"
    IDLE = "idle"


class NumberFormat(StrEnum):
    """The number format in which an optimization computes GEMMs or attention."""

    FP8_PER_ROW = "fp8, one scale per row"
    FP8_PER_TENSOR = "fp8, one scale per tensor"
    FP8_UNSCALED = "fp8, cast by the caller with a scale of one"
    FP8_INTERNAL = "fp8, cast by the kernel itself"
    INT8_PER_ROW = "int8, one scale per row"

    @property
    def is_fp8(self) -> bool:
        """Return whether the roofline takes the fp8 ceiling."""
        return self is not NumberFormat.INT8_PER_ROW


@dataclass(frozen=True, kw_only=True)
class Package:
    """A distribution that an optimization requires.

    Attributes:
        name: the distribution's name, as pip knows it.
        install: the command that installs it.
    """

    name: str
    install: str
