"""The situation that a plan is for: model, machine, request, and the loaded pipeline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from fluxfast.hardware import Hardware
from fluxfast.models.spec import ImageRequest, ModelSpec
from fluxfast.optimizations.cache_config import CacheConfig


@dataclass(frozen=True, kw_only=True)
class LoadedPipeline:
    """The facts of a pipeline that the caller has loaded, as far as a plan depends on them.

    Attributes:
        pipeline_class: the name of its class.
        dtype: the dtype of the transformer's weights, without `torch.`; `mixed` for several.
        absent: components that it lacks, such as `text_encoder`.
        t5_dtype: the dtype of T5's norms and GEMMs, without `torch.`; None without a T5.
    """

    pipeline_class: str
    dtype: str
    absent: frozenset[str] = frozenset()
    t5_dtype: str | None = None


@dataclass(frozen=True, kw_only=True)
class Situation:
    """Everything that a plan depends on.

    Attributes:
        model: the model that is optimized.
        hardware: the machine, detected or described.
        request: the images that are asked for.
        cache_config: settings of a cache; None for the default ones.
        loaded: the pipeline, where the caller has loaded it; None where the plan decides how.
        blocks: number of transformer blocks, double and single ones together; None if unknown.
        heads: number of attention heads; None if unknown.
        unquantized: names of block layers that a quantization leaves in the dtype of the model, as
            `unquantized_layers` returns them.
    """

    model: ModelSpec
    hardware: Hardware
    request: ImageRequest
    cache_config: CacheConfig | None = None
    loaded: LoadedPipeline | None = None
    blocks: int | None = None
    heads: int | None = None
    unquantized: frozenset[str] = frozenset()

    @property
    def on_one_gpu(self) -> Self:
        """The same without other GPUs that share an image."""
        return replace(self, hardware=replace(self.hardware, gpus=1))

    def lacks(self, *components: str) -> bool:
        """Return whether the loaded pipeline lacks one of the components."""
        return self.loaded is not None and not self.loaded.absent.isdisjoint(components)
