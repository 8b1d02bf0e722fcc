"""Train the transformer: rectified flow on images and on edits of images.

Flux is trained on x(σ) = (1 − σ)·latents + σ·noise and predicts the velocity noise − latents
(Esser et al. 2024, arXiv:2403.03206, equation 13). One base learns captions and edits together; the
shipped models are distilled from it (distil.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fluxfast.models.architecture import LATENT_CHANNELS, MINI
from training.data import some, storage, token_ids
from training.labels import LabelHead, Labels
from training.loop import Run, fit
from training.recipe import Recipe

NO_CAPTION_SHARE = 0.1  # share of a batch without a caption, for classifier-free guidance
# CLIP's pooled vector contains a caption's words, but not which belong together. A base that always
# receives it relies on it and never learns to read T5, so most of a batch goes without.
NO_POOLED_SHARE = 0.7
LABEL_WEIGHT = 0.1
ENCODING_BATCH = 4_096
UNGUIDED = 1.0
EDIT_EVERY = 3  # one batch of three holds edits, whose sequences are twice as long
# Timesteps are logit-normal, wide and shifted towards noise: the first steps of 28, above 0.93,
# decide the positions.
LOGIT_MEAN, LOGIT_STD = 1.0, 1.4


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Encoded texts: T5's states [N, 32, 128] and CLIP's pooled vectors [N, 96]."""

    states: Tensor
    pooled: Tensor

    def rows(self, rows: Tensor) -> Conditions:
        return Conditions(states=self.states[rows], pooled=self.pooled[rows])

    def without(self, empty: Conditions, *, text: Tensor, pooled: Tensor) -> Conditions:
        """Return these with the empty text's states and vectors in the rows that are true [N]."""
        return Conditions(
            states=torch.where(text[:, None, None], empty.states, self.states),
            pooled=torch.where(pooled[:, None], empty.pooled, self.pooled),
        )


@dataclass(frozen=True, kw_only=True)
class TextEncoders:
    """The trained CLIP text tower and T5, with their tokenizers."""

    clip: Any
    clip_tokenizer: Any
    t5: Any
    t5_tokenizer: Any

    @torch.no_grad()
    def encode(self, texts: Sequence[str], run: Run) -> Conditions:
        """Encode the texts; CLIP's vector is taken before the projection, as in FluxPipeline."""
        clip_length, t5_length = MINI.clip["max_position_embeddings"], MINI.max_text_tokens
        states, pooled = [], []
        for begin in range(0, len(texts), ENCODING_BATCH):
            part = texts[begin : begin + ENCODING_BATCH]
            ids = token_ids(self.clip_tokenizer, part, clip_length, run.device)
            pooled.append(self.clip.text_model(ids).pooler_output.float())
            with run.autocast():
                ids = token_ids(self.t5_tokenizer, part, t5_length, run.device)
                states.append(self.t5(ids).last_hidden_state.to(storage(run)))
        return Conditions(states=torch.cat(states), pooled=torch.cat(pooled))


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Training examples.

    Attributes:
        tokens: [N, T, 64], packed latents of the images.
        conditions: the encoded captions or instructions.
        labels: labels of `tokens`, then of `reference`.
        reference: tokens of the images before an edit; None for captions.
    """

    tokens: Tensor
    conditions: Conditions
    labels: Labels
    reference: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)


def pack(latents: Tensor) -> Tensor:
    """Pack latents [N, 16, h, w] into tokens [N, h/2 · w/2, 64]."""
    from diffusers import FluxPipeline

    count, channels, height, width = latents.shape
    packed: Tensor = FluxPipeline._pack_latents(latents, count, channels, height, width)
    return packed


def velocity(
    transformer: Any,
    tokens: Tensor,
    sigma: Tensor,
    texts: Conditions,
    guidance: Tensor | None,
    reference: Tensor | None = None,
) -> Tensor:
    """Return the predicted velocity [N, T, 64], calling the transformer as the pipelines do.

    Args:
        transformer: a FluxTransformer2DModel.
        tokens: [N, T, 64].
        sigma: noise levels [N].
        texts: the conditions of N texts.
        guidance: guidance scales [N]; None for a model without guidance.
        reference: tokens of the image before the edit; as in Kontext, the first of the three
            position ids distinguishes them.
    """
    count = tokens.shape[1]
    ids = _positions(count, 0, tokens.device)
    if reference is not None:
        tokens = torch.cat([tokens, reference], dim=1)
        ids = torch.cat([ids, _positions(count, 1, tokens.device)])
    predicted: Tensor = transformer(
        hidden_states=tokens,
        timestep=sigma,
        guidance=guidance,
        pooled_projections=texts.pooled,
        encoder_hidden_states=texts.states,
        txt_ids=torch.zeros(texts.states.shape[1], 3, device=tokens.device),
        img_ids=ids,
        return_dict=False,
    )[0]
    return predicted[:, :count]


def _positions(count: int, first: int, device: torch.device) -> Tensor:
    side = round(count**0.5)
    rows = torch.arange(side, device=device, dtype=torch.float32)
    grid = torch.stack(torch.meshgrid(rows, rows, indexing="ij"), dim=-1).view(-1, 2)
    return torch.cat([torch.full_like(grid[:, :1], first), grid], dim=1)


def noise_levels(count: int, generator: torch.Generator) -> Tensor:
    logits = torch.randn(count, generator=generator, device=generator.device)
    return torch.sigmoid(LOGIT_MEAN + LOGIT_STD * logits)


def noised(tokens: Tensor, sigma: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return x(σ) and its target velocity, in float32."""
    noise = torch.randn(tokens.shape, generator=generator, device=generator.device)
    level = sigma[:, None, None]
    return (1 - level) * tokens.float() + level * noise, noise - tokens.float()


def train_base(
    captioned: Examples, edited: Examples, empty: Conditions, recipe: Recipe, run: Run
) -> Any:
    """Return the base, a FluxTransformer2DModel trained at guidance 1."""
    transformer, stage = new_transformer(run), recipe.base
    assert captioned.tokens.shape[2] == 4 * LATENT_CHANNELS
    label_head = LabelHead(transformer, run.device)

    def loss(iteration: int, generator: torch.Generator) -> Tensor:
        examples = edited if is_edit(iteration) else captioned
        count = stage.batch_size
        rows = some(len(examples), count, generator)
        blank, alone = torch.rand(2, count, generator=generator, device=run.device)
        no_text = blank < NO_CAPTION_SHARE
        texts = examples.conditions.rows(rows).without(
            empty, text=no_text, pooled=no_text | (alone < NO_POOLED_SHARE)
        )
        sigma = noise_levels(count, generator)
        tokens, target = noised(examples.tokens[rows], sigma, generator)
        reference = None if examples.reference is None else examples.reference[rows].float()
        labels = examples.labels.rows(rows)
        with run.autocast():
            guidance = torch.full_like(sigma, UNGUIDED)
            predicted = velocity(transformer, tokens, sigma, texts, guidance, reference)
            token_losses = label_head.loss(labels)
        weight = torch.where(no_text[:, None], 1.0, labels.weight)
        error = weighted_error(predicted, target, weight)
        label_loss = (token_losses * weight * ~no_text[:, None]).mean()
        return error.add(label_loss, alpha=LABEL_WEIGHT)

    fit("base", {"transformer": transformer, "tell": label_head.head}, loss, stage, run)
    label_head.remove()
    return transformer


def weighted_error(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the mean squared error of [N, T, 64], weighted by the first T columns of `weight`."""
    error = (predicted.float() - target).square().mean(dim=2)
    mean: Tensor = (error * weight[:, : error.shape[1]]).mean()
    return mean


def is_edit(iteration: int) -> bool:
    return iteration % EDIT_EVERY == EDIT_EVERY - 1


def new_transformer(run: Run, *, guidance_embeds: bool = True) -> Any:
    """Return an initialized transformer; on a GPU its blocks are compiled."""
    import diffusers

    torch.manual_seed(run.seed)
    transformer = diffusers.FluxTransformer2DModel(
        guidance_embeds=guidance_embeds, **MINI.transformer
    )
    zero_start(transformer)
    transformer = transformer.to(run.device)
    if run.on_gpu:
        transformer.compile_repeated_blocks(fullgraph=True, dynamic=False)
    return transformer


def zero_start(transformer: Any) -> None:
    """Set modulations and the last layer to zero, so that every block starts as the identity.

    Source: Peebles and Xie 2023, arXiv:2212.09748, section 3.2.
    """
    for name, module in transformer.named_modules():
        if isinstance(module, torch.nn.Linear) and (
            (name.endswith((".linear", "proj_out")) and "norm" in name) or name == "proj_out"
        ):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
