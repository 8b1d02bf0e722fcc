"""The autoencoder: pictures of the world to 16 channels at an eighth of the side, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fluxfast.models.architecture import MINI, VAE_COMMON
from training.data import Pictures, some, storage
from training.loop import Run, fit
from training.recipe import Recipe

# Keeps latents near a unit normal, at about 0.1 nats a value: smooth enough to denoise.
DIVERGENCE_WEIGHT = 1e-3
ENCODING_BATCH = 256
WHOLE_EVERY = 4  # of four batches one has whole pictures, fewer of them; the others have windows
WINDOWS_PER_SIDE = 2


def train_autoencoder(pictures: Pictures, recipe: Recipe, run: Run) -> Any:
    """An AutoencoderKL whose shift and scale turn its latents into mean 0 and deviation 1."""
    import diffusers

    torch.manual_seed(run.seed)
    vae = diffusers.AutoencoderKL(**VAE_COMMON, **MINI.vae)
    vae = vae.to(run.device, memory_format=torch.channels_last)
    stage = recipe.autoencoder

    def loss(iteration: int, generator: torch.Generator) -> Tensor:
        whole = iteration % WHOLE_EVERY == WHOLE_EVERY - 1
        count = max(1, stage.batch_size // WINDOWS_PER_SIDE**2) if whole else stage.batch_size
        picture = pictures.generate(some(len(pictures), count, generator), recipe.side)
        if not whole:
            picture = _window(picture, recipe.side // WINDOWS_PER_SIDE, generator)
        with run.autocast():
            posterior = vae.encode(picture).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator, device=run.device)
            drawn = vae.decode(posterior.mean + posterior.std * noise).sample
        error = drawn.float() - picture
        # Squares for the PSNR, absolute values for the edges.
        divergence = posterior.kl().float().mean() / posterior.mean[0].numel()
        value: Tensor = error.abs().mean() + 4 * error.square().mean()
        return value.add(divergence, alpha=DIVERGENCE_WEIGHT)

    fit("autoencoder", {"vae": vae}, loss, stage, run)
    first = encode(vae, pictures, recipe.side, run, scaled=False, count=min(2_048, len(pictures)))
    vae.register_to_config(
        shift_factor=round(first.float().mean().item(), 4),
        scaling_factor=round(1 / first.float().std().item(), 4),
    )
    return vae


def _window(picture: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A square of `side` pixels somewhere in each picture [N, 3, S, S], a latent's width apart."""
    places = (picture.shape[-1] - side) // 8 + 1
    begins = torch.randint(places, (2, len(picture)), generator=generator, device=picture.device)
    reach = torch.arange(side, device=picture.device)
    rows, columns = (8 * begin[:, None] + reach for begin in begins)
    batch = torch.arange(len(picture), device=picture.device)[:, None, None]
    windows = picture.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return windows.permute(0, 3, 1, 2)


@torch.no_grad()
def encode(
    vae: Any, pictures: Pictures, side: int, run: Run, *, scaled: bool = True, count: int = 0
) -> Tensor:
    """Mean latents [N, 16, side / 8, side / 8] in the device's working precision."""
    total, parts = count or len(pictures), []
    shift, scale = (vae.config.shift_factor, vae.config.scaling_factor) if scaled else (0.0, 1.0)
    for begin in range(0, total, ENCODING_BATCH):
        rows = slice(begin, min(begin + ENCODING_BATCH, total))
        with run.autocast():
            mean = vae.encode(pictures.generate(rows, side)).latent_dist.mean
        parts.append(((mean.float() - shift) * scale).to(storage(run)))
    return torch.cat(parts)
