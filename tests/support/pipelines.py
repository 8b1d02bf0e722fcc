"""Small pipelines on the CPU, and a log of the regions that one call passes through."""

from fluxfast.bench.cases.planned import situation_of
from fluxfast.hardware import detect
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


class Log:
    """An observer that writes each region down when it begins and when it ends."""

    def __init__(self):
        self.lines = []

    def enter(self, region):
        self.lines.append(f"+{region.value}")

    def exit(self, region):
        self.lines.append(f"-{region.value}")
