"""Faults of one of two ranks, and a second rank that calls the pipeline itself, as under torchrun.

Workers are processes of their own: a fault comes to them as a hook of the transformer.
"""

import ctypes
import os
import signal
import time
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.distributed as dist

import fluxfast
from benchmarks.variants import VARIANTS, generate, loaded
from fluxfast.pipeline import call_clock, ctrl_c, own_watch, watchdog
from fluxfast.pipeline.call_clock import CallClock, Limits
from fluxfast.pipeline.watchdog import Watchdog

TEXT = VARIANTS[0]
# What compiles takes seconds, and is tested apart.
EAGER = ("regional", "inductor_flags")


@dataclass(kw_only=True)
class Fault:
    """A hook of a module that acts on one rank, from its second call on."""

    kind: str
    rank: int = 1
    calls: int = 0

    def __call__(self, module, arguments):
        self.calls += 1
        if not dist.is_initialized() or dist.get_rank() != self.rank or self.calls < 2:
            return
        if self.kind == "error":
            raise torch.OutOfMemoryError("a planted error")
        if self.kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "hangs":
            time.sleep(600)
        if self.kind == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.kind == "interrupted":
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a background ignores it
            signal.raise_signal(signal.SIGINT)


def rank_of_two(index, port, calls, results):
    """Optimize a pipeline as rank 1 of two and call it; put what each call returns or raises.

    Args:
        index: given by torch.multiprocessing.
        port: the port of rank 0's store.
        calls: the arguments of each call, with its seed.
        results: a queue.
    """
    torch.set_num_threads(1)
    join(1, dist.TCPStore("127.0.0.1", port, 2, is_master=False))
    with fluxfast.optimize(loaded(TEXT), gpus=2, disable=EAGER) as fast:
        for call in calls:
            try:
                results.put(generate(fast, TEXT, **call).numpy())
            except fluxfast.FluxFastError as error:
                results.put(str(error))
    dist.destroy_process_group()


def rank_of_two_with_a_fault(rank, port, kind, faulty, texts):
    """Call an optimized pipeline as one of two ranks; one of them acts after its second step.

    Args:
        rank: given by torch.multiprocessing.
        port: the port of the store.
        kind: of the fault.
        faulty: its rank.
        texts: files for the standard error output of each rank.
    """
    os.dup2(os.open(texts[rank], os.O_WRONLY | os.O_CREAT), 2)
    torch.set_num_threads(1)
    call_clock.CALL_S, own_watch.WITH_OTHERS_S = 3.0, 2.0
    join(rank, dist.TCPStore("127.0.0.1", port, 2, is_master=False))
    fault = Fault(kind=kind, rank=faulty)

    def callback(pipeline, *_):
        fault(pipeline, ())
        return {}

    with fluxfast.optimize(loaded(TEXT), gpus=2, disable=EAGER) as fast:
        generate(fast, TEXT, num_inference_steps=4, callback_on_step_end=callback)


def stuck(started):
    """Wait for ever in a library, in a call that is watched; the process ends in no other way.

    Args:
        started: a connection that gets a message just before.
    """
    ctrl_c.RETURN_S = watchdog.NOTICE_S = 0.2
    # Raises nothing, so that Ctrl-C may come at any time.
    signal.default_int_handler = lambda *_: None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    processes = SimpleNamespace(processes=[], join=lambda **_: False)
    clock = CallClock(Limits(first_call_s=600, call_s=600), is_gpu=True)
    mutex, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    library.pthread_mutex_lock(mutex)
    with Watchdog(processes, clock, is_gpu=True) as dog, dog.watching("a step"):
        started.send("stuck")
        library.pthread_mutex_lock(mutex)


def join(rank, store):
    """Do what a script under torchrun does: join the default process group."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
