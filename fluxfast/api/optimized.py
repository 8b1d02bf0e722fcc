"""The object that `fluxfast.optimize()` returns: called like the pipeline, reported, undone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fluxfast.api.report import Report, repeated_call
from fluxfast.errors import FluxFastError
from fluxfast.models.dropped_text import warn_of_dropped_text
from fluxfast.models.lora.adapter import AppliedLora, Lora
from fluxfast.models.lora.read import Source, read_lora
from fluxfast.models.memory import check_call_fits
from fluxfast.optimizations.base import Build
from fluxfast.pipeline.applied import AppliedPlan, on_device
from fluxfast.pipeline.guard import changed_after_optimizing, guard, recorded_weights
from fluxfast.profiling.evidence import proofs

if TYPE_CHECKING:
    from fluxfast.pipeline.guard import Weights
    from fluxfast.pipeline.live_weights import LiveWeights
    from fluxfast.pipeline.snapshot import Snapshot


class OptimizedPipeline(AppliedPlan):
    """A pipeline with optimizations applied, called like the pipeline itself.

    Every other attribute is the pipeline's. Leaving its context undoes the optimizations.

    Attributes:
        pipeline: the caller's pipeline, optimized in place until `undo()`.
        plan: the optimizations.
        left_out: default optimizations that are not applied, each with the reason.
        loras: the LoRAs that are part of the weights.
    """

    def __init__(
        self,
        *,
        build: Build,
        snapshot: Snapshot,
        live: LiveWeights,
        loras: tuple[AppliedLora, ...],
        left_out: Mapping[str, str],
        taken_for: str,
    ) -> None:
        """Guard the pipeline, to which the build was applied."""
        super().__init__(build)
        own, pipeline = vars(self), build.pipeline
        own.update(left_out=left_out, loras=loras, _taken_for=taken_for)
        own.update(_snapshot=snapshot, _live=live, _folded=loras, _last_call=None)
        # Tools look for the pipeline's parameters in the signature of the object and of its call.
        own["__signature__"] = inspect.signature(pipeline.__call__)
        own["__call__"] = wraps(pipeline.__call__)(partial(OptimizedPipeline.__call__, self))
        pipeline.transformer.__dict__["_optimized_by"] = self
        guard(pipeline, self._before_call)
        own["_weights"] = recorded_weights(pipeline)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call the pipeline: the same arguments, the same result.

        Raises:
            FluxFastError: the optimizations were undone, the weights were changed, or an argument
                has no effect on an optimized pipeline.
        """
        self._check_is_active()
        return super().__call__(*arguments, **keywords)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The pipeline's class: `isinstance` and diffusers' `from_pipe` accept the object."""
        return type(self.pipeline)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the pipeline."""
        return getattr(self.pipeline, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the pipeline."""
        setattr(self.pipeline, name, value)

    def __repr__(self) -> str:
        """Name the pipeline and the optimizations."""
        names = " + ".join(self.plan.names) or "none"
        return f"OptimizedPipeline({type(self.pipeline).__name__}, optimizations: {names})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse to be copied or pickled: the copy would share weights and graphs.

        Raises:
            FluxFastError: always.
        """
        raise FluxFastError(
            "an optimized pipeline cannot be copied or pickled",
            got=repr(self),
            allowed="a copy of the pipeline before optimize(), or after undo()",
            remedy="copy the pipeline first, and optimize both",
        )

    def to(self, *arguments: Any, **keywords: Any) -> OptimizedPipeline:
        """Return this object if the pipeline is there already.

        Raises:
            FluxFastError: the pipeline would have to move, or to change its dtype.
        """
        self.pipeline.to(*arguments, **keywords)
        return self

    def set_lora(
        self,
        source: Source | Sequence[Source] | None,
        scale: float | Sequence[float] = 1.0,
    ) -> None:
        """Write LoRAs into the optimized weights, without compiling or recording anything again.

        They take the place of those of the last `set_lora`, and are added to those that were loaded
        before `optimize()`. The first time that a weight is changed which no optimization replaced,
        a copy of it is kept.

        Args:
            source: a .safetensors file, a folder with one, a hub id, or a state dict, in the format
                of diffusers, kohya, ComfyUI, Black Forest Labs or XLabs; or several of them. None
                restores the weights, bit for bit.
            scale: strength, 1 for the LoRA as trained; one for all, or one for each.

        Raises:
            FluxFastError: a source cannot be read, holds more than low-rank changes of linear
                layers, or does not fit this transformer. Nothing is changed then.
        """
        self._check_is_active()
        with on_device(self.pipeline):
            loras = _read(source, scale, self.pipeline.device)
            self._live.set_loras(loras)
        own = vars(self)
        own["loras"] = (*self._folded, *(lora.applied for lora in loras))
        own["_weights"] = recorded_weights(self.pipeline)

    def save_pretrained(self, *arguments: Any, **keywords: Any) -> None:
        """Write the pipeline as it was before `optimize()`, with its original weights.

        LoRAs of `set_lora` are not part of it. The arguments are those of the pipeline's method.
        """
        with self._snapshot.restored() if self.is_active else nullcontext():
            self.pipeline.save_pretrained(*arguments, **keywords)

    def report(self) -> Report:
        """Repeat the last call with its first denoising step profiled, and report each proof.

        Returns:
            Which optimizations are active, what shows it, and what was left out and why. It prints
            as a table.

        Raises:
            FluxFastError: the pipeline was not called yet.
        """
        self._check_is_active()
        if self._last_call is None:
            raise FluxFastError(
                "nothing to report yet: the proofs come from a call",
                got="report() before the first call",
                allowed="report() after a call with the arguments that matter to you",
                remedy="call the optimized pipeline once",
            )
        evidence = repeated_call(self.pipeline, self.plan, self._last_call)
        return Report(
            taken_for=self._taken_for,
            proofs=proofs(evidence),
            left_out=self.left_out,
            loras=self.loras,
        )

    def undo(self) -> Any:
        """Restore the pipeline, its weights and every global setting, and return the pipeline.

        The pipeline then computes the same values as before, bit for bit. Calling it again does
        nothing.
        """
        own = vars(self)
        own.update(_snapshot=None, _live=None, _weights=None, _last_call=None)
        return super().undo()

    def _check_is_active(self) -> None:
        if not self.is_active:
            raise FluxFastError(
                "the optimizations of this pipeline were undone",
                got="a call after undo()",
                allowed="calls before undo(), or of the pipeline itself",
                remedy="call the pipeline, or fluxfast.optimize() again",
            )

    def _before_call(self, arguments: Mapping[str, Any]) -> None:
        """Check that a call sees the weights and arguments that it should, before it begins."""
        weights: Weights = self._weights
        change = weights.change(self.pipeline)
        if change:
            raise changed_after_optimizing(change)
        _check_arguments(arguments)
        call = {name: value for name, value in arguments.items() if name != "self"}
        check_call_fits(self.pipeline, call, self.plan.situation.hardware)
        warn_of_dropped_text(self.pipeline, call)
        vars(self)["_last_call"] = call


def _read(
    source: Source | Sequence[Source] | None, scale: float | Sequence[float], device: torch.device
) -> list[Lora]:
    """Return the LoRAs of `set_lora`'s arguments."""
    if source is None:
        return []
    sources = [source] if isinstance(source, str | Path | Mapping) else list(source)
    if isinstance(scale, Sequence):
        scales = [float(one) for one in scale]
    else:
        scales = [float(scale)] * len(sources)
    if len(scales) != len(sources):
        raise FluxFastError(
            "not as many scales as LoRAs",
            got=f"{len(sources)} LoRAs and {len(scales)} scales",
            allowed="one scale for all, or one for each",
            remedy="pass as many scales as LoRAs",
        )
    return [read_lora(s, x, device=device) for s, x in zip(sources, scales, strict=True)]


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that optimized attention would not see."""
    attention = arguments.get("joint_attention_kwargs") or {}
    if attention and attention != {"scale": 1.0}:
        raise FluxFastError(
            "joint_attention_kwargs have no effect on an optimized pipeline",
            got=", ".join(f"{name}={value!r}"[:40] for name, value in attention.items()),
            allowed="none, or a scale of 1: LoRAs are part of the weights",
            remedy="set a LoRA's strength with set_lora(source, scale), or with set_adapters() "
            "before optimize()",
        )
