"""Let every rank call its transformer with the values of rank 0. Imports torch.

Rank 0 announces each call: the arguments that are no tensors, and which tensors are new. Only new
ones are sent: those of the prompt once per image, the latents in each step. A rank that follows
keeps the other ones, so what is computed once per image (the modulation table) is there, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fluxfast.errors import FluxFastError, RankError
from fluxfast.optimizations.precision._plain_tensors import plain_tensors
from fluxfast.optimizations.team import Team

Forward = Callable[..., Any]
MOST_DIFFERENCE = 0.01  # relative, of the same arguments on two ranks
STEP = ("step_index", "begin_index")  # attributes of a scheduler that caches read
SCHEDULE = "timesteps of the scheduler"  # sent with the tensors among the arguments


@dataclass(frozen=True, kw_only=True)
class Call:
    """The announcement of a call of the transformer.

    Attributes:
        values: the arguments that are no tensors.
        kept: names of the tensors that are those of an earlier call.
        fresh: shape and dtype of the tensors that follow, by name.
        scheduler: attributes of the scheduler: the step.
    """

    values: Mapping[str, Any]
    kept: tuple[str, ...]
    fresh: Mapping[str, tuple[tuple[int, ...], torch.dtype]]
    scheduler: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class NewWeights:
    """The announcement of weights that were rewritten in place.

    Attributes:
        layers: names of the layers of the transformer.
    """

    layers: tuple[str, ...]


@dataclass(kw_only=True)
class Leader:
    """Announces the calls of rank 0 and sends their tensors.

    Attributes:
        team: the ranks.
        pipeline: the pipeline, for its scheduler.
        sent: the newest tensor of each name, with its version.
    """

    team: Team
    pipeline: Any
    sent: dict[str, tuple[Tensor, int | None]] = field(default_factory=dict)

    def __call__(self, forward: Forward, keywords: dict[str, Any]) -> Any:
        """Return `forward(**keywords)`, which all ranks call."""
        scheduler = self.pipeline.scheduler
        tensors = {n: v for n, v in keywords.items() if isinstance(v, Tensor)}
        values = {n: v for n, v in keywords.items() if n not in tensors}
        _check_plain(values)
        if isinstance(getattr(scheduler, "timesteps", None), Tensor):
            tensors[SCHEDULE] = scheduler.timesteps
        fresh = {name: t for name, t in tensors.items() if not self._is_sent(name, t)}
        with self.team.watched(_layout(tensors)):
            self.team.send(
                Call(
                    values=values,
                    kept=tuple(n for n in tensors if n not in fresh),
                    fresh={n: (tuple(t.shape), t.dtype) for n, t in fresh.items()},
                    scheduler={name: getattr(scheduler, name, None) for name in STEP},
                )
            )
            device = keywords["hidden_states"].device
            for name, tensor in fresh.items():
                self.team.broadcast(tensor.to(device).contiguous())
                self.sent[name] = (tensor, _version(tensor))
            return forward(**keywords)

    def _is_sent(self, name: str, tensor: Tensor) -> bool:
        before, version = self.sent.get(name, (None, None))
        return before is tensor and version is not None and version == _version(tensor)


def _layout(tensors: Mapping[str, Tensor]) -> tuple[Any, ...]:
    return tuple((name, tuple(t.shape), t.dtype) for name, t in sorted(tensors.items()))


def _version(tensor: Tensor) -> int | None:
    """Return how often a tensor was written in place; None where that is not counted."""
    return None if tensor.is_inference() else tensor._version


def _check_plain(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if value not in (None, False, True, {}, {"scale": 1.0}):
            raise FluxFastError(
                "several GPUs do not support this argument of the transformer",
                got=f"{name}={value!r}"[:100],
                allowed="calls without ControlNet residuals and attention arguments",
                remedy="use one GPU for these calls",
            )


class Follower:
    """Receives the calls of rank 0.

    Attributes:
        scheduler: stands for rank 0's scheduler: its timesteps and its step.
    """

    def __init__(self, team: Team, transformer: Any, device: torch.device) -> None:
        """Follow rank 0 of the team with this transformer."""
        self.team, self.transformer, self.device = team, transformer, device
        self.scheduler = SimpleNamespace(timesteps=None, step_index=None, begin_index=None)
        self._held: dict[str, Tensor] = {}

    def run(self, on_new_weights: list[Callable[[], None]]) -> None:
        """Call the transformer as rank 0 does, until rank 0 ends it."""
        while (message := self.team.receive()) is not None:
            if isinstance(message, NewWeights):
                self._receive_weights(message)
                for derive in on_new_weights:
                    derive()
            else:
                self.transformer(**self._arguments(message))

    def __call__(self, forward: Forward, keywords: dict[str, Any]) -> Any:
        """Return `forward` of rank 0's arguments, where this rank was called with like ones.

        Raises:
            RankError: this rank was called with other arguments.
        """
        with self.team.watched(_layout({n: t for n, t in keywords.items() if torch.is_tensor(t)})):
            call = self.team.receive()
            theirs = self._arguments(call)
            if different := _different(keywords, theirs, with_values=SCHEDULE in call.fresh):
                raise RankError(
                    "the ranks call the pipeline with different arguments",
                    got=f"on rank {self.team.rank} another {', '.join(different)} than on rank 0",
                    allowed="the same prompt, size, steps and seed on every rank",
                    remedy="give every rank a generator with the same seed, and the same arguments",
                )
            return forward(**theirs)

    def _arguments(self, call: Call) -> dict[str, Any]:
        received = {
            name: self.team.broadcast(torch.empty(shape, dtype=dtype, device=self.device))
            for name, (shape, dtype) in call.fresh.items()
        }
        self._held |= received
        tensors = {name: self._held[name] for name in (*call.kept, *call.fresh)}
        self.scheduler.timesteps = tensors.pop(SCHEDULE, None)
        vars(self.scheduler).update(call.scheduler)
        return {**call.values, **tensors}

    def _receive_weights(self, message: NewWeights) -> None:
        for name in message.layers:
            for held in plain_tensors(self.transformer.get_submodule(name).weight):
                receive_into(self.team, held)


def send_weights(team: Team, transformer: Any, layers: tuple[str, ...]) -> None:
    """Send the weights of these layers of rank 0, which were rewritten in place, to the others."""
    with team.watched(layers):
        team.send(NewWeights(layers=layers))
        for name in layers:
            for tensor in plain_tensors(transformer.get_submodule(name).weight):
                team.broadcast(tensor.detach().contiguous())


def receive_into(team: Team, held: Tensor) -> None:
    """Overwrite a tensor with that of rank 0, in its memory."""
    with torch.no_grad():
        held.copy_(team.broadcast(torch.empty_like(held, memory_format=torch.contiguous_format)))


def _different(ours: Mapping[str, Any], theirs: Mapping[str, Any], with_values: bool) -> list[str]:
    """Return the names of arguments that differ.

    Args:
        ours: the arguments of this rank.
        theirs: those of rank 0.
        with_values: compare the values of tensors, too, for which the host waits.
    """
    names = [n for n in {**ours, **theirs} if _described(ours.get(n)) != _described(theirs.get(n))]
    if names or not with_values:
        return names
    return [
        n
        for n, value in ours.items()
        if isinstance(value, Tensor) and not _is_near(value, theirs[n])
    ]


def _described(value: Any) -> object:
    return (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else value


def _is_near(one: Tensor, other: Tensor) -> bool:
    """Return whether tensors differ by rounding at most; other noise or text differs by much."""
    one, other = one.float(), other.float()
    return bool((one - other).norm() <= MOST_DIFFERENCE * other.norm())


def called_together(kind: type) -> type:
    """Return a subclass of a transformer's class whose calls go through its `called_by_ranks`."""
    call: Any = kind.__call__

    def together(self: Any, **keywords: Any) -> Any:
        def forward(**own: Any) -> Any:
            return call(self, **own)

        return self.called_by_ranks(forward, keywords)

    return type(kind.__name__, (kind,), {"__call__": together, "__module__": kind.__module__})
