"""The layers that a quantization's step error comes from: each one alone, and the time it saves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fluxfast.console import no_progress
from fluxfast.errors import FluxFastError
from fluxfast.models.weights import Checkpoint
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build, Optimization, Plan
from fluxfast.optimizations.registry import choices, eager_names, plan
from fluxfast.pipeline.apply import DEFAULT_ARTIFACTS
from fluxfast.pipeline.build import BuiltPipeline, build
from fluxfast.quality.figures import summarized
from fluxfast.quality.prompts import prompts_for
from fluxfast.quality.step_error import Difference
from fluxfast.quality.trajectory import Trajectory, forced_steps, record

TIMED_S = 0.02  # of each kind of layer


@dataclass(frozen=True, kw_only=True)
class LayerError:
    """One quantized layer.

    Attributes:
        name: the module's name in the transformer.
        step_error: the worst step error of the eager pipeline with this layer alone quantized.
        eager_ms: milliseconds of the layer in a step, unquantized and by itself; compiled on a GPU.
        quantized_ms: likewise quantized, with the cast of its input: one kernel of torch.compile's
            on a GPU, several of PyTorch's on a CPU.
    """

    name: str
    step_error: float
    eager_ms: float
    quantized_ms: float

    @property
    def saves_ms(self) -> float:
        """Milliseconds that quantizing the layer saves in a step."""
        return self.eager_ms - self.quantized_ms


@dataclass(frozen=True, kw_only=True)
class ErrorProfile:
    """The step error of a quantization by layer.

    Attributes:
        quantization: the optimization.
        step_error: of the eager pipeline with every layer quantized.
        layers: the layers, that with the largest error first.
    """

    quantization: str
    step_error: float
    layers: tuple[LayerError, ...]

    def share(self, layer: LayerError) -> float:
        """Return the layer's share of the sum of squared errors."""
        total = sum(one.step_error**2 for one in self.layers)
        return layer.step_error**2 / total if total else 0.0


def error_profile(
    checkpoint: Checkpoint, planned: Plan, *, progress: Callable[[str], None] = no_progress
) -> ErrorProfile:
    """Quantize each layer of the eager pipeline alone, and measure its step error and its time.

    Args:
        checkpoint: the weights.
        planned: a plan with a quantization; its other optimizations are left out.
        progress: called with the name of each stage.

    Raises:
        FluxFastError: the plan has no quantization.
    """
    quantization, situation = _quantization(planned), planned.situation
    request = situation.request
    prompts = prompts_for(checkpoint, request.batch_size, request.height, request.width)
    eager = plan(eager_names(situation.hardware), situation)
    with ExitStack() as stack, torch.no_grad():
        built = stack.enter_context(build(checkpoint, eager, progress=progress))
        progress("recording the steps of the eager pipeline")
        trajectory = record(built, request, prompts)
        progress(f"applying {quantization.name}")
        layers = stack.enter_context(quantized_layers(built.pipeline, quantization, planned))
        whole = _step_error(built, trajectory)
        for layer in layers.values():
            layer.restore()
        times = _times_ms(built, trajectory, layers)
        found = list[LayerError]()
        for number, (name, layer) in enumerate(layers.items(), start=1):
            progress(f"layer {number} of {len(layers)}: {name}")
            with layer.quantized():
                error = _step_error(built, trajectory)
            before, after = times[name]
            found.append(
                LayerError(name=name, step_error=error, eager_ms=before, quantized_ms=after)
            )
    found.sort(key=lambda one: -one.step_error)
    return ErrorProfile(quantization=quantization.name, step_error=whole, layers=tuple(found))


def _quantization(planned: Plan) -> Optimization:
    found = planned.on(Axis.QUANTIZATION)
    if found is None:
        raise FluxFastError(
            "this case has no quantized layers",
            got=" + ".join(planned.names) or "eager",
            allowed=f"a case with one of {', '.join(o.name for o in choices(Axis.QUANTIZATION))}",
            remedy="name such a case, as `fluxfast matrix` lists them",
        )
    return found


@dataclass(frozen=True, kw_only=True)
class QuantizedLayer:
    """A layer with both of its weights.

    Attributes:
        module: the layer, which holds one of them.
        eager: the weight of the eager pipeline.
        quantized_weight: the same weight, quantized.
    """

    module: nn.Linear
    eager: Tensor
    quantized_weight: Tensor

    def restore(self) -> None:
        """Let the layer hold the weight of the eager pipeline."""
        self.module.weight = self.eager  # type: ignore[assignment]  # a Parameter

    @contextmanager
    def quantized(self) -> Iterator[None]:
        """Let the layer hold its quantized weight within this context."""
        self.module.weight = self.quantized_weight  # type: ignore[assignment]
        try:
            yield
        finally:
            self.restore()


@contextmanager
def quantized_layers(
    pipeline: Any, quantization: Optimization, planned: Plan
) -> Iterator[dict[str, QuantizedLayer]]:
    """Apply a quantization to an eager pipeline, and yield the layers that it has changed.

    The layers hold their quantized weights at first; each can be restored.

    Args:
        pipeline: the eager pipeline.
        quantization: the optimization.
        planned: the plan that the quantization is applied for.
    """
    modules = pipeline.transformer.named_modules()
    linear = {name: module for name, module in modules if isinstance(module, nn.Linear)}
    before = {name: module.weight for name, module in linear.items()}
    changing = Build(pipeline=pipeline, plan=planned, artifacts=DEFAULT_ARTIFACTS)
    with changing.undo:
        quantization.apply(changing)
        yield {
            name: QuantizedLayer(module=module, eager=before[name], quantized_weight=module.weight)
            for name, module in linear.items()
            if module.weight is not before[name]
        }


def _step_error(built: BuiltPipeline, trajectory: Trajectory) -> float:
    steps = forced_steps(built.pipeline, trajectory, trajectory.compared)
    right = trajectory.outputs.steps
    return summarized(
        max, [Difference.between(output, right[index]).relative for index, output in steps]
    )


def _times_ms(
    built: BuiltPipeline, trajectory: Trajectory, layers: Mapping[str, QuantizedLayer]
) -> dict[str, tuple[float, float]]:
    """Return the milliseconds of each layer before and after; layers of equal shapes share them."""
    inputs = dict[str, Tensor]()
    kinds = dict[tuple[Any, ...], str]()  # the first layer of each kind
    keys = dict[str, tuple[Any, ...]]()

    def keep(name: str, weight: Tensor) -> Callable[[Any, tuple[Tensor, ...]], None]:
        def hook(module: Any, arguments: tuple[Tensor, ...]) -> None:
            keys[name] = (tuple(arguments[0].shape), tuple(weight.shape))
            if kinds.setdefault(keys[name], name) == name:
                inputs[name] = arguments[0]

        return hook

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hook = layer.module.register_forward_pre_hook(keep(name, layer.eager))
            hooks.enter_context(hook)
        list(forced_steps(built.pipeline, trajectory, trajectory.compared[:1]))
    by_kind = {key: _both_ms(layers[name], inputs[name]) for key, name in kinds.items()}
    return {name: by_kind[key] for name, key in keys.items()}


def _both_ms(layer: QuantizedLayer, x: Tensor) -> tuple[float, float]:
    before = _median_ms(layer.module, x)
    with layer.quantized():
        return before, _median_ms(layer.module, x)


def _median_ms(module: nn.Module, x: Tensor) -> float:
    from torch.utils.benchmark import Timer

    call: Callable[[Tensor], Tensor] = module
    if x.is_cuda:  # the kernels of PyTorch's cast take longer than fp8 saves
        torch.compiler.reset()  # or the ninth kind of layer would not be compiled
        call = torch.compile(module, dynamic=False)
        call(x)  # compiles: the timer chooses by its first calls how many it times together
    timer = Timer("call(x)", globals=dict(call=call, x=x), num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=TIMED_S).median * 1e3)
