"""Compile every kernel for a Hopper GPU, without one, and print what came out as JSON.

In a process of its own, without TRITON_INTERPRET: `python -m tests.support.compile_kernels`.
"""

import json
import sys
from itertools import product

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fluxfast.kernels import (
    activation,
    gemm_gelu,
    gemm_qkv_rope,
    gemm_single_block,
    layernorm,
    rope,
    tiles,
    vae,
)

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


def signature(kernel, types, constants):
    found = {}
    for name in kernel.arg_names:
        if name in constants:
            found[name] = "constexpr"
        else:
            found[name] = types.get(name, "i32")
    return found


def compiled(kernel, types, constants, options):
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    names = signature(kernel, types, constants)
    # Strides and widths are multiples of 16 at the shapes of Flux, as Triton finds at run time.
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, (name, kind) in enumerate(names.items())
        if kind not in ("constexpr", "fp32") and name not in COUNTS and "desc" not in kind
    }
    source = ASTSource(kernel, names, places, aligned)
    return triton.compile(source, target=HOPPER, options=options)


def pointers(names, kind):
    return dict.fromkeys(names, f"*{kind}")


KINDS = {1: "fp8e4nv", 2: "bf16"}  # by the bytes of a value


def product_variant(kernel, tile, in_bytes, out_bytes, out_box, constants):
    """A product with an epilogue, whose operands and result are descriptors."""
    kind, inner = KINDS[in_bytes], tiles.INNER_BYTES // in_bytes
    one = {
        "rows": f"tensordesc<{kind}[{tile.rows}, {inner}]>",
        "weight": f"tensordesc<{kind}[{tile.columns}, {inner}]>",
        "out": f"tensordesc<{KINDS[out_bytes]}{out_box}>",
        "mlp_weight": f"tensordesc<{kind}[{tile.columns}, {inner}]>",
        "mlp_out": f"tensordesc<{KINDS[out_bytes]}{out_box[-2:]}>",
        **pointers(("bias", "mlp_bias", "norm_weights"), "bf16"),
        **pointers(("row_scales", "column_scales"), "fp32"),
    }
    both = {f"{stream}_{name}": kind for stream in ("text", "image") for name, kind in one.items()}
    both |= {"text": one["rows"], "image": one["rows"]}
    types = one | both | pointers(("out_scales", "cosines", "sines"), "fp32") | {"eps": "fp32"}
    flags = dict(ROWS=tile.rows, COLUMNS=tile.columns, INNER=inner, PROGRAMS=132)
    flags |= dict(GROUP=tiles.GROUPS[in_bytes], **constants)
    options = dict(num_stages=tile.num_stages, num_warps=tile.num_warps)
    return kernel, types, flags, options


def products():
    both_tiles = (tiles.LARGE, tiles.SMALL)
    for tile in both_tiles:
        box = [tile.rows, tile.columns]
        gelu = gemm_gelu.fluxfast_gelu_product
        yield product_variant(gelu, tile, 1, 1, box, dict(HAS_TANH=True))
    for tile, in_bytes, out_bytes, has_text in product(both_tiles, KINDS, KINDS, (False, True)):
        stores = tiles.stores_of(tile, out_bytes)
        box = [1, tile.rows, tile.columns // stores]
        flags = dict(HEAD_DIM=128, STORES=stores, IS_FP8=in_bytes == 1, HAS_TEXT=has_text)
        kernel = gemm_qkv_rope.fluxfast_qkv_product
        yield product_variant(kernel, tile, in_bytes, out_bytes, box, flags)
    for tile in both_tiles:
        stores = tiles.stores_of(tile, 2)
        box = [1, tile.rows, tile.columns // stores]
        flags = dict(HEAD_DIM=128, STORES=stores, HAS_TANH=True)
        flags |= dict(row_scales=None, column_scales=None)
        kernel = gemm_single_block.fluxfast_qkv_product_and_gelu
        yield product_variant(kernel, tile, 2, 2, box, flags)


def variants():
    """Kernel, types of its arguments, constants and options: each branch at the widths of Flux."""
    for is_fp8 in (False, True):
        out = {"out": "*fp8e4nv" if is_fp8 else "*bf16", "out_scales": "*fp32", "eps": "fp32"}
        rows = pointers(("text", "image", "update", "gate", "shift", "scale", "summed"), "bf16")
        rows |= pointers(("bias",), "bf16")
        rows |= pointers(("row_scales", "column_scales", "reach", "inner_scales"), "fp32")
        # Gated, scaled, normed, as the operators launch them.
        launched = [(False, False, True), (True, False, True)]
        if not is_fp8:
            launched += [(True, False, False), (True, True, False)]
        for is_gated, is_scaled, is_normed in launched:
            flags = dict(FIRST=2048, REST=1024, IS_FP8=is_fp8)
            flags |= dict(IS_GATED=is_gated, IS_SCALED=is_scaled, IS_NORMED=is_normed)
            flags |= dict(HAS_REACH=is_fp8)
            warps = 2 if is_fp8 and not is_gated else 4
            yield layernorm.fluxfast_residual_norm, rows | out, flags, dict(num_warps=warps)
        rows = pointers(("attended", "mlp"), "bf16") | pointers(("least_scales",), "fp32")
        attended, mlp, none = (2048, 1024), (8192, 4096), (0, 0)
        for left, right in ((attended, mlp), (attended, none) if is_fp8 else (none, mlp)):
            flags = dict(ATTENDED=left[0], ATTENDED_REST=left[1], IS_FP8=is_fp8)
            flags |= dict(MLP=right[0], MLP_REST=right[1], HAS_LEAST=is_fp8 and right == none)
            options = dict(num_warps=activation.default_warps(sum(left + right)))
            options |= dict(maxnreg=activation.MAX_REGISTERS)
            yield activation.fluxfast_gelu_join, rows | out, flags, options
        heads = pointers(("text", "image", "weights"), "bf16")
        heads |= pointers(("cosines", "sines"), "fp32")
        yield (
            rope.fluxfast_qkv_rotary,
            heads | out,
            dict(HEADS=8, HEAD_BLOCK=128),
            dict(num_warps=1),
        )

    yield from products()

    types = pointers(("x", "x_bias", "weight", "bias", "residual", "out"), "bf16")
    types |= pointers(("sums", "factors"), "fp32") | {"eps": "fp32"}
    tile, options = dict(ROWS=32, CHANNELS=128), dict(num_warps=vae.WARPS)
    factors = dict(HAS_BIAS=True, GROUP=4, PARTS=vae.PARTS_AT_ONCE)
    yield vae.fluxfast_channel_sums, types, tile, options
    yield vae.fluxfast_group_factors, types, factors, options
    yield vae.fluxfast_group_norm_silu, types, tile, options
    yield vae.fluxfast_upsample, types, tile, options
    types |= pointers(("bias",), "fp32")
    yield vae.fluxfast_bias_residual, types, tile | dict(HAS_RESIDUAL=True), options


def main():
    rows = []
    for kernel, types, constants, options in variants():
        done = compiled(kernel, types, constants, options)
        rows.append(
            {
                "kernel": kernel.__name__,
                "is_fp8": "fp8e4nv" in types["out"],
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
