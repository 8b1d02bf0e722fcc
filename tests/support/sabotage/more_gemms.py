"""Add GEMMs to each forward of the transformer, those of the MLP of a Flux block at 1024×1024.

`PLANTED_GEMMS=3 pytest -p tests.support.sabotage.more_gemms perf_tests --gpu h200`: on an H200
three of 0.47 ms are 2% of a default step of dev, and eight are 5%. A graph records them, too.
"""

import os

import torch
from diffusers import FluxTransformer2DModel

COUNT = int(os.environ["PLANTED_GEMMS"])
ROWS, INNER, COLUMNS = (4608, 3072, 12288) if torch.cuda.is_available() else (320, 256, 1024)

forward = FluxTransformer2DModel.forward
operands = []


def with_more_gemms(self, *args, **kwargs):
    output = forward(self, *args, **kwargs)
    if not operands:
        like = output[0]
        generator = torch.Generator(like.device).manual_seed(0)
        for shape in ((ROWS, INNER), (INNER, COLUMNS)):
            drawn = torch.randn(shape, device=like.device, generator=generator)
            operands.append(drawn.to(like.dtype))
    for _ in range(COUNT):
        torch.mm(*operands)
    return output


FluxTransformer2DModel.forward = with_more_gemms
