"""Train the VAE: images of the mini world to 16 channels at an eighth of the side, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fluxfast.models.architecture import MINI, VAE_COMMON
from training.data import SceneImages, some, storage
from training.loop import Run, fit
from training.recipe import Recipe

# Keeps latents near a unit normal, at about 0.1 nats per value: smooth enough to denoise.
DIVERGENCE_WEIGHT = 1e-3
ENCODING_BATCH = 256
WHOLE_EVERY = 4  # one batch of four has whole images, fewer of them; the others have windows
WINDOWS_PER_SIDE = 2


def train_autoencoder(images: SceneImages, recipe: Recipe, run: Run) -> Any:
    """Return an AutoencoderKL whose shift and scale give latents of mean 0 and deviation 1."""
    import diffusers

    torch.manual_seed(run.seed)
    vae = diffusers.AutoencoderKL(**VAE_COMMON, **MINI.vae)
    vae = vae.to(run.device, memory_format=torch.channels_last)
    stage = recipe.autoencoder

    def loss(iteration: int, generator: torch.Generator) -> Tensor:
        whole = iteration % WHOLE_EVERY == WHOLE_EVERY - 1
        count = max(1, stage.batch_size // WINDOWS_PER_SIDE**2) if whole else stage.batch_size
        image = images.render(some(len(images), count, generator), recipe.side)
        if not whole:
            image = _window(image, recipe.side // WINDOWS_PER_SIDE, generator)
        with run.autocast():
            posterior = vae.encode(image).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator, device=run.device)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        error = decoded.float() - image
        # Squared errors raise the PSNR, absolute errors keep edges sharp.
        divergence = posterior.kl().float().mean() / posterior.mean[0].numel()
        value: Tensor = error.abs().mean() + 4 * error.square().mean()
        return value.add(divergence, alpha=DIVERGENCE_WEIGHT)

    fit("autoencoder", {"vae": vae}, loss, stage, run)
    first = encode(vae, images, recipe.side, run, scaled=False, count=min(2_048, len(images)))
    vae.register_to_config(
        shift_factor=round(first.float().mean().item(), 4),
        scaling_factor=round(1 / first.float().std().item(), 4),
    )
    return vae


def _window(image: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Return a square of `side` pixels of each image [N, 3, S, S], aligned to latents."""
    places = (image.shape[-1] - side) // 8 + 1
    begins = torch.randint(places, (2, len(image)), generator=generator, device=image.device)
    reach = torch.arange(side, device=image.device)
    rows, columns = (8 * begin[:, None] + reach for begin in begins)
    batch = torch.arange(len(image), device=image.device)[:, None, None]
    windows = image.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return windows.permute(0, 3, 1, 2)


@torch.no_grad()
def encode(
    vae: Any, images: SceneImages, side: int, run: Run, *, scaled: bool = True, count: int = 0
) -> Tensor:
    """Return mean latents [N, 16, side / 8, side / 8] in the device's working precision."""
    total, parts = count or len(images), []
    shift, scale = (vae.config.shift_factor, vae.config.scaling_factor) if scaled else (0.0, 1.0)
    for begin in range(0, total, ENCODING_BATCH):
        rows = slice(begin, min(begin + ENCODING_BATCH, total))
        with run.autocast():
            mean = vae.encode(images.render(rows, side)).latent_dist.mean
        parts.append(((mean.float() - shift) * scale).to(storage(run)))
    return torch.cat(parts)
