"""Merge the adapters that `pipeline.load_lora_weights` added to a transformer.

peft wraps each changed layer and adds the change in every call. Kernels, quantization and fused
projections need plain linear layers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fluxfast.errors import FluxFastError
from fluxfast.models.lora.adapter import AppliedLora, LowRank, listed, merged

# Attributes by which diffusers recognises a transformer with adapters; the first has peft's state.
STATE, MARKER = "peft_config", "_hf_peft_config_loaded"


class _MergedAdapters(dict[str, Any]):
    """The state of peft after its adapters became part of the weights: no adapter is left."""

    def __missing__(self, adapter: str) -> Any:
        raise FluxFastError(
            "adapters are part of the weights of an optimized pipeline, and cannot be read",
            got=f"the state of adapter {adapter!r}",
            allowed="the state of adapters before optimize(), or after undo()",
            remedy="save adapters before optimize(); OptimizedPipeline.loras lists those that are "
            "part of the weights",
        )


def fold(transformer: nn.Module) -> tuple[AppliedLora, ...]:
    """Replace each of peft's layers by a plain layer with the merged weight.

    The result computes what the next call of the transformer would: active adapters at their
    weights, none where adapters are disabled, and fused adapters as they are. The weights of the
    original layers are not changed, and diffusers then reports no adapters for this transformer.
    A snapshot that was taken before restores both.

    Returns:
        The adapters that change the weights, with their strengths.

    Raises:
        FluxFastError: a layer is of a kind that cannot become a plain linear layer. Nothing is
            changed then.
    """
    layers = peft_layers(transformer)
    plain = {name: _plain(name, layer) for name, layer in layers.items()}
    loras = _applied(layers)
    for name, layer in plain.items():
        parent, _, child = name.rpartition(".")
        transformer.get_submodule(parent)._modules[child] = layer
    vars(transformer).pop(MARKER, None)
    if vars(transformer).pop(STATE, None) is not None:
        vars(transformer)[STATE] = _MergedAdapters()
    return loras


def peft_layers(transformer: nn.Module) -> dict[str, Any]:
    """Return the outermost modules of peft, by the names of the layers that they replace.

    Raises:
        FluxFastError: peft replaced a module that it does not merge, such as a norm trained whole.
    """
    found = dict[str, Any]()
    for name, module in transformer.named_modules():
        is_inside = any(name.startswith(f"{outer}.") for outer in found)
        if type(module).__module__.startswith("peft.") and not is_inside:
            found[name] = module
    whole = [name for name, module in found.items() if not hasattr(module, "merge")]
    if whole:
        raise FluxFastError(
            "an adapter replaces whole modules, which cannot be merged",
            got=listed([f"{name}: {type(found[name]).__name__}" for name in whole]),
            allowed="adapters of linear layers",
            remedy="call pipeline.unload_lora_weights() before optimize()",
        )
    return found


def _plain(name: str, layer: Any) -> nn.Linear:
    """Return a plain layer that computes what the layer of peft computes."""
    base: Any = layer.base_layer
    if type(base) is not nn.Linear or type(base.weight.data) is not Tensor:
        raise FluxFastError(
            "an adapter cannot be merged into this layer",
            got=f"{name}: {type(base).__name__}",
            allowed="torch.nn.Linear with a plain tensor, which one kind of adapter wraps",
            remedy="load the transformer without quantization, which optimize() adds, and "
            "adapters of one kind",
        )
    with torch.no_grad():
        weight, bias = _weight_and_bias(name, layer)
    rows, columns = weight.shape
    plain = nn.Linear(columns, rows, bias=bias is not None, device="meta")
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        plain.bias = nn.Parameter(bias, requires_grad=False)
    return plain.train(layer.training)


def _weight_and_bias(name: str, layer: Any) -> tuple[Tensor, Tensor | None]:
    base = layer.get_base_layer()
    if layer.disable_adapters or layer.merged:
        if layer.disable_adapters and layer.merged:
            return _merged_by_peft(name, layer, lambda: layer.unmerge())
        return base.weight.data, _data(base.bias)
    changes = {adapter: _low_rank(layer, adapter) for adapter in _active(layer)}
    if None in changes.values():
        return _merged_by_peft(
            name, layer, lambda: layer.merge(safe_merge=True, adapter_names=list(changes))
        )
    weight = base.weight.data
    return merged(weight, filter(None, changes.values())) if changes else weight, _data(base.bias)


def _data(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.data


def _active(layer: Any) -> list[str]:
    """Return the adapters that the next call of this layer uses."""
    own = layer._get_available_adapters()
    return [a for a in layer.active_adapters if a in own and _scaling(layer, a) != 0]


def _scaling(layer: Any, adapter: str) -> float:
    """Return peft's factor of a change; `enable_lora_hotswap` makes it a tensor."""
    return float(getattr(layer, "scaling", {}).get(adapter, 1.0))


def _low_rank(layer: Any, adapter: str) -> LowRank | None:
    """Return the change of a plain LoRA; None for another kind, such as DoRA or LoKr."""
    from peft.tuners import lora

    if not isinstance(layer, lora.Linear) or adapter in layer.lora_variant or layer.fan_in_fan_out:
        return None
    if layer.lora_bias[adapter]:
        return None
    factors: Any = (layer.lora_A, layer.lora_B)
    down, up = (factor[adapter].weight.data for factor in factors)
    return LowRank(down=down, up=up, scale=_scaling(layer, adapter))


def _merged_by_peft(
    name: str, layer: Any, merge: Callable[[], None]
) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias after peft's own merge, which is undone by putting the data back."""
    base = layer.get_base_layer()
    weight, bias, names = base.weight.data, _data(base.bias), list(layer.merged_adapters)
    base.weight.data = weight.clone()
    if bias is not None:
        base.bias.data = bias.clone()
    try:
        merge()
        return base.weight.data, _data(base.bias)
    except (ValueError, NotImplementedError, RuntimeError) as error:
        raise FluxFastError(
            "peft cannot merge an adapter",
            got=f"{name}: {', '.join(_active(layer))}: {str(error).splitlines()[0]}",
            allowed="adapters that peft's merge supports, such as LoRA, DoRA and LoKr",
            remedy="call pipeline.unload_lora_weights() before optimize()",
        ) from error
    finally:
        base.weight.data = weight
        if bias is not None:
            base.bias.data = bias
        layer.merged_adapters[:] = names


def _applied(layers: Mapping[str, Any]) -> tuple[AppliedLora, ...]:
    """Return the adapters that take effect, in the order of their first layer."""
    found = defaultdict[str, list[tuple[float, int]]](list)
    for layer in layers.values():
        names = [] if layer.disable_adapters else layer.merged_adapters or _active(layer)
        for adapter in names:
            found[adapter].append((_strength(layer, adapter), layer.r[adapter]))
    return tuple(
        AppliedLora(
            name=name,
            scales=frozenset(scale for scale, _ in facts),
            ranks=frozenset(rank for _, rank in facts),
            layers=len(facts),
        )
        for name, facts in found.items()
    )


def _strength(layer: Any, adapter: str) -> float:
    """Return the weight that `set_adapters` gave: peft's scaling without alpha / rank."""
    scaling = _scaling(layer, adapter)
    if not hasattr(layer, "lora_alpha"):
        return scaling
    rank = layer.r[adapter]
    of_rank = layer.lora_alpha[adapter] / (math.sqrt(rank) if layer.use_rslora[adapter] else rank)
    return round(scaling / of_rank, 6) if of_rank else 0.0
