"""PyTorch's int8 GEMM on CPUs without int8 instructions: the same integers, ten times as fast."""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.library import Library


@cache
def use_float64_gemms() -> Library | None:
    """Compute `aten::_int_mm` in float64 on a CPU without VNNI, from now on.

    Nothing undoes this: float64 holds every sum exactly, so no result changes. PyTorch's own loop
    takes 135 ms for [576, 1280] times [1280, 256], this 13 ms (one thread of an AMD EPYC, 2.13.0).

    Returns:
        The registration, which lasts as long as this object.
    """
    import torch

    if torch.cpu._is_vnni_supported():
        return None
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")
        library.impl("_int_mm", _int_mm, "CPU")  # type: ignore[no-untyped-call]
    return library


def _int_mm(left: Tensor, right: Tensor) -> Tensor:
    import torch

    return (left.double() @ right.double()).to(torch.int32)
