"""Flux pipelines with synthetic weights, created on the device from one seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from fluxfast.models import architecture
from fluxfast.models.architecture import PUBLISHED, Architecture
from fluxfast.models.spec import ModelSpec
from fluxfast.models.synthetic.fill import fill
from fluxfast.models.synthetic.profiles import Profile

if TYPE_CHECKING:
    from diffusers import FluxPipeline


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def assemble(
    model: ModelSpec,
    dtype: torch.dtype,
    device: str,
    profile: Profile = Profile.TRAINED,
    shape: Architecture = PUBLISHED,
) -> FluxPipeline:
    """Return a pipeline with synthetic weights.

    Args:
        model: the model.
        dtype: dtype of the weights.
        device: where the weights are created.
        profile: the distribution of the weights.
        shape: the shapes of the networks; by default the published ones.
    """
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    clip_tokenizer = byte_tokenizer(max_length=shape.clip["max_position_embeddings"], begins=True)
    t5_tokenizer = byte_tokenizer(max_length=shape.max_text_tokens, begins=False)
    specials = dict(
        bos_token_id=clip_tokenizer.bos_token_id,
        eos_token_id=clip_tokenizer.eos_token_id,
        pad_token_id=clip_tokenizer.pad_token_id,
    )
    with torch.device(device), _default_dtype(dtype):
        transformer, vae = transformer_and_vae(model, shape)
        clip = CLIPTextModel(
            CLIPTextConfig(
                projection_dim=shape.clip["hidden_size"],
                hidden_act="quick_gelu",
                **specials,
                **shape.clip,
            )
        )
        t5 = T5EncoderModel(
            T5Config(feed_forward_proj="gated-gelu", tie_word_embeddings=False, **shape.t5)
        )
    for network in (transformer, vae, clip, t5):
        network.eval().requires_grad_(False)
    fill(profile, transformer=transformer, vae=vae, clip=clip, t5=t5)
    return getattr(diffusers, model.pipeline_class)(
        scheduler=scheduler_of(model),
        vae=vae,
        text_encoder=clip,
        tokenizer=clip_tokenizer,
        text_encoder_2=t5,
        tokenizer_2=t5_tokenizer,
        transformer=transformer,
    )


def transformer_and_vae(model: ModelSpec, shape: Architecture) -> tuple[Any, Any]:
    """Return both networks with PyTorch's initial values, in its default dtype and device."""
    from diffusers import AutoencoderKL, FluxTransformer2DModel

    guidance = {"guidance_embeds": model.guidance_embeds}
    return (
        FluxTransformer2DModel(**guidance, **shape.transformer),
        AutoencoderKL(**architecture.VAE_COMMON, **shape.vae),
    )


def scheduler_of(model: ModelSpec) -> Any:
    """Return the model's published schedule, a FlowMatchEulerDiscreteScheduler."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    schedule = (
        architecture.SCHEDULER_UNSHIFTED if model.is_few_step else architecture.SCHEDULER_SHIFTED
    )
    return FlowMatchEulerDiscreteScheduler(**architecture.SCHEDULER, **schedule)


def byte_tokenizer(*, max_length: int, begins: bool) -> Any:
    """Return a tokenizer of bytes, which needs no download.

    Args:
        max_length: the longest text in tokens.
        begins: whether a text begins with a special token, as CLIP's do.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["<pad>", "</s>", "<s>"]  # T5 has 0 for padding and 1 for the end
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(specials + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    opening = "<s> " if begins else ""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{opening}$A </s>", special_tokens=[("<s>", 2), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        model_max_length=max_length,
    )
