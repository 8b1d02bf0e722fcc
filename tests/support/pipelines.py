"""Small pipelines on the CPU, and a log of the regions that one call passes through."""

from fluxfast.bench.cases.planned import situation_of
from fluxfast.hardware import detect
from fluxfast.models import loading
from fluxfast.models.weights import resolve
from fluxfast.optimizations.base import Plan
from fluxfast.optimizations.registry import optimizations
from fluxfast.pipeline.build import build

HERE = detect("cpu")


def built(*names, model="schnell", num_inference_steps=1):
    """Return a pipeline of an unchecked plan: some of these optimizations refuse a CPU."""
    checkpoint = resolve(model, "mini", HERE)
    steps = num_inference_steps
    situation = situation_of(checkpoint, HERE, height=32, width=16, num_inference_steps=steps)
    chosen = tuple(o for o in optimizations().values() if o.name in names)
    return build(checkpoint, Plan(optimizations=chosen, situation=situation))


def load_one_block_of_each_kind(monkeypatch):
    """Let pipelines of the mini family be loaded with the first block of each kind alone.

    Each level of the VAE's decoder keeps one of its two residual blocks.
    """
    load_mini = loading._load_mini

    def load(name, dtype):
        pipeline = load_mini(name, dtype)
        transformer = pipeline.transformer
        transformer.transformer_blocks = transformer.transformer_blocks[:1]
        transformer.single_transformer_blocks = transformer.single_transformer_blocks[:1]
        for level in pipeline.vae.decoder.up_blocks:
            level.resnets = level.resnets[:1]
        return pipeline

    monkeypatch.setattr(loading, "_load_mini", load)


class Log:
    """An observer that writes each region down when it begins and when it ends."""

    def __init__(self):
        self.lines = []

    def enter(self, region):
        self.lines.append(f"+{region.value}")

    def exit(self, region):
        self.lines.append(f"-{region.value}")
