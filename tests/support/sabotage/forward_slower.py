"""Make each forward of the transformer take 20% longer, in the eager pipeline as well."""

import time

from diffusers import FluxTransformer2DModel

forward = FluxTransformer2DModel.forward


def slower(self, *args, **kwargs):
    started = time.perf_counter()
    output = forward(self, *args, **kwargs)
    until = time.perf_counter() + 0.2 * (time.perf_counter() - started)
    while time.perf_counter() < until:
        pass
    return output


FluxTransformer2DModel.forward = slower
