"""Triton's kernels on a CPU: interpreted, with conversions that round as the hardware does.

On a machine with a GPU nothing is changed: there the kernels are compiled.
"""

import numpy as np
import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
triton = pytest.importorskip("triton", reason="pip install triton")
from triton.runtime import interpreter  # noqa: E402

_convert = interpreter._convert_float


def _rounded(values, source, target, rounding):
    """Triton 3.6's interpreter truncates to bfloat16 and loses a carry to fp8."""
    narrow = {"bf16": torch.bfloat16, "fp8e4nv": torch.float8_e4m3fn}.get(str(target))
    if str(source) != "fp32" or narrow is None:
        return _convert(values, source, target, rounding)
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    if narrow is torch.float8_e4m3fn:
        tensor = tensor.clamp(-448.0, 448.0)
    bits = torch.uint8 if narrow.itemsize == 1 else torch.int16
    return tensor.to(narrow).view(bits).numpy().reshape(np.shape(values))


_dot = interpreter.InterpreterBuilder.create_dot


def _dot_of_floats(self, a, b, d, *given):
    """Triton 3.6's interpreter keeps bfloat16 as integers, and multiplies them as such."""
    a, b = (
        interpreter.TensorHandle(
            (x.data.astype(np.uint32) << 16).view(np.float32), interpreter.tl.float32
        )
        if x.dtype.scalar == interpreter.tl.bfloat16
        else x
        for x in (a, b)
    )
    return _dot(self, a, b, d, *given)


_patch = interpreter._patch_lang_tensor


def _patched(tensor, scope):
    """Triton 3.6 counts loops with arrays of one number, which numpy 2.4 takes for none."""
    _patch(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


_searched = set()


def _call(self, *arguments, **named):
    """Triton 3.6 searches its language for what to patch at each call within a kernel.

    Once for each module is enough: a launch patches the same functions, and this patch stays.
    """
    if self.fn.__module__ not in _searched:
        interpreter._patch_lang(self.fn)
        _searched.add(self.fn.__module__)
    return self.rewrite()(*arguments, **named)


def _no_overflow(self, lhs, rhs, binary_op):
    """Triton 3.6 finds overflows by repeating each operation on integers, and drops the result."""
    assert not self.builder.options.debug


def _tuple_type(self, types, fields=None):
    """Triton 3.6 spells the name of each tuple's type, for messages, whenever it makes one."""
    self.types, self.fields = types, fields or [""] * len(types)
    self.name = "tuple"


if DEVICE == "cpu":
    interpreter.TritonSemantic.binary_op_sanitize_overflow_impl = _no_overflow
    interpreter.tl.core.tuple_type.__init__ = _tuple_type
    interpreter.InterpretedFunction.__call__ = _call
    interpreter._convert_float = _rounded
    interpreter._patch_lang_tensor = _patched
    interpreter.InterpreterBuilder.create_dot = _dot_of_floats


def first_of(*values):
    """Return the values as parameters: the first for every run, the others for `further`."""
    return [
        value if number == 0 else pytest.param(value, marks=pytest.mark.further)
        for number, value in enumerate(values)
    ]


def random(*shape, dtype=torch.bfloat16, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator)).to(dtype).to(DEVICE)


def relative_error(out, reference):
    """‖out − reference‖ / ‖reference‖ in float32."""
    return float((out.float() - reference.float()).norm() / reference.float().norm())
