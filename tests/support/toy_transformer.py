"""A transformer of blocks that add constants, to run DBCache in milliseconds; it imports torch."""

from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch import nn

from fluxfast.models.spec import DEV, default_request
from fluxfast.optimizations.base import Artifacts, Build, Plan
from fluxfast.optimizations.caching import dbcache
from fluxfast.optimizations.situation import Situation
from tests.support.machines import CPU

SIDE = 1024


class ToyBlock(nn.Module):
    """Adds a constant, so that the residuals of all steps are equal and each step may be cached."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, hidden_states, encoder_hidden_states, temb=None):
        self.calls += 1
        return encoder_hidden_states + 1, hidden_states + 1


class ToyTransformer(nn.Module):
    """Loops over its two lists of blocks as FluxTransformer2DModel does."""

    def __init__(self, doubles=1, singles=5):
        super().__init__()
        self.transformer_blocks = nn.ModuleList(ToyBlock() for _ in range(doubles))
        self.single_transformer_blocks = nn.ModuleList(ToyBlock() for _ in range(singles))

    def forward(self, hidden_states, text, controlnet_block_samples=None):
        for block in (*self.transformer_blocks, *self.single_transformer_blocks):
            text, hidden_states = block(
                hidden_states=hidden_states, encoder_hidden_states=text, temb=None
            )
        return hidden_states


def toy_pipeline(**blocks):
    """Return a pipeline with a transformer and a scheduler that has not begun a schedule."""
    scheduler = SimpleNamespace(timesteps=torch.arange(1000), step_index=None, begin_index=None)
    return SimpleNamespace(transformer=ToyTransformer(**blocks), scheduler=scheduler)


@contextmanager
def cached_pipeline(config=None, steps=8):
    """Yield a toy pipeline with DBCache, which is undone at the end."""
    request = default_request(DEV, side=SIDE, num_inference_steps=steps)
    asked = Situation(model=DEV, hardware=CPU, request=request, cache_config=config)
    plan = Plan(optimizations=(dbcache.OPTIMIZATION,), situation=asked)
    build = Build(pipeline=toy_pipeline(), plan=plan, artifacts=Artifacts(folder=None))
    with build.undo:
        dbcache.apply(build)
        yield build.pipeline


def run(pipeline, steps, *, passes=1, tokens=4, begin_index=None, **keywords):
    """Denoise as a pipeline does, and return the values of the last step's passes."""
    scheduler = pipeline.scheduler
    scheduler.timesteps, scheduler.step_index = torch.arange(steps), None
    scheduler.begin_index = begin_index
    for step in range(begin_index or 0, steps):
        values = [
            pipeline.transformer(torch.zeros(1, tokens, 8), torch.zeros(1, 2, 8), **keywords)
            for _ in range(passes)
        ]
        scheduler.step_index = step + 1
    return [value.unique().tolist() for value in values]
