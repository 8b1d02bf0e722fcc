"""The plain tensors of which a quantized tensor consists. Importing this module imports torch."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def plain_tensors(tensor: Any) -> list[Tensor]:
    """Return the tensor itself, or those that a quantized one consists of."""
    if not is_traceable_wrapper_subclass(tensor):
        return [tensor]
    names = tensor.__tensor_flatten__()[0]
    return [leaf for name in names for leaf in plain_tensors(getattr(tensor, name))]
