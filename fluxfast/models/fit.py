"""Check that the components of a checkpoint fit each other, and that its numbers can be used."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from fluxfast.errors import CheckpointError
from fluxfast.models.architecture import ROPE_AXES_DIMS

# Input channels of a transformer, in latent channels per token: Control adds an image to the
# latents; Fill adds a masked image, and the mask at 8 × 8 pixels per latent.
INPUTS = {"FluxFillPipeline": 6} | dict.fromkeys(
    ("FluxControlPipeline", "FluxControlImg2ImgPipeline", "FluxControlInpaintPipeline"), 2
)
TRIAL_SIGMAS = (1.0, 0.5)


def check_fit(configs: Mapping[str, Any], pipeline_class: str) -> None:
    """Check that what one network produces is what another takes.

    Args:
        configs: by component, the configuration of the network.
        pipeline_class: the name of the diffusers pipeline.

    Raises:
        CheckpointError: two networks do not fit each other.
    """
    for what, got, allowed in _joints(pipeline_class, **configs):
        if got != allowed:
            raise CheckpointError(
                "components of this checkpoint do not fit each other",
                got=f"{what}: {got}",
                allowed=str(allowed),
                remedy="take all components from one checkpoint",
            )
    for name in ("scaling_factor", "shift_factor"):
        factor = getattr(configs["vae"], name)
        possible = isinstance(factor, int | float) and math.isfinite(factor)
        if not possible or (name == "scaling_factor" and factor == 0):
            raise CheckpointError(
                f"{name} of this checkpoint's vae is not possible",
                got=repr(factor),
                allowed="a finite number" + ", not 0" * (name == "scaling_factor"),
                remedy="download the checkpoint again",
            )


def _joints(
    pipeline_class: str, transformer: Any, vae: Any, text_encoder: Any, text_encoder_2: Any
) -> Iterator[tuple[str, object, object]]:
    """Yield for each joint its name, the size on one side, and the size on the other."""
    packed = vae.latent_channels * 4  # the transformer packs 2 × 2 latents into a token
    yield (
        "in_channels of the transformer",
        transformer.in_channels,
        (packed * INPUTS.get(pipeline_class, 1)),
    )
    produced = transformer.out_channels or transformer.in_channels
    yield "out_channels of the transformer", produced, packed
    width = transformer.joint_attention_dim
    yield "joint_attention_dim of the transformer", width, text_encoder_2.d_model
    width = transformer.pooled_projection_dim
    yield "pooled_projection_dim of the transformer", width, text_encoder.hidden_size
    axes = tuple(transformer.axes_dims_rope)
    yield "sum of axes_dims_rope", sum(axes), transformer.attention_head_dim
    if sum(axes) == sum(ROPE_AXES_DIMS):  # the weights do not show the order
        yield "axes_dims_rope of the transformer", axes, ROPE_AXES_DIMS
    yield "patch_size of the transformer", transformer.patch_size, 1
    yield "downsampling of the vae", 2 ** (len(vae.block_out_channels) - 1), 8


def check_schedule(scheduler: Any) -> None:
    """Check that the scheduler gives a finite schedule for two steps.

    Args:
        scheduler: the scheduler of a checkpoint.

    Raises:
        CheckpointError: a noise level of the schedule is not a finite number from 0 to 1.
    """
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    config = scheduler.config
    shift = calculate_shift(
        config.max_image_seq_len,
        config.base_image_seq_len,
        config.max_image_seq_len,
        config.base_shift,
        config.max_shift,
    )
    with np.errstate(all="ignore"):
        scheduler.set_timesteps(sigmas=np.array(TRIAL_SIGMAS), mu=shift)
    sigmas = scheduler.sigmas.tolist()
    falling = all(high > low for high, low in pairwise(sigmas))
    if not falling or sigmas[0] > 1 or sigmas[-1] != 0:
        raise CheckpointError(
            "the schedule of this checkpoint is not possible",
            got=f"noise levels {sigmas} of two steps",
            allowed="falling numbers, from 1 at most to 0",
            remedy="use the scheduler_config.json of the model that was fine-tuned",
        )
