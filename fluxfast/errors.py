"""The errors that a user can act on."""

from __future__ import annotations


class FluxFastError(Exception):
    """A mistake or a limit that the user can do something about: got, allowed, remedy."""

    def __init__(self, problem: str, *, got: object, allowed: str, remedy: str) -> None:
        self.problem, self.got, self.allowed, self.remedy = problem, got, allowed, remedy
        super().__init__(f"{problem}\n  got:     {got}\n  allowed: {allowed}\n  remedy:  {remedy}")


class PlanError(FluxFastError):
    """What was asked for cannot be had together, on this model, or on this hardware."""


class CheckpointError(FluxFastError):
    """The weights cannot be found, read, or are not a Flux.1 checkpoint."""


class BaselineError(FluxFastError):
    """A baseline or a results file is missing, corrupt, or belongs to something else."""


class ArtifactError(FluxFastError):
    """An exported package does not belong to this model, machine or stack."""


class TrainingError(FluxFastError):
    """The mini family cannot be trained on: its loss is no number any more."""
