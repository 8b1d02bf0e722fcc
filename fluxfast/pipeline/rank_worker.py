"""A process that computes a share of each image: a transformer without a pipeline around it."""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fluxfast.optimizations.base import Plan
from fluxfast.optimizations.parallel._calls import Follower, receive_into
from fluxfast.optimizations.registry import optimization_named
from fluxfast.optimizations.situation import LoadedPipeline, Situation
from fluxfast.optimizations.team import Team
from fluxfast.pipeline.applied import RECOMPILE_LIMIT
from fluxfast.pipeline.apply import apply_plan
from fluxfast.pipeline.preconditions import OPTIONAL_COMPONENTS
from fluxfast.processes import end_with_parent

LOOPBACK = "127.0.0.1"
IDLE = timedelta(days=30)  # how long a rank waits for the next call of rank 0
DUMP_STACKS = signal.SIGUSR1  # a worker prints the stacks of its threads


@dataclass(frozen=True, kw_only=True)
class Start:
    """Everything that a worker needs before it can receive the transformer.

    Attributes:
        port: port of rank 0's store on this machine.
        backend: the backend of torch.distributed for tensors.
        devices: the device of each rank.
        threads: threads of each worker on a CPU.
        names: the optimizations of the transformer.
        situation: what they are applied for.
    """

    port: int
    backend: str
    devices: tuple[str, ...]
    threads: int
    names: tuple[str, ...]
    situation: Situation

    def joined(self, rank: int, store: Any) -> Team:
        """Join torch.distributed as a rank, and return the team."""
        device = torch.device(self.devices[rank])
        size = len(self.devices)
        with _on_loopback():
            dist.init_process_group(
                self.backend,
                store=store,
                rank=rank,
                world_size=size,
                device_id=device if device.type == "cuda" else None,
            )
            messages = dist.new_group(backend="gloo", timeout=IDLE)
        return Team(rank=rank, size=size, messages=messages, is_led=True)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let gloo listen on the loopback interface, unless the user has chosen another."""
    chosen = {"GLOO_SOCKET_IFNAME": "lo"} | dict(os.environ)
    with patch.dict(os.environ, chosen):
        yield


def work(index: int, start: Start) -> None:
    """Follow rank 0 until it ends the team; run in a process of its own."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to rank 0, which ends this process
    faulthandler.register(DUMP_STACKS)
    rank = index + 1
    device = torch.device(start.devices[rank])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(start.threads)
    store = dist.TCPStore(LOOPBACK, start.port, len(start.devices), is_master=False)  # type: ignore[attr-defined]
    team = start.joined(rank, store)
    with torch.no_grad():
        _follow(team, received_transformer(team, device), device, start)
    dist.destroy_process_group()


def _follow(team: Team, transformer: Any, device: torch.device, start: Start) -> None:
    follower = Follower(team, transformer, device)
    pipeline = transformer_alone(transformer, follower.scheduler, device)
    dtype = str(transformer.dtype).removeprefix("torch.")
    alone = LoadedPipeline(pipeline_class="", dtype=dtype, absent=frozenset({*OPTIONAL_COMPONENTS}))
    plan = Plan(
        optimizations=tuple(map(optimization_named, start.names)),
        situation=replace(start.situation, loaded=alone),
    )
    build = apply_plan(pipeline, plan, team=team)
    with build.undo:
        team.wait()
        limit = torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT)
        with limit if plan.compiles else nullcontext():
            follower.run(build.on_new_weights)


def transformer_alone(transformer: Any, scheduler: Any, device: torch.device) -> Any:
    """Return what optimizations need of a pipeline, for a rank that has its transformer only."""
    return SimpleNamespace(
        transformer=transformer,
        scheduler=scheduler,
        device=device,
        vae=None,
        components={"transformer": transformer},
    )


def tensors_of(network: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers of a network, each once, in the same order everywhere."""
    return [*network.parameters(), *network.buffers()]


def received_transformer(team: Team, device: torch.device) -> Any:
    """Return the transformer that rank 0 sends: its modules first, then each tensor."""
    transformer = team.receive().to_empty(device=device)
    for tensor in tensors_of(transformer):
        receive_into(team, tensor)
    return transformer
