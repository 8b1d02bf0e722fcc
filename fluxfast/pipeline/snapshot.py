"""Record a pipeline before optimizations change it, and restore it bit for bit.

Optimizations change classes, attributes, submodules and tensors of a pipeline's modules. A snapshot
keeps a shallow copy of each object's attributes and an alias of each tensor's data: it copies no
weights, but weights that an optimization replaced stay in memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fluxfast.optimizations.precision._plain_tensors import plain_tensors

# Attributes of these types are restored in place, because others may hold the container itself
# (the handle of a hook holds the dictionary of hooks).
CONTAINERS = (dict, OrderedDict, list, set)


@dataclass(frozen=True, kw_only=True)
class _Object:
    """An object as it was: its class, its attributes, and the contents of their containers."""

    thing: Any
    kind: type
    attributes: dict[str, Any]
    contents: dict[str, Any]

    def restore(self) -> None:
        if type(self.thing) is not self.kind:
            self.thing.__class__ = self.kind
        self.thing.__dict__.clear()
        self.thing.__dict__.update(self.attributes)
        for name, content in self.contents.items():
            container = self.attributes[name]
            container.clear()
            extend = container.extend if isinstance(container, list) else container.update
            extend(content)


@dataclass(kw_only=True)
class Original:
    """A parameter or buffer as it was.

    Attributes:
        tensor: the parameter or buffer.
        data: its values, which may move to the host while nothing uses them.
        requires_grad: whether it required a gradient.
        device: the device of its values.
    """

    tensor: Tensor
    data: Tensor
    requires_grad: bool
    device: torch.device

    def restore(self) -> None:
        """Give the tensor its values back, in the same memory unless they were moved."""
        if self.data.device != self.device:
            self.data = self.data.to(self.device)
        self.tensor.data = self.data
        self.tensor.requires_grad_(self.requires_grad)

    def move_to_host(self) -> None:
        """Move the values to the host."""
        has_other_values = self.tensor.data_ptr() != self.data.data_ptr()
        self.data = self.data.cpu()
        if not has_other_values:
            self.tensor.data = self.data


class Snapshot:
    """A pipeline as it was: its class and attributes, its modules, their tensors."""

    def __init__(self, pipeline: Any) -> None:
        """Record the pipeline, its image processors and its modules."""
        self.pipeline, self.kind = pipeline, type(pipeline)
        components = pipeline.components.items()
        self.networks = {n: c for n, c in components if isinstance(c, nn.Module)}
        self.roots = list(self.networks.values())
        processors = [p for name, p in vars(pipeline).items() if name.endswith("_processor")]
        # A network's configuration is frozen for its items, not for its attributes.
        configs = [root.config for root in self.roots if hasattr(root, "config")]
        things = (*processors, *configs, *self._modules())
        self.objects = [_recorded(thing) for thing in things]
        self.originals: dict[int, Original] = {}
        for tensor in self._tensors():
            self.original_of(tensor)

    def original_of(self, tensor: Tensor) -> Original:
        """Return the record of a tensor; record it now if that is new."""
        if id(tensor) not in self.originals:
            self.originals[id(tensor)] = Original(
                tensor=tensor,
                data=tensor.data,
                requires_grad=tensor.requires_grad,
                device=tensor.device,
            )
        return self.originals[id(tensor)]

    def restore(self) -> None:
        """Restore everything that was recorded.

        Of the pipeline these are its class and its networks, unless one was removed: its other
        attributes are set by the caller and by calls.
        """
        self._restore_objects()
        for original in self.originals.values():
            original.restore()

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restore within this context what was recorded, and after it what is there now.

        Values that were moved to the host stay there, so the pipeline cannot be called.
        """
        kind, now = type(self.pipeline), [_recorded(thing.thing) for thing in self.objects]
        live = [(original, original.tensor.data) for original in self.originals.values()]
        try:
            self._restore_objects()
            for original, _ in live:
                original.tensor.data = original.data
            yield
        finally:
            self.pipeline.__class__ = kind
            for thing in now:
                thing.restore()
            for original, data in live:
                original.tensor.data = data

    def _restore_objects(self) -> None:
        self.pipeline.__class__ = self.kind
        for name, network in self.networks.items():
            if getattr(self.pipeline, name) is not None:
                setattr(self.pipeline, name, network)
        for thing in self.objects:
            thing.restore()

    def unused(self) -> list[Original]:
        """Return the originals on a device whose values no module uses any more."""
        used = {memory(leaf) for tensor in self._tensors() for leaf in plain_tensors(tensor)}
        return [
            original
            for original in self.originals.values()
            if original.data.device.type != "cpu" and memory(original.data) not in used
        ]

    def _modules(self) -> Iterator[nn.Module]:
        return _unique(module for root in self.roots for module in root.modules())

    def _tensors(self) -> Iterator[Tensor]:
        for module in self._modules():
            own = (*module._parameters.values(), *module._buffers.values())
            yield from (tensor for tensor in own if tensor is not None)


def memory(tensor: Tensor) -> int:
    """Return the address of the memory that holds the tensor's values."""
    return tensor.untyped_storage().data_ptr()


def _recorded(thing: Any) -> _Object:
    attributes = dict(vars(thing))
    return _Object(
        thing=thing,
        kind=type(thing),
        attributes=attributes,
        contents={n: v.copy() for n, v in attributes.items() if type(v) in CONTAINERS},
    )


def _unique(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    seen = set[int]()
    for module in modules:
        if id(module) not in seen:
            seen.add(id(module))
            yield module
