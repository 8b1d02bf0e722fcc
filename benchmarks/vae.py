"""Compare the VAE with fused kernels with the eager VAE: first calls, time and error.

    python -m benchmarks.vae                 # on an NVIDIA GPU, under a minute; prints JSON

The published shape, random weights, bfloat16, 1024×1024. Each error is against float32. The fused
one comes first: with an empty TRITON_CACHE_DIR its first call is what a cold start pays.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from fluxfast.console import out, quiet_libraries
from fluxfast.hardware import detect, environment
from fluxfast.models.architecture import LATENT_CHANNELS, PUBLISHED, VAE_COMMON, Architecture
from fluxfast.optimizations.fusion._vae import fuse_vae
from fluxfast.profiling.device_clock import median_ms

SIDE = 1024
OTHER_SIZES = ((768, 1360), (1360, 768), (2048, 2048))
SHRINKS = 8  # an image is so many times as wide as its latents


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    quiet_libraries()
    hardware = detect("cuda")
    figures = vae_figures(PUBLISHED, torch.bfloat16, hardware.device, SIDE, OTHER_SIZES)
    out(json.dumps({"environment": environment(hardware)} | figures, indent=1))


@torch.no_grad()
def vae_figures(
    shape: Architecture,
    dtype: torch.dtype,
    device: str,
    side: int,
    other_sizes: tuple[tuple[int, int], ...] = (),
    repeats: int = 20,
) -> dict[str, Any]:
    """Return milliseconds, seconds of first calls and relative errors, eager and fused."""
    eager, fused = _vae(shape, device).to(dtype), _vae(shape, device).to(dtype)
    fuse_vae(fused)
    latents = _random(LATENT_CHANNELS, side // SHRINKS, side // SHRINKS, device)
    picture = _random(3, side, side, device)
    figures: dict[str, Any] = {}
    images: dict[str, Tensor] = {}
    for name, vae in (("fused", fused), ("eager", eager)):
        decode = partial(vae.decode, latents.to(dtype))
        encode = partial(vae.encode, picture.to(dtype))
        first_s, images[name] = _timed(decode)
        figures[name] = {
            "first_decode_s": first_s,
            "decode_ms": median_ms(decode, device, repeats),
            "encode_ms": median_ms(encode, device, repeats),
        }
    for height, width in other_sizes:
        other = _random(LATENT_CHANNELS, height // SHRINKS, width // SHRINKS, device).to(dtype)
        decode = partial(fused.decode, other)
        first_s, _ = _timed(decode)
        decode_ms = median_ms(decode, device, repeats)
        figures[f"fused, {height}x{width}"] = {"first_decode_s": first_s, "decode_ms": decode_ms}
    with torch.backends.cudnn.flags(allow_tf32=False):
        exact = _vae(shape, device).decode(latents).sample
    for name, image in images.items():
        figures[name]["error"] = float((image.float() - exact).norm() / exact.norm())
    return figures


def _vae(shape: Architecture, device: str) -> Any:
    """Return a VAE in float32, with the same weights each time."""
    torch.manual_seed(0)
    with torch.device(device):
        vae = AutoencoderKL(**VAE_COMMON, **shape.vae)
    vae.fuse_qkv_projections()
    return vae.eval()


def _random(channels: int, height: int, width: int, device: str) -> Tensor:
    generator = torch.Generator(device).manual_seed(1)
    return torch.randn(1, channels, height, width, device=device, generator=generator)


def _timed(decode: Callable[[], Any]) -> tuple[float, Tensor]:
    """Return the seconds until the image is computed, and the image."""
    started = time.perf_counter()
    result: Tensor = decode().sample
    result.sum().item()
    return time.perf_counter() - started, result


if __name__ == "__main__":
    main()
