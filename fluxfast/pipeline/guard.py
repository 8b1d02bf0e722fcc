"""Refuse changes of an optimized pipeline that its copies of the weights would not see.

Fused and quantized weights, stacked modulation weights and CUDA graphs are derived from the weights
at the time of `optimize()`. Methods that change weights or modules raise, and each call checks that
the pipeline still has the parameters that it was optimized with.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from fluxfast.errors import FluxFastError
from fluxfast.optimizations.precision._plain_tensors import plain_tensors

# Methods of a pipeline that change weights, modules or where they are; those it has are refused.
PIPELINE_METHODS = (
    "load_lora_weights", "unload_lora_weights", "fuse_lora", "unfuse_lora", "set_adapters",
    "enable_lora", "disable_lora", "delete_adapters", "set_lora_device",
    "load_lora_into_transformer", "load_lora_into_text_encoder", "load_textual_inversion",
    "unload_textual_inversion", "load_ip_adapter", "unload_ip_adapter", "set_ip_adapter_scale",
    "enable_model_cpu_offload", "enable_sequential_cpu_offload", "enable_group_offload",
    "save_pretrained", "push_to_hub",
    "enable_xformers_memory_efficient_attention", "set_use_memory_efficient_attention_xformers",
    "fuse_qkv_projections", "unfuse_qkv_projections", "enable_lora_hotswap", "reset_device_map",
)  # fmt: skip
# The same for the pipeline's networks.
MODULE_METHODS = (
    "load_lora_adapter", "fuse_lora", "unfuse_lora", "unload_lora", "set_adapter", "set_adapters",
    "add_adapter", "enable_adapters", "disable_adapters", "delete_adapters", "enable_lora",
    "disable_lora", "load_state_dict", "save_pretrained", "push_to_hub", "save_lora_adapter",
    "fuse_qkv_projections", "unfuse_qkv_projections", "set_attn_processor",
    "set_default_attn_processor", "set_attention_backend", "reset_attention_backend",
    "enable_group_offload", "enable_layerwise_casting", "enable_parallelism", "enable_cache",
    nn.Module.compile.__name__, "compile_repeated_blocks", "half", "float", "double", "bfloat16",
    "type", "enable_lora_hotswap", "dequantize", "disable_cache", "to_empty",
    "enable_gradient_checkpointing", "load_adapter", "delete_adapter",
)  # fmt: skip


def changed_after_optimizing(what: str) -> FluxFastError:
    """Return the error about a change that the optimizations would not see."""
    return FluxFastError(
        "an optimized pipeline cannot be changed: its fused and quantized weights and its CUDA "
        "graphs would keep the old state",
        got=what,
        allowed="calls of the pipeline, and set_lora() of the optimized pipeline",
        remedy="call undo(), make the change, and call fluxfast.optimize() again",
    )


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The modules and parameters of a pipeline, to notice when one of them is replaced or written.

    Attributes:
        components: the pipeline's networks by the name of the component.
        children: each submodule with its parent and its name.
        parameters: each parameter with its owner, its name, and the versions of its tensors.
    """

    components: tuple[tuple[str, nn.Module], ...]
    children: tuple[tuple[nn.Module, str, nn.Module], ...]
    parameters: tuple[tuple[nn.Module, str, Tensor, tuple[tuple[Tensor, int, int], ...]], ...]

    def change(self, pipeline: Any) -> str | None:
        """Return what has changed since, or None. It takes about a microsecond per parameter."""
        for component, network in self.components:
            if getattr(pipeline, component) not in (network, None):  # removing one is harmless
                return f"another {component}"
        for parent, name, child in self.children:
            if parent._modules.get(name) is not child:
                return f"another module {name} of {type(parent).__name__}"
        for owner, name, parameter, leaves in self.parameters:
            if owner._parameters.get(name) is not parameter:
                return f"another parameter {name} of {type(owner).__name__}"
            for leaf, address, version in leaves:
                if leaf.data_ptr() != address or _version(leaf) != version:
                    return f"new values of {name} of {type(owner).__name__}"
        return None


def recorded_weights(pipeline: Any) -> Weights:
    """Return the modules and parameters that the pipeline has now."""
    components = tuple(
        (name, value) for name, value in pipeline.components.items() if isinstance(value, nn.Module)
    )
    modules = [module for _, network in components for module in network.modules()]
    return Weights(
        components=components,
        children=tuple(
            (module, name, child) for module in modules for name, child in module.named_children()
        ),
        parameters=tuple(
            (module, name, parameter, _versions(parameter))
            for module in modules
            for name, parameter in module.named_parameters(recurse=False)
        ),
    )


def _versions(parameter: Tensor) -> tuple[tuple[Tensor, int, int], ...]:
    return tuple((t, t.data_ptr(), _version(t)) for t in plain_tensors(parameter))


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was written in place; inference tensors do not count it."""
    return -1 if tensor.is_inference() else tensor._version


def guard(pipeline: Any, before_call: Callable[[Mapping[str, Any]], None]) -> None:
    """Make the pipeline call `before_call` with the arguments of each call, and refuse changes.

    The pipeline gets a subclass of its class, and its networks get attributes of their own; a
    snapshot that was taken before restores both.
    """
    device, dtype = pipeline.device, pipeline.transformer.dtype
    pipeline.__class__ = _guarded(type(pipeline), before_call, device, dtype)
    for network in pipeline.components.values():
        if isinstance(network, nn.Module):
            _guard_network(network, device)


def _guarded(kind: type, before_call: Callable[[Mapping[str, Any]], None], *place: Any) -> type:
    call: Any = kind.__call__
    signature = inspect.signature(call)

    @wraps(call)
    def checked(self: Any, *arguments: Any, **keywords: Any) -> Any:
        bound = signature.bind(self, *arguments, **keywords)
        bound.apply_defaults()
        before_call(bound.arguments)
        return call(self, *arguments, **keywords)

    methods: dict[str, Any] = {"__call__": checked, "to": _moving("pipeline.to", *place)}
    for name in PIPELINE_METHODS:
        if hasattr(kind, name):
            methods[name] = _refusing(f"pipeline.{name}()")
    return type(kind.__name__, (kind,), methods | {"__module__": kind.__module__})


def _guard_network(network: nn.Module, device: torch.device) -> None:
    kind, dtype = type(network).__name__, next(network.parameters()).dtype
    for name in MODULE_METHODS:
        if hasattr(network, name):
            network.__dict__[name] = _refusing(f"{kind}.{name}()")
    for name in ("to", "cuda", "cpu"):
        target = None if name == "to" else torch.device(name)
        network.__dict__[name] = _moving(f"{kind}.{name}", device, dtype, target).__get__(network)


def _refusing(what: str) -> Callable[..., Any]:
    def refuse(*arguments: Any, **keywords: Any) -> Any:
        raise changed_after_optimizing(what)

    return refuse


def _moving(
    what: str, device: torch.device, dtype: torch.dtype, target: torch.device | None = None
) -> Any:
    """Return a method that moves nothing, and raises if that is not what it is asked to do.

    Args:
        what: the name of the method.
        device: the device of the weights.
        dtype: the dtype of the weights.
        target: where the method moves to; None if its arguments say so.
    """

    def move(self: Any, *arguments: Any, **keywords: Any) -> Any:
        keywords.pop("silence_dtype_warnings", None)
        asked = (target,) if target else arguments
        to_device, to_dtype, _, memory_format = torch._C._nn._parse_to(*asked, **keywords)
        moves = to_device is not None and not _same_device(to_device, device)
        if moves or to_dtype not in (None, dtype) or memory_format is not None:
            raise changed_after_optimizing(f"{what}{asked or tuple(keywords.values())}")
        return self

    return move


def _same_device(one: torch.device, other: torch.device) -> bool:
    return one.type == other.type and (one.index or 0) == (other.index or 0)
