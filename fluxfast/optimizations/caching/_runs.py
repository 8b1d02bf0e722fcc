"""Follow the transformer's calls, and give each pass of a run a cache of its own.

cache-dit counts calls. It takes the second pass of a step (true classifier-free guidance) for the
next step, and the contents of a cache for those of the same image, whichever pipeline generates it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cache_dit
import torch

from fluxfast.errors import FluxFastError
from fluxfast.optimizations.cache_config import CacheConfig, Calibrator
from fluxfast.optimizations.caching._limits import steps_mask, why_not_with_steps

MAX_PASSES = 2  # of a step: the prompt, and with true CFG the negative prompt
CALIBRATORS = {
    "taylorseer": "TaylorSeerCalibratorConfig",
    "dmd": "DMDCalibratorConfig",
    "foca": "FoCaCalibratorConfig",
}
CONTROLNET = ("controlnet_block_samples", "controlnet_single_block_samples")


class CachedRuns:
    """Selects the cache before each call of the transformer; a forward pre-hook of it.

    A run is one schedule of the scheduler, so every pipeline with this transformer and scheduler
    begins with empty caches. A pass is a call between two steps of the scheduler.

    Attributes:
        steps: number of steps of the current run.
        mask: its steps, 1 for computed and 0 for cached; None if the residuals decide.
    """

    def __init__(self, pipeline: Any, config: CacheConfig, blocks: Any) -> None:
        """Follow the calls of the pipeline's transformer, whose blocks are `blocks` of cache-dit.

        Args:
            pipeline: the pipeline.
            config: the settings of the cache.
            blocks: the object by which cache-dit replaces the blocks.
        """
        self.pipeline, self.config, self.blocks = pipeline, config, blocks
        self.contexts = [blocks.cache_context, f"{blocks.cache_context}, negative prompt"]
        self.schedule: torch.Tensor | None = None
        self.step: int | None = None
        self.pass_of_step = 0
        self.begun = set[str]()
        self.steps = 0
        self.mask: list[int] | None = None

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(
        self, module: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> None:
        """Select the cache of this pass, emptied at the first step of a run."""
        _refuse_controlnet(keywords)
        scheduler = self.pipeline.scheduler
        if scheduler.timesteps is not self.schedule:
            self._begin(scheduler)
        elif scheduler.step_index == self.step:
            self.pass_of_step += 1
        else:
            self.step, self.pass_of_step = scheduler.step_index, 0
        context = self.contexts[min(self.pass_of_step, MAX_PASSES - 1)]
        if context not in self.begun or self.pass_of_step >= MAX_PASSES:
            self.blocks.context_manager.reset_context(context, **self._settings())
            self.begun.add(context)
        self.blocks.cache_context = context

    def _begin(self, scheduler: Any) -> None:
        steps = len(scheduler.timesteps) - (scheduler.begin_index or 0)
        if reason := why_not_with_steps(self.config, steps):
            raise FluxFastError(
                "the cache does not work with the number of steps of this call",
                got=f"{steps} steps: {reason}",
                allowed="the number of steps that the cache is configured for",
                remedy="change num_inference_steps, the cache's settings, or disable dbcache",
            )
        self.schedule, self.step, self.pass_of_step = scheduler.timesteps, scheduler.step_index, 0
        self.steps, self.mask = steps, steps_mask(self.config, steps)
        self.begun.clear()

    def _settings(self) -> dict[str, Any]:
        return cache_settings(self.config, self.steps, self.mask)

    def cached_steps(self) -> int:
        """Return how many steps of the last run came from the cache in all their passes."""
        manager = self.blocks.context_manager
        cached = [len(manager.get_context(context).cached_steps) for context in self.begun]
        return min(cached, default=0)


def cache_settings(config: CacheConfig, steps: int, mask: list[int] | None) -> dict[str, Any]:
    """Return cache-dit's configuration of a cache for this number of steps."""
    return {
        "cache_config": cache_dit.DBCacheConfig(
            **config.dbcache,
            num_inference_steps=steps,
            steps_computation_mask=mask,
            enable_separate_cfg=False,
        ),
        "calibrator_config": _calibrator(config.calibrator) if config.calibrator else None,
    }


def _calibrator(chosen: Calibrator) -> Any:
    """Return cache-dit's configuration of a calibrator."""
    configuration = getattr(cache_dit, CALIBRATORS[chosen.name], None)
    if configuration is None:
        raise FluxFastError(
            f"this cache-dit has no calibrator {chosen.name}",
            got=f"cache-dit {cache_dit.__version__}",
            allowed="cache-dit 1.5.3 or newer",
            remedy='pip install "cache-dit>=1.5.3"',
        )
    return configuration(**chosen.settings)


def _refuse_controlnet(keywords: Mapping[str, Any]) -> None:
    """Refuse residuals between the blocks, because a cache calls all blocks as one."""
    if any(keywords.get(name) is not None for name in CONTROLNET):
        raise FluxFastError(
            "DBCache does not support a ControlNet",
            got="ControlNet residuals, which are added between the blocks",
            allowed="pipelines without a ControlNet",
            remedy="disable dbcache",
        )
