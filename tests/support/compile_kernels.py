"""Compile the kernels for a Hopper GPU, without one, and print what each one became as JSON.

Run it in a process of its own, without TRITON_INTERPRET: `python -m tests.support.compile_kernels`.
`--every` adds the GEMMs' other tiles and number formats. With a folder as argument it also writes
the PTX of every variant there, to compare two commits.
"""

import json
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fluxfast.kernels import (
    activation,
    gemm_gelu,
    gemm_qkv_rope,
    gemm_single_block,
    heads,
    layernorm,
    rope,
    sm_clock,
    tiles,
    vae,
)
from fluxfast.kernels.launch import BatchVectors, TokenRows

# Integers that need not be multiples of 16; strides and widths are at the shapes of Flux, as Triton
# finds at run time.
COUNTS = (
    "heads",
    "batch",
    "tokens",
    "text_tokens",
    "image_tokens",
    "tiles",
    "parts",
    "per_group",
    "row_count",
)
HOPPER = GPUTarget("cuda", 90, 32)
KINDS = {1: "fp8e4nv", 2: "bf16"}  # by the bytes of a value


class Variant(NamedTuple):
    """A kernel with the types of its arguments, its constants and its options.

    Arguments without a type or a constant are int32; a constant of None is an argument left out.
    """

    kernel: Any
    types: dict[str, Any]
    constants: dict[str, Any]
    options: dict[str, int]


def compiled(kernel, types, constants, options):
    signature = {
        name: "constexpr" if name in constants else types.get(name, "i32")
        for name in kernel.arg_names
    }
    values, aligned = {}, {}
    for path, name, kind in leaves(kernel.arg_names, signature):
        if kind == "constexpr":
            values[path] = constants.get(name)
        elif kind != "fp32" and name not in COUNTS and "desc" not in kind:
            aligned[path] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, values, aligned)
    return triton.compile(source, target=HOPPER, options=options)


def leaves(names, signature) -> Iterator[tuple[tuple[int, ...], str, str]]:
    """Yield path, name and type of each argument; of a named tuple, of each of its fields."""
    for index, name in enumerate(names):
        if isinstance(kinds := signature[name], tuple):
            for place, field in enumerate(kinds._fields):
                yield (index, place), field, kinds[place]
        else:
            yield (index,), name, kinds


def pointers(names, kind):
    return dict.fromkeys(names, f"*{kind}")


def gemm_variant(kernel, tile, in_bytes, out_bytes, out_box, constants):
    """Return a variant of a GEMM with an epilogue: its operands and result are descriptors."""
    kind, inner = KINDS[in_bytes], tiles.INNER_BYTES // in_bytes
    rows = f"tensordesc<{kind}[{tile.rows}, {inner}]>"
    weight = f"tensordesc<{kind}[{tile.columns}, {inner}]>"
    scales = "*fp32" if in_bytes == 1 else "constexpr"
    layer = heads.Layer(scales, scales, "*bf16", "*bf16", "i32")
    types = dict.fromkeys(("rows", "text", "image"), rows)
    types |= dict.fromkeys(("weight", "rows_weight", "text_weight", "image_weight"), weight)
    types |= dict.fromkeys(
        ("out", "rows_out", "text_out", "image_out"), f"tensordesc<{KINDS[out_bytes]}{out_box}>"
    )
    types |= dict.fromkeys(("layer", "text_layer", "image_layer"), layer)
    types |= {"mlp_weight": weight, "mlp_out": f"tensordesc<{KINDS[out_bytes]}{out_box[-2:]}>"}
    types |= {"tables": rope.RopeTables("*fp32", "*fp32"), "eps": "fp32"}
    types |= pointers(("bias", "mlp_bias"), "bf16")
    types |= pointers(("row_scales", "column_scales", "out_scales"), "fp32")
    flags = dict(ROWS=tile.rows, COLUMNS=tile.columns, INNER=inner, PROGRAMS=132)
    flags |= dict(GROUP=tiles.GROUPS[in_bytes], **constants)
    options = dict(num_stages=tile.num_stages, num_warps=tile.num_warps)
    return Variant(kernel, types, flags, options)


def gemms(every):
    """Yield the GEMMs with the large tile and one number format, or with all of both."""
    both_tiles = (tiles.LARGE, tiles.SMALL) if every else (tiles.LARGE,)
    formats = list(product(KINDS, KINDS, (False, True))) if every else [(1, 1, True), (2, 2, False)]
    for tile in both_tiles:
        box = [tile.rows, tile.columns]
        kernel = gemm_gelu.fluxfast_gelu_product
        yield gemm_variant(kernel, tile, 1, 1, box, dict(HAS_TANH=True))
    for tile, (in_bytes, out_bytes, has_text) in product(both_tiles, formats):
        stores = tile.stores(out_bytes)
        box = [1, tile.rows, tile.columns // stores]
        flags = dict(HEAD_DIM=128, STORES=stores, HAS_TEXT=has_text)
        kernel = gemm_qkv_rope.fluxfast_qkv_product
        yield gemm_variant(kernel, tile, in_bytes, out_bytes, box, flags)
    for tile in both_tiles:
        stores = tile.stores(2)
        box = [1, tile.rows, tile.columns // stores]
        flags = dict(HEAD_DIM=128, STORES=stores, HAS_TANH=True)
        kernel = gemm_single_block.fluxfast_qkv_product_and_gelu
        yield gemm_variant(kernel, tile, 2, 2, box, flags)


TOKEN_ROWS = TokenRows("*bf16", "i32", "i32")


def norms(is_fp8, out):
    """Yield the residual pass with the steps that its operators request."""
    vectors = dict.fromkeys(("gate", "shift", "scale"), BatchVectors("*bf16", "i32"))
    types = dict.fromkeys(("text", "image", "update"), TOKEN_ROWS) | vectors
    types |= pointers(("summed",), "bf16") | pointers(("amax_bound", "inner_scales"), "fp32") | out
    types |= {"dequantization": layernorm.Dequantization("*fp32", "*fp32", "*bf16")}
    # Gated, dequantized, normalized.
    requested = [(False, False, True), (True, False, True)]
    if not is_fp8:
        requested += [(True, False, False), (True, True, False)]
    for is_gated, is_dequantized, is_normed in requested:
        flags: dict[str, Any] = dict(FIRST=2048, REST=1024, IS_FP8=is_fp8)
        flags |= {} if is_gated else dict(gate=None, update=None)
        flags |= {} if is_dequantized else dict(dequantization=None)
        flags |= {} if is_normed else dict(shift=None, scale=None)
        flags |= {} if is_fp8 else dict(amax_bound=None)
        warps = 2 if is_fp8 and not is_gated else 4
        yield Variant(layernorm.fluxfast_residual_norm, types, flags, dict(num_warps=warps))


def activations(is_fp8, out):
    types = dict.fromkeys(("attended", "mlp"), TOKEN_ROWS) | pointers(("least_scales",), "fp32")
    attended, mlp, none = (2048, 1024), (8192, 4096), (0, 0)
    for left, right in ((attended, mlp), (attended, none) if is_fp8 else (none, mlp)):
        flags: dict[str, Any] = dict(ATTENDED=left[0], ATTENDED_REST=left[1], IS_FP8=is_fp8)
        flags |= dict(MLP=right[0], MLP_REST=right[1])
        flags |= {} if left != none else dict(attended=None)
        flags |= {} if right != none else dict(mlp=None)
        flags |= {} if is_fp8 and right == none else dict(least_scales=None)
        options = dict(num_warps=activation.default_warps(sum(left + right)))
        options |= dict(maxnreg=activation.MAX_REGISTERS)
        yield Variant(activation.fluxfast_gelu_join, types | out, flags, options)


def images():
    types = pointers(("x", "x_bias", "weight", "bias", "residual", "out"), "bf16")
    types |= pointers(("sums", "factors"), "fp32") | {"eps": "fp32"}
    tile, options = dict(ROWS=32, CHANNELS=128), dict(num_warps=vae.WARPS)
    factors = dict(GROUP=4, PARTS=vae.PARTS_AT_ONCE)
    yield Variant(vae.fluxfast_channel_sums, types, tile, options)
    yield Variant(vae.fluxfast_group_factors, types, factors, options)
    yield Variant(vae.fluxfast_group_norm_silu, types, tile, options)
    yield Variant(vae.fluxfast_upsample, types, tile, options)
    yield Variant(vae.fluxfast_bias_residual, types | pointers(("bias",), "fp32"), tile, options)


def variants(every):
    """Yield each branch of each kernel at the widths of Flux, with some or all kinds of GEMMs."""
    for is_fp8 in (False, True):
        out = {"out": "*fp8e4nv" if is_fp8 else "*bf16", "out_scales": "*fp32", "eps": "fp32"}
        yield from norms(is_fp8, out)
        yield from activations(is_fp8, out)
        rotary = dict.fromkeys(("text", "image"), TOKEN_ROWS) | pointers(("weights",), "bf16") | out
        rotary |= {"tables": rope.RopeTables("*fp32", "*fp32")}
        constants, options = dict(HEADS=8, HEAD_BLOCK=128), dict(num_warps=1)
        yield Variant(rope.fluxfast_qkv_rotary, rotary, constants, options)
    yield from gemms(every)
    yield from images()
    yield Variant(sm_clock.fluxfast_sm_clock, pointers(("counters",), "i64"), {}, dict(num_warps=1))


def main():
    every, words = "--every" in sys.argv, [word for word in sys.argv[1:] if word != "--every"]
    folder = Path(words[0]) if words else None
    rows = []
    for number, (kernel, types, constants, options) in enumerate(variants(every)):
        done = compiled(kernel, types, constants, options)
        if folder:
            (folder / f"{number:02d}_{kernel.__name__}.ptx").write_text(done.asm["ptx"])
        rows.append(
            {
                "kernel": kernel.__name__,
                "is_fp8": "fp8e4nv" in str(types.get("out")) + str(types.get("text_out")),
                "converts_to_fp8": "e4m3" in done.asm["ptx"],
                "wide_loads": "ld.global.v4" in done.asm["ptx"],
                "on_tensor_cores": "wgmma" in done.asm["ptx"],
                "shared_bytes": done.metadata.shared,
                "cubin_bytes": len(done.asm["cubin"]),
            }
        )
    json.dump(rows, sys.stdout)


if __name__ == "__main__":
    main()
