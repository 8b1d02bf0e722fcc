"""Network configurations: the published shapes of Flux.1, and the small ones of the mini family.

The published values are those of `transformer/config.json`, `vae/config.json`,
`text_encoder/config.json` and `text_encoder_2/config.json` in the black-forest-labs/FLUX.1-dev
repository.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ROPE_AXES_DIMS = (16, 56, 56)  # sums to the head dimension of 128
LATENT_CHANNELS = 16


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Keyword arguments of the four networks, and the sizes of a default request.

    Attributes:
        transformer: arguments of FluxTransformer2DModel; the model adds `guidance_embeds`.
        vae: arguments of AutoencoderKL, in addition to VAE_COMMON.
        clip: arguments of CLIPTextConfig; the mini family's tokenizer adds `vocab_size`.
        t5: arguments of T5Config; the mini family's tokenizer adds `vocab_size`.
        default_side: height and width of the default image in pixels.
        max_text_tokens: the longest text in T5 tokens.
    """

    transformer: dict[str, Any]
    vae: dict[str, Any]
    clip: dict[str, Any]
    t5: dict[str, Any]
    default_side: int
    max_text_tokens: int


PUBLISHED = Architecture(
    transformer=dict(
        in_channels=64,
        num_layers=19,
        num_single_layers=38,
        attention_head_dim=128,
        num_attention_heads=24,
        joint_attention_dim=4096,
        pooled_projection_dim=768,
        axes_dims_rope=ROPE_AXES_DIMS,
    ),
    vae=dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2, norm_num_groups=32),
    clip=dict(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
    ),
    t5=dict(vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64),
    default_side=1024,
    max_text_tokens=512,
)

MINI = Architecture(
    transformer=dict(
        in_channels=64,
        num_layers=1,
        num_single_layers=5,
        attention_head_dim=128,
        num_attention_heads=2,
        joint_attention_dim=128,
        pooled_projection_dim=96,
        axes_dims_rope=ROPE_AXES_DIMS,
    ),
    vae=dict(block_out_channels=(32, 32, 64, 64), layers_per_block=1, norm_num_groups=8),
    clip=dict(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
    ),
    t5=dict(
        d_model=128,
        d_kv=64,
        d_ff=256,
        num_layers=4,
        num_heads=2,
        dropout_rate=0.0,
    ),
    default_side=256,
    max_text_tokens=32,
)

# Every Flux.1 VAE: 8× downsampling, no quantization convolutions, the published shift and scale.
VAE_COMMON = dict(
    in_channels=3,
    out_channels=3,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    latent_channels=LATENT_CHANNELS,
    act_fn="silu",
    scaling_factor=0.3611,
    shift_factor=0.1159,
    use_quant_conv=False,
    use_post_quant_conv=False,
    force_upcast=True,
    mid_block_add_attention=True,
)

SCHEDULER = dict(num_train_timesteps=1000, base_image_seq_len=256, max_image_seq_len=4096)
# dev and Kontext shift the schedule with the resolution, schnell does not.
SCHEDULER_SHIFTED = dict(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
SCHEDULER_UNSHIFTED = dict(shift=1.0, use_dynamic_shifting=False, base_shift=0.5, max_shift=1.15)
