"""Join the processes that share an image: those of torchrun, or workers that start here.

Under torchrun each rank has a pipeline of its own, and all of them call it. Otherwise this process
is rank 0. It starts one worker for each further GPU, sends it the transformer, and leads: a worker
has the transformer only, applies the same optimizations to it, and follows each call.
"""

from __future__ import annotations

import copy
import os
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import start_processes

from fluxfast.errors import RankError
from fluxfast.hardware import Hardware, gpus_from
from fluxfast.optimizations.axis import AROUND_THE_TRANSFORMER
from fluxfast.optimizations.base import Build, Plan
from fluxfast.optimizations.team import Team
from fluxfast.pipeline.apply import apply_plan
from fluxfast.pipeline.call_clock import CallClock, limits_of
from fluxfast.pipeline.own_watch import OwnWatch, called_within
from fluxfast.pipeline.rank_worker import IDLE, LOOPBACK, Start, tensors_of, work
from fluxfast.pipeline.watchdog import Watchdog

# Imported by the process that workers are forked from, once for all of them.
PRELOAD = ["diffusers.models.transformers.transformer_flux"]


_led = list[Watchdog]()  # of the team that this process leads, if it does


def apply_on_every_rank(
    pipeline: Any, plan: Plan, *, undo: ExitStack | None = None, **options: Any
) -> Build:
    """Apply a plan in place; for several GPUs, together with the processes that share an image.

    Args:
        pipeline: the pipeline.
        plan: the checked plan.
        undo: callbacks that run after those of the plan, when it is undone.
        **options: further arguments of `apply_plan`.

    Raises:
        FluxFastError: an optimization cannot be applied, or a process cannot join.
    """
    undo = undo or ExitStack()
    try:
        team = joined_team(pipeline, plan, undo)
        build = apply_plan(pipeline, plan, undo=undo, team=team, **options)
        if team:
            with team.watched("applying"):
                team.wait()
    except BaseException:
        undo.close()
        raise
    return build


def joined_team(pipeline: Any, plan: Plan, undo: ExitStack) -> Team | None:
    """Return the team that shares an image of this plan; None where it is for one GPU.

    Args:
        pipeline: the pipeline, before an optimization is applied.
        plan: the plan.
        undo: what ends the team goes here.

    Raises:
        RankError: there are not as many GPUs or ranks as the plan is for.
    """
    hardware = plan.situation.hardware
    if hardware.gpus == 1:
        return None
    if is_launched():
        return _launched_team(pipeline, plan, undo)
    if dist.is_initialized():
        raise RankError(
            "another pipeline of this process uses several GPUs",
            got="a second pipeline on several GPUs",
            allowed="one at a time: torch.distributed has one default process group",
            remedy="call undo() of the other pipeline first",
        )
    return _led_team(pipeline, plan, undo)


def is_launched() -> bool:
    """Return whether a launcher such as torchrun has started this process as one of several."""
    return not _led and (dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) > 1)


def backend_of(hardware: Hardware) -> str:
    """Return the backend of torch.distributed for tensors on this machine."""
    return "nccl" if hardware.is_gpu else "gloo"


def _launched_team(pipeline: Any, plan: Plan, undo: ExitStack) -> Team:
    """Join the ranks that a launcher has started, and watch the calls of this one."""
    hardware = plan.situation.hardware
    if not dist.is_initialized():
        dist.init_process_group(backend_of(hardware))
    if dist.get_world_size() != hardware.gpus:
        raise RankError(
            "not as many ranks as GPUs that are to share an image",
            got=f"{dist.get_world_size()} ranks, gpus={hardware.gpus}",
            allowed="one rank for each GPU",
            remedy=f"start it with: torchrun --nproc-per-node {hardware.gpus}; without torchrun, "
            "fluxfast starts the other processes itself",
        )
    messages = dist.new_group(backend="gloo", timeout=IDLE)
    team = Team(rank=dist.get_rank(), size=hardware.gpus, messages=messages, is_led=False)
    watch = OwnWatch(team, CallClock(limits_of(plan), is_gpu=hardware.is_gpu))
    undo.enter_context(watch)
    pipeline.__class__ = called_within(type(pipeline), watch.image)
    return replace(team, watched=watch.watching)


def _led_team(pipeline: Any, plan: Plan, undo: ExitStack) -> Team:
    """Start the workers, and return the team as rank 0 sees it."""
    hardware, context = plan.situation.hardware, get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        LOOPBACK, 0, hardware.gpus, is_master=True, wait_for_workers=False
    )
    start = Start(
        port=store.port,
        backend=backend_of(hardware),
        devices=_devices(pipeline.device, hardware.gpus),
        threads=max(1, hardware.cores // hardware.gpus),
        names=tuple(o.name for o in plan.optimizations if o.axis not in AROUND_THE_TRANSFORMER),
        situation=plan.situation,
    )
    processes = start_processes(
        work, (start,), hardware.gpus - 1, join=False, daemon=True, start_method="forkserver"
    )
    clock = CallClock(limits_of(plan), is_gpu=hardware.is_gpu)
    watchdog = undo.enter_context(Watchdog(processes, clock, is_gpu=hardware.is_gpu))
    _led.append(watchdog)
    undo.callback(_led.clear)
    undo.callback(watchdog.leave)
    with watchdog.watching("joining"):
        team = replace(start.joined(0, store), watched=watchdog.watching)
        undo.callback(watchdog.dismiss, team)
        team.send(skeleton(pipeline.transformer))
        for tensor in tensors_of(pipeline.transformer):
            team.broadcast(tensor.detach().contiguous())
    return team


def _devices(first: torch.device, count: int) -> tuple[str, ...]:
    """Return the device of each rank: that of the pipeline, then the other GPUs in order."""
    if first.type == "cpu":
        return ("cpu",) * count
    return tuple(f"cuda:{index}" for index in gpus_from(first.index or 0, count))


def skeleton(transformer: nn.Module) -> nn.Module:
    """Return a copy of the transformer without values: its tensors are on the device `meta`."""
    with torch.no_grad():
        empty: dict[int, Any] = {
            id(tensor): nn.Parameter(tensor.to("meta"), requires_grad=tensor.requires_grad)
            if isinstance(tensor, nn.Parameter)
            else tensor.to("meta")
            for tensor in tensors_of(transformer)
        }
        return copy.deepcopy(transformer, empty)
