"""Every Flux pipeline of diffusers on the mini family, and the arguments of its call."""

from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

import fluxfast

SIZE = dict(height=64, width=64, max_sequence_length=32, num_inference_steps=2)
PROMPT = "a large red circle on a white background"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A pipeline class, the base model, and the arguments that its calls need."""

    name: str
    base: str = "mini-dev"
    in_channels: int = 64
    arguments: dict[str, Any] = field(default_factory=dict)
    has_controlnet: bool = False


def picture() -> Image.Image:
    return Image.linear_gradient("L").resize((64, 64)).convert("RGB")


def mask() -> Image.Image:
    half = Image.new("L", (64, 64), 0)
    half.paste(255, (0, 0, 32, 64))
    return half


IMAGE = dict(image=picture())
MASKED = dict(image=picture(), mask_image=mask())
CONTROL = dict(control_image=picture())
VARIANTS = (
    Variant(name="FluxPipeline"),
    Variant(name="FluxImg2ImgPipeline", arguments={**IMAGE, "strength": 1.0}),
    Variant(name="FluxInpaintPipeline", arguments={**MASKED, "strength": 1.0}),
    Variant(name="FluxFillPipeline", in_channels=384, arguments=MASKED),
    Variant(name="FluxControlPipeline", in_channels=128, arguments=CONTROL),
    Variant(
        name="FluxControlImg2ImgPipeline",
        in_channels=128,
        arguments={**IMAGE, **CONTROL, "strength": 1.0},
    ),
    Variant(
        name="FluxControlInpaintPipeline",
        in_channels=128,
        arguments={**MASKED, **CONTROL, "strength": 1.0},
    ),
    Variant(name="FluxControlNetPipeline", has_controlnet=True, arguments=CONTROL),
    Variant(
        name="FluxControlNetImg2ImgPipeline",
        has_controlnet=True,
        arguments={**IMAGE, **CONTROL, "strength": 1.0},
    ),
    Variant(
        name="FluxControlNetInpaintPipeline",
        has_controlnet=True,
        arguments={**MASKED, **CONTROL, "strength": 1.0},
    ),
    Variant(name="FluxKontextPipeline", base="mini-kontext", arguments=IMAGE),
    Variant(
        name="FluxKontextInpaintPipeline",
        base="mini-kontext",
        arguments={**MASKED, "strength": 1.0},
    ),
)


def loaded(variant: Variant, device: str = "cpu", **components: Any) -> Any:
    """Return the variant's pipeline with the weights of the mini family."""
    import diffusers

    kind = getattr(diffusers, variant.name)
    parts = fluxfast.load(variant.base, device=device).components | components
    parts["transformer"] = _widened(parts["transformer"], variant.in_channels)
    if variant.has_controlnet:
        parts["controlnet"] = _controlnet(parts["transformer"])
    optional = ("image_encoder", "feature_extractor")
    pipeline = kind(**{name: part for name, part in parts.items() if name not in optional})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: Any, variant: Variant, seed: int = 0, **changes: Any) -> torch.Tensor:
    """Return the latents or images of the variant's call."""
    arguments = {"prompt": PROMPT, **SIZE, **variant.arguments, "output_type": "latent", **changes}
    if "Kontext" in variant.name:
        arguments |= {"max_area": 64 * 64, "_auto_resize": False}
    generator = torch.Generator().manual_seed(seed)
    images: torch.Tensor = pipeline(**arguments, generator=generator).images
    return images


def _widened(transformer: Any, in_channels: int) -> Any:
    """Return the transformer with more input channels, whose weights are small and not zero."""
    if in_channels == transformer.config.in_channels:
        return transformer
    from diffusers import FluxTransformer2DModel

    config = dict(transformer.config) | {"in_channels": in_channels, "out_channels": 64}
    wide = FluxTransformer2DModel.from_config(config).to(transformer.device, transformer.dtype)
    state = transformer.state_dict()
    narrow = state.pop("x_embedder.weight")
    wide.load_state_dict(state, strict=False)
    with torch.no_grad():
        wide.x_embedder.weight[:, : narrow.shape[1]] = narrow
        wide.x_embedder.weight[:, narrow.shape[1] :] *= 0.1
    return wide.eval().requires_grad_(False)


def _controlnet(transformer: Any) -> Any:
    """Return a small ControlNet with outputs that are not zero, as a trained one has."""
    from diffusers import FluxControlNetModel

    torch.manual_seed(0)
    net = FluxControlNetModel.from_transformer(
        transformer,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=transformer.config.attention_head_dim,
        num_attention_heads=transformer.config.num_attention_heads,
    ).to(transformer.device, transformer.dtype)
    with torch.no_grad():
        for layer in (net.controlnet_x_embedder, *net.controlnet_blocks):
            layer.weight.normal_(0.0, 0.02)
    return net.eval().requires_grad_(False)
