"""The transformer, with T5 going on to learn: rectified flow on pictures and on edits of them.

Flux is trained on x(σ) = (1 − σ)·latents + σ·noise and predicts the velocity noise − latents
(Esser et al. 2024, arXiv:2403.03206, equation 13). One base learns captions and edits together;
what ships is distilled from it (distil.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fluxfast.architecture import LATENT_CHANNELS, MINI
from fluxfast.mini.train.data import some, token_ids
from fluxfast.mini.train.labels import LABELS, Labels
from fluxfast.mini.train.loop import Run, fit
from fluxfast.mini.train.recipe import Recipe

NO_CAPTION_SHARE = 0.1  # of the batch: what classifier-free guidance starts from
# CLIP's one vector tells which words a caption has, not which belong together. A base that always
# has it paints from it and never learns to read T5, so most of the batch goes without.
NO_POOLED_SHARE = 0.7
LABEL_WEIGHT = 0.1
UNGUIDED = 1.0
EDIT_EVERY = 3  # of three batches one holds edits, whose sequences are twice as long
# Timesteps are drawn logit-normal, shifted towards noise, where the layout is decided.
LOGIT_MEAN, LOGIT_STD = 0.6, 1.0


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Texts as the pipelines encode them: T5 ids [N, 32] and CLIP's pooled vectors [N, 96]."""

    t5_ids: Tensor
    pooled: Tensor

    def rows(self, rows: Tensor) -> Conditions:
        return Conditions(t5_ids=self.t5_ids[rows], pooled=self.pooled[rows])

    def without(self, empty: Conditions, *, text: Tensor, pooled: Tensor) -> Conditions:
        """With the empty text's T5 ids and pooled vectors in the rows where these [N] are true."""
        return Conditions(
            t5_ids=torch.where(text[:, None], empty.t5_ids, self.t5_ids),
            pooled=torch.where(pooled[:, None], empty.pooled, self.pooled),
        )


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Tokens [N, T, 64] of pictures, what they were asked for with, and what they are edits of;
    labels of the tokens and then of those of `reference`."""

    tokens: Tensor
    conditions: Conditions
    labels: Labels
    reference: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)


@torch.no_grad()
def conditions(
    texts: Sequence[str], clip: Any, clip_tokenizer: Any, t5_tokenizer: Any, run: Run
) -> Conditions:
    """Each text encoded; CLIP's vector as FluxPipeline takes it: before the projection."""
    t5_ids = token_ids(t5_tokenizer, texts, MINI.max_text_tokens, run.device)
    pooled = []
    for begin in range(0, len(texts), 4_096):
        part = texts[begin : begin + 4_096]
        ids = token_ids(clip_tokenizer, part, MINI.clip["max_position_embeddings"], run.device)
        pooled.append(clip.text_model(ids).pooler_output.float())
    return Conditions(t5_ids=t5_ids, pooled=torch.cat(pooled))


def pack(latents: Tensor) -> Tensor:
    """Latents [N, 16, h, w] as tokens [N, h/2 · w/2, 64]."""
    from diffusers import FluxPipeline

    count, channels, height, width = latents.shape
    packed: Tensor = FluxPipeline._pack_latents(latents, count, channels, height, width)
    return packed


def velocity(
    transformer: Any,
    tokens: Tensor,
    sigma: Tensor,
    states: Tensor,
    pooled: Tensor,
    guidance: Tensor | None,
    reference: Tensor | None = None,
) -> Tensor:
    """The predicted velocity [N, T, 64] at noise levels `sigma` [N], as the pipelines ask for it.

    `states`: T5's [N, L, 128]; `guidance`: [N], None for a model without; `reference`: tokens of
    the picture that is edited, told apart by the first of their three positions as Kontext does.
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
        pooled_projections=pooled,
        encoder_hidden_states=states,
        txt_ids=torch.zeros(states.shape[1], 3, device=tokens.device),
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
    """x(σ) and the velocity there, in float32."""
    noise = torch.randn(tokens.shape, generator=generator, device=generator.device)
    level = sigma[:, None, None]
    return (1 - level) * tokens.float() + level * noise, noise - tokens.float()


def train_base(
    t5: Any, drawn: Examples, edited: Examples, empty: Conditions, recipe: Recipe, run: Run
) -> Any:
    """A FluxTransformer2DModel, trained together with T5 at guidance 1."""
    transformer, stage = new_transformer(run), recipe.base
    assert drawn.tokens.shape[2] == 4 * LATENT_CHANNELS
    tell = nn.Linear(transformer.inner_dim, LABELS).to(run.device)
    last: list[Tensor] = []
    hook = transformer.norm_out.register_forward_pre_hook(lambda _, args: last.append(args[0]))

    def loss(iteration: int, generator: torch.Generator) -> Tensor:
        examples = edited if is_edit(iteration) else drawn
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
        last.clear()
        with run.autocast():
            states = t5(texts.t5_ids).last_hidden_state
            guidance = torch.full_like(sigma, UNGUIDED)
            predicted = velocity(
                transformer, tokens, sigma, states, texts.pooled, guidance, reference
            )
            told = tell(last[0])
        labels = examples.labels.rows(rows)
        weight = torch.where(no_text[:, None], 1.0, labels.weight)
        error = weighted_error(predicted, target, weight)
        missed = (labels.loss(told) * weight * ~no_text[:, None]).mean()
        return error.add(missed, alpha=LABEL_WEIGHT)

    fit("base", {"transformer": transformer, "t5": t5, "tell": tell}, loss, stage, run)
    hook.remove()
    return transformer


def weighted_error(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean square over [N, T, 64] with a weight of each token, the first T of `weight`'s."""
    error = (predicted.float() - target).square().mean(dim=2)
    mean: Tensor = (error * weight[:, : error.shape[1]]).mean()
    return mean


def is_edit(iteration: int) -> bool:
    return iteration % EDIT_EVERY == EDIT_EVERY - 1


def new_transformer(run: Run, *, guidance_embeds: bool = True) -> Any:
    """Freshly initialized; on a GPU its blocks are compiled."""
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
    """Modulations and the last layer begin at zero, so that every block begins as the identity
    (Peebles and Xie 2023, arXiv:2212.09748, section 3.2)."""
    for name, module in transformer.named_modules():
        if isinstance(module, torch.nn.Linear) and (
            (name.endswith((".linear", "proj_out")) and "norm" in name) or name == "proj_out"
        ):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
