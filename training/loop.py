"""The training loop of every stage; an interrupted stage resumes from its last save."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fluxfast.console import Console
from fluxfast.errors import TrainingError
from fluxfast.files import replacing
from training.recipe import Stage

SAVE_EVERY_S = 30.0
REPORT_EVERY_S = 5.0
MAX_GRADIENT_NORM = 1.0
# A loss takes the iteration and a generator, and returns the loss of one batch.
Loss = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The folder, device and seed of a training run.

    Attributes:
        folder: where stages are saved.
        device: a torch device.
        seed: seed of all random numbers.
        console: where progress is printed.
    """

    folder: Path
    device: str
    seed: int
    console: Console

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def generator(self, name: str) -> torch.Generator:
        """Return the generator of one stage; it does not depend on what ran before."""
        seed = zlib.crc32(f"{self.seed} {name}".encode())
        return torch.Generator(self.device).manual_seed(seed)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.on_gpu)


def fit(name: str, networks: Mapping[str, nn.Module], loss: Loss, stage: Stage, run: Run) -> None:
    """Train the networks in place; resume if `run.folder` holds this stage."""
    parameters = [p for network in networks.values() for p in network.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=stage.learning_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=run.on_gpu
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: _rate(i, stage))
    generator = run.generator(name)
    path = run.folder / f"{name}.pt"
    begin = _restore(path, networks, optimizer, schedule, generator)
    for network in networks.values():
        network.train().requires_grad_(True)
    started = reported = saved = time.monotonic()
    for iteration in range(begin, stage.iterations):
        value = loss(iteration, generator)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        done, now = iteration + 1, time.monotonic()
        reporting = now - reported > REPORT_EVERY_S or done == stage.iterations
        saving = now - saved > SAVE_EVERY_S or done == stage.iterations
        if reporting or saving:
            _check_finite(name, done, value.item())
        if reporting:
            rate = (done - begin) / (now - started)
            left = (stage.iterations - done) / rate
            run.console.stage(
                f"{name}: {done}/{stage.iterations}, loss {value.item():.4f}, "
                f"{rate:.1f} iterations/s, {left:.0f} s left"
            )
            reported = now
        if saving:
            _save(path, networks, optimizer, schedule, generator, done)
            saved = now
    if begin == stage.iterations:
        run.console.stage(f"{name}: already trained")
    for network in networks.values():
        network.eval().requires_grad_(False)


def _check_finite(name: str, done: int, loss: float) -> None:
    """Refuse to save a stage whose loss is NaN or infinite."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"the training of {name} diverged",
            got=f"a loss of {loss} after {done} iterations",
            allowed="a finite loss",
            remedy="lower the stage's learning rate and start again: it resumes from its last save",
        )


def _rate(iteration: int, stage: Stage) -> float:
    warm = min(1.0, (iteration + 1) / stage.warmup)
    return warm * 0.5 * (1 + math.cos(math.pi * iteration / stage.iterations))


def _save(
    path: Path,
    networks: Mapping[str, nn.Module],
    optimizer: Any,
    schedule: Any,
    generator: torch.Generator,
    done: int,
) -> None:
    state = {
        "iteration": done,
        "networks": {name: network.state_dict() for name, network in networks.items()},
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "generator": generator.get_state(),
    }
    with replacing(path) as temporary:
        torch.save(state, temporary)


def _restore(
    path: Path,
    networks: Mapping[str, nn.Module],
    optimizer: Any,
    schedule: Any,
    generator: torch.Generator,
) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, network in networks.items():
        network.load_state_dict(state["networks"][name])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    generator.set_state(state["generator"])
    return int(state["iteration"])
