"""Compile the Triton kernels of a call side by side, before its first launch.

Triton compiles a kernel, and the function that launches it, when it is launched first: one after
the other, the 35 variants of an image take 20 s of one core (H200 host, empty caches). Most of that
is LLVM, ptxas and gcc, so threads run it in parallel. Importing this module imports Triton.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import RLock
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from triton.runtime import driver
from triton.runtime._async_compile import active_mode
from triton.runtime.jit import JITFunction

from fluxfast.hardware import available_cores

_compiling = RLock()  # one thread at a time asks for kernels; another waits until they are compiled


class CompiledAhead:
    """Call `function`, with its kernels compiled before the first call of each shape.

    Attributes:
        function: called with a tensor first; it must not depend on the tensor's values.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._shapes: set[torch.Size] = set()

    def __call__(self, x: Tensor, *arguments: Any, **keywords: Any) -> Any:
        """Return `function(x, *arguments, **keywords)`."""
        if x.shape not in self._shapes and not active_mode.get():
            compile_kernels_of(lambda: self.function(x, *arguments, **keywords))
        self._shapes.add(x.shape)
        return self.function(x, *arguments, **keywords)


def compile_kernels_of(*calls: Callable[[], object]) -> None:
    """Make the calls without launching a Triton kernel, and compile those they would launch.

    Everything else of a call runs, on tensors that no kernel has filled: it must not depend on
    their values. Nothing is compiled where Triton interprets its kernels. Another thread that does
    the same waits until these are compiled, and finds them.

    Raises:
        triton.CompilationError: a kernel cannot be compiled.
    """
    with _launches_compile_only():
        for call in calls:
            call()


@contextmanager
def _launches_compile_only() -> Iterator[None]:
    """Let launches of this thread only ask for their kernel; wait for those that compile them."""
    run = JITFunction.run

    def ask_only(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **keywords: Any) -> Any:
        only = warmup or active_mode.get() is not None  # a context variable: of this thread alone
        return run(kernel, *arguments, grid=grid, warmup=only, **keywords)

    try:
        with (
            _compiling,
            _Compilers(available_cores()) as pool,
            triton.AsyncCompileMode(pool),
            patch.object(JITFunction, "run", ask_only),
        ):
            yield
    finally:
        active_mode.set(None)  # Triton leaves its mode set when a kernel cannot be compiled


class _Compilers(ThreadPoolExecutor):
    """Threads that compile a kernel, build its launcher and load both."""

    def submit(self, compile_kernel: Any, /, *arguments: Any, **keywords: Any) -> Future[Any]:
        device = driver.active.get_current_device()

        def loaded() -> Any:
            driver.active.set_current_device(device)  # of this thread
            kernel = compile_kernel(*arguments, **keywords)
            _ = kernel.run  # the launcher and the binary are loaded when this is read first
            return kernel

        return super().submit(loaded)
