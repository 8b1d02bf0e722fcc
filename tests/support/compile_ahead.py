"""Compile the kernels of a norm ahead, for a Hopper GPU that is not there; print what happened.

Run it in a process of its own, without TRITON_INTERPRET: `python -m tests.support.compile_ahead`.
"""

import json
import sys
import threading
from types import SimpleNamespace

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from fluxfast.kernels.compile_ahead import CompiledAhead, compile_kernels_of
from fluxfast.kernels.vae import group_norm_silu

launched: list[str] = []
loaded: list[tuple[str, str]] = []  # kernels with their threads


def load_binary(name, *_):
    loaded.append((name, threading.current_thread().name))
    return "module", name, 0, 0, 1024


def launcher_of(source, _):
    return lambda *_: launched.append(source.name)


HOPPER = SimpleNamespace(
    get_current_device=lambda: 0,
    set_current_device=lambda device: None,
    get_current_stream=lambda device: 0,
    get_current_target=lambda: GPUTarget("cuda", 90, 32),
    launcher_cls=launcher_of,
    utils=SimpleNamespace(
        get_device_properties=lambda device: {"max_shared_mem": 232448}, load_binary=load_binary
    ),
)


def in_a_thread(call):
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


@triton.jit
def wrong(x):
    tl.store(x, no_such_name)  # noqa: F821


def main():
    driver.set_active(HOPPER)
    image = torch.zeros(1, 64, 8, 8, dtype=torch.bfloat16)
    weight = torch.ones(64, dtype=torch.bfloat16)

    def normed(x):
        return group_norm_silu(x, None, weight, weight, 32, 1e-6)

    ahead = CompiledAhead(normed)
    compile_kernels_of(lambda: ahead(image))
    found = {"launched ahead": list(launched), "loaded ahead": list(loaded)}
    compile_kernels_of(lambda: in_a_thread(lambda: normed(image)))
    found |= {"launched by a thread": list(launched)}
    launched.clear()
    ahead(image)
    found |= {"launched": list(launched), "loaded": list(loaded)}
    try:
        compile_kernels_of(lambda: wrong[(1,)](image))
    except triton.CompilationError as error:
        found |= {"error": str(error)}
    compile_kernels_of(lambda: normed(image.float()))
    found |= {"loaded after the error": loaded[len(found["loaded"]) :]}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
