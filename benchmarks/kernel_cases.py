"""Each fused kernel paired with the same computation in PyTorch, for its error and its time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxfast.kernels.activation import gelu_join
from fluxfast.kernels.layernorm import Dequantization, residual_norm
from fluxfast.kernels.rope import rope_tables, rotate_heads
from fluxfast.profiling.roofline import Shape

EPS = 1e-6
FP8 = torch.float8_e4m3fn


@dataclass(frozen=True, kw_only=True)
class KernelCase:
    """A kernel and its reference in PyTorch, which return the same tensors.

    Attributes:
        name: the operator, with `_fp8` where the result is fp8.
        launch: runs the kernel with a number of warps; an fp8 result is followed by its scales.
        plain: the reference on `inputs`, in their dtype; it quantizes where the kernel does.
        inputs: arguments of `plain`.
        is_fp8: the result is float8_e4m3fn.
        bytes: bytes that the kernel reads and writes.
    """

    name: str
    launch: Callable[[int], Any]
    plain: Callable[..., Any]
    inputs: tuple[Any, ...]
    is_fp8: bool
    bytes: float


def quantized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows in fp8 and the scale of each row, as torchao quantizes activations."""
    scales = rows.abs().amax(-1, keepdim=True).float() / 448.0
    return (rows.float() / scales).clamp(-448, 448).to(FP8), scales


def _rows(rows: Tensor, is_fp8: bool) -> tuple[Tensor, ...]:
    return quantized(rows) if is_fp8 else (rows,)


def _norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale[:, None]) + shift[:, None]


def kernel_cases(shape: Shape, heads: int, device: str) -> list[KernelCase]:
    """Return the kernels of one denoising step, in bfloat16 and in fp8.

    Args:
        shape: sizes of the step.
        heads: attention heads.
        device: torch device.
    """
    batch, hidden, mlp = shape.batch, shape.hidden, shape.mlp
    generator = torch.Generator(device).manual_seed(0)

    def random(*sizes: int, scale: float = 1.0) -> Tensor:
        noise = torch.randn(*sizes, device=device, generator=generator)
        return (noise * scale).bfloat16()

    text, image = (
        random(batch, shape.text_tokens, hidden),
        random(batch, shape.image_tokens, hidden),
    )
    tokens = shape.text_tokens + shape.image_tokens
    joined, update = random(batch, tokens, hidden), random(batch, tokens, hidden)
    wide = random(batch, tokens, mlp, scale=2.0)
    gate, shift, scale = random(batch, 3 * hidden, scale=0.3).chunk(3, dim=1)
    text_qkv, image_qkv = (
        random(batch, count, 3 * hidden) for count in (shape.text_tokens, shape.image_tokens)
    )
    weights = 1 + random(2, 2, hidden // heads, scale=0.1)
    angles = torch.rand(tokens, hidden // heads, device=device) * 6.28
    cosines, sines = angles.cos(), angles.sin()
    tables = rope_tables(cosines, sines)
    row, both = 2.0 * shape.tokens * hidden, (False, True)
    dequantization = Dequantization(
        row_scales=torch.rand(batch, tokens, 1, device=device),
        column_scales=torch.rand(1, hidden, device=device),
        bias=random(hidden),
    )

    def norm(text: Tensor, image: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return _norm(torch.cat([text, image], dim=1), shift, scale)

    def summed(tokens: Tensor, update: Tensor, gate: Tensor) -> Tensor:
        return tokens + gate[:, None] * update

    def rotated(x: Tensor, weight: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        x = F.rms_norm(x, x.shape[-1:], weight, EPS)
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        across = torch.stack([-odd, even], dim=-1).flatten(-2)
        out = x.float() * cosines[None, :, None] + across.float() * sines[None, :, None]
        return out.to(x.dtype)

    def rotary(is_fp8: bool, *given: Tensor) -> tuple[Tensor, ...]:
        text, image, weights, cosines, sines = given
        texts, images = (t.unflatten(-1, (3, heads, -1)).unbind(2) for t in (text, image))
        at = text.shape[1]
        out = [
            torch.cat(
                [
                    rotated(texts[part], weights[0, part], cosines[:at], sines[:at]),
                    rotated(images[part], weights[1, part], cosines[at:], sines[at:]),
                ],
                dim=1,
            )
            for part in (0, 1)
        ]
        out.append(torch.cat([texts[2], images[2]], dim=1))
        return tuple(part.to(FP8) if is_fp8 else part for part in out)

    def case(
        name: str, moved: float, is_fp8: bool, launch: Any, plain: Any, *given: Any
    ) -> KernelCase:
        return KernelCase(
            name=f"{name}{'_fp8' if is_fp8 else ''}",
            launch=launch,
            plain=plain,
            inputs=given,
            is_fp8=is_fp8,
            bytes=moved,
        )

    cases = [
        case(
            "gate_residual",
            3 * row,
            False,
            lambda warps: residual_norm(joined, update=update, gate=gate, num_warps=warps)[:1],
            lambda *given: (summed(*given),),
            joined,
            update,
            gate,
        ),
        case(
            "gate_residual_scaled",
            3 * row,
            False,
            lambda warps: residual_norm(
                joined, update=update, gate=gate, dequantization=dequantization, num_warps=warps
            )[:1],
            lambda x, u, g, row_scales, column_scales, bias: (
                summed(x, (u * row_scales * column_scales + bias).to(x.dtype), g),
            ),
            joined,
            update,
            gate,
            *dequantization,
        ),
    ]
    for fp8 in both:
        out = row / 2 if fp8 else row
        cases += [
            case(
                "norm_modulate",
                row + out,
                fp8,
                lambda warps, fp8=fp8: residual_norm(
                    image, text=text, shift=shift, scale=scale, eps=EPS, is_fp8=fp8, num_warps=warps
                )[1 : 3 if fp8 else 2],
                lambda *given, fp8=fp8: _rows(norm(*given), fp8),
                text,
                image,
                shift,
                scale,
            ),
            case(
                "gate_residual_norm",
                3 * row + out,
                fp8,
                lambda warps, fp8=fp8: residual_norm(
                    joined,
                    update=update,
                    gate=gate,
                    shift=shift,
                    scale=scale,
                    eps=EPS,
                    is_fp8=fp8,
                    num_warps=warps,
                )[: 3 if fp8 else 2],
                lambda x, u, g, b, s, fp8=fp8: (
                    summed(x, u, g),
                    *_rows(_norm(summed(x, u, g), b, s), fp8),
                ),
                joined,
                update,
                gate,
                shift,
                scale,
            ),
            case(
                "gelu_join",
                (row + out) * (hidden + mlp) / hidden,
                fp8,
                lambda warps, fp8=fp8: gelu_join(joined, wide, is_fp8=fp8, num_warps=warps)[
                    : 2 if fp8 else 1
                ],
                lambda a, m, fp8=fp8: _rows(
                    torch.cat([a, F.gelu(m, approximate="tanh")], dim=2), fp8
                ),
                joined,
                wide,
            ),
            case(
                "gelu",
                (row + out) * mlp / hidden,
                fp8,
                lambda warps, fp8=fp8: gelu_join(None, wide, is_fp8=fp8, num_warps=warps)[
                    : 2 if fp8 else 1
                ],
                lambda m, fp8=fp8: _rows(F.gelu(m, approximate="tanh"), fp8),
                wide,
            ),
            case(
                "qkv_rotary",
                3 * (row + out),
                fp8,
                lambda warps, fp8=fp8: tuple(
                    rotate_heads(
                        text_qkv,
                        image_qkv,
                        weights,
                        tables,
                        heads,
                        EPS,
                        with_value=True,
                        is_fp8=fp8,
                        num_warps=warps,
                    )
                ),
                lambda *given, fp8=fp8: rotary(fp8, *given),
                text_qkv,
                image_qkv,
                weights,
                cosines,
                sines,
            ),
        ]
    cases.append(
        case(
            "quantize_rows",
            1.5 * row,
            True,
            lambda warps: gelu_join(joined, None, is_fp8=True, num_warps=warps),
            quantized,
            joined,
        )
    )
    return cases


def errors(case: KernelCase) -> list[float]:
    """Return ‖out − reference‖ / ‖reference‖ of each result, with the reference in float32."""
    exact = case.plain(*(x.float() if isinstance(x, Tensor) else x for x in case.inputs))
    return [
        float((found - wanted).norm() / wanted.norm())
        for found, wanted in zip(_values(case.launch(4)), _values(exact), strict=True)
    ]


def _values(results: Any) -> list[Tensor]:
    """Return results in float32, with fp8 rows multiplied by their scales if they have any."""
    results, found = list(results), []
    while results:
        value = results.pop(0)
        has_scales = results and value.dtype is FP8 and results[0].shape[-1] == 1
        found.append(value.float() * results.pop(0) if has_scales else value.float())
    return found
