"""Ask for a plan's kernels with a stand-in, then with the pipeline; print what differs as JSON.

For a Hopper GPU that is not there, see `compile_ahead`. Run it in a process of its own, without
TRITON_INTERPRET: `python -m tests.support.stand_in_kernels schnell fused_norms fused_vae`.
"""

import gc
import json
import sys
from unittest.mock import patch

import torch
from triton.runtime import driver

from fluxfast.bench.cases.planned import situation_of
from fluxfast.bench.measurement.cold_start import KERNELS, forget_triton_kernels
from fluxfast.hardware import detect
from fluxfast.kernels.compile_ahead import compile_kernels_of
from fluxfast.models.arguments import call_arguments
from fluxfast.models.loading import load
from fluxfast.models.weights import resolve
from fluxfast.optimizations.base import Plan
from fluxfast.optimizations.registry import optimizations
from fluxfast.pipeline import kernels_ahead
from fluxfast.pipeline.apply import apply_plan
from tests.support.compile_ahead import HOPPER

SHARED = ("bf16", "fused_projections", "sdpa")


def known():
    """Return the kernels that Triton holds: their names with the types of their arguments."""
    modules = [module for name, module in sys.modules.items() if name.startswith(KERNELS)]
    named = [item for module in modules for item in vars(module).items()]
    return {
        f"{name} {key}"
        for name, kernel in named
        for compiled, *_ in getattr(kernel, "device_caches", {}).values()
        for key in compiled
    }


def main():
    model, *names = sys.argv[1:]
    driver.set_active(HOPPER)
    hardware = detect("cpu")
    checkpoint = resolve(model, "mini", hardware)
    situation = situation_of(checkpoint, hardware)
    chosen = tuple(o for o in optimizations().values() if o.name in (*SHARED, *names))
    plan = Plan(optimizations=chosen, situation=situation)
    with patch.object(kernels_ahead, "_asks_for_kernels", lambda *_: True):
        kernels_ahead.begin_to_compile(checkpoint, plan, torch.bfloat16)
    left = sum(isinstance(o, torch.nn.Parameter) for o in gc.get_objects())  # of the stand-in
    pipeline = load(checkpoint, dtype=torch.bfloat16, hardware=hardware)
    compile_kernels_of()  # waits
    by_stand_in = known()
    forget_triton_kernels()
    for network in (pipeline.transformer, pipeline.vae):
        for parameter in network.parameters():
            parameter.data = parameter.data.clone()  # aligned, as on a GPU
    apply_plan(pipeline, plan)
    arguments = call_arguments(situation.request, checkpoint.model.takes_image)
    compile_kernels_of(lambda: pipeline(**arguments, output_type="pt"))
    missing, unused = known() - by_stand_in, by_stand_in - known()
    found = {"asked": len(known()), "missing": sorted(missing), "unused": sorted(unused)}
    found["left"] = left
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
