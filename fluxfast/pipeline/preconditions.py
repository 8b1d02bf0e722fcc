"""Check that a pipeline that the caller has loaded can be optimized, and describe it for a plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from fluxfast.errors import FluxFastError
from fluxfast.optimizations.situation import LoadedPipeline

OPTIONAL_COMPONENTS = ("vae", "text_encoder", "text_encoder_2")
PROCESSORS = ("FluxAttnProcessor",)  # those that attention operators and fused blocks replace


def check_pipeline(pipeline: Any) -> None:
    """Check that nothing else has taken hold of the pipeline's transformer.

    Raises:
        FluxFastError: the pipeline is offloaded, spread over devices, quantized, compiled, cached,
            has attention processors of its own, or is optimized already.
    """
    for found, remedy in _obstacles(pipeline):
        raise FluxFastError(
            "this pipeline cannot be optimized as it is",
            got=found,
            allowed="a pipeline as from_pretrained returns it, wholly on one device, with LoRAs "
            "loaded or without",
            remedy=remedy,
        )


def described(pipeline: Any) -> LoadedPipeline:
    """Return the facts of the pipeline on which plans depend."""
    t5 = getattr(pipeline, "text_encoder_2", None)
    return LoadedPipeline(
        pipeline_class=type(pipeline).__name__,
        dtype=_dtype(pipeline.transformer),
        t5_dtype=None if t5 is None else _dtype(t5.encoder.block),
        absent=frozenset(n for n in OPTIONAL_COMPONENTS if getattr(pipeline, n, None) is None),
    )


def _dtype(network: nn.Module) -> str:
    dtypes = {str(parameter.dtype).removeprefix("torch.") for parameter in network.parameters()}
    return dtypes.pop() if len(dtypes) == 1 else "mixed"


def _obstacles(pipeline: Any) -> Iterator[tuple[str, str]]:
    """Yield what stands against an optimization, with the remedy."""
    transformer = pipeline.transformer
    if "_optimized_by" in vars(transformer):
        yield "its transformer is optimized already", "call undo() of the optimized pipeline first"
    if type(transformer)._call_impl is not nn.Module._call_impl or transformer._compiled_call_impl:
        yield "its transformer is compiled", "pass the pipeline before torch.compile"
    for name, network in _networks(pipeline):
        if any(_is_hooked(module) for module in network.modules()):
            yield f"its {name} is offloaded or cached", "load it without offloading or caching"
        if any(parameter.is_meta for parameter in network.parameters()):
            yield f"its {name} has tensors without values (meta)", "load every weight first"
    devices = {str(p.device) for _, network in _networks(pipeline) for p in network.parameters()}
    if len(devices) > 1:
        yield f"its networks are on {', '.join(sorted(devices))}", "move it with to(device)"
    processors = {type(p).__name__ for p in transformer.attn_processors.values()}
    for name in sorted(processors - set(PROCESSORS)):
        yield (
            f"its attention processor {name}",
            "unload the IP-Adapter or processor (unload_ip_adapter, set_default_attn_processor)",
        )
    has_quantizer = getattr(transformer, "hf_quantizer", None) is not None
    if has_quantizer or any(map(is_traceable_wrapper_subclass, transformer.parameters())):
        yield "its transformer is quantized", "load it in bfloat16 and enable fp8 or int8 here"


def _is_hooked(module: Any) -> bool:
    """Return whether a module has a hook of accelerate, or of diffusers (caches, offloading)."""
    registry = vars(module).get("_diffusers_hook")  # a call of the pipeline creates an empty one
    return "_hf_hook" in vars(module) or bool(registry and registry.hooks)


def _networks(pipeline: Any) -> list[tuple[str, nn.Module]]:
    return [(n, c) for n, c in pipeline.components.items() if isinstance(c, nn.Module)]
