"""Errors that a user can act on: the problem, the value, what is allowed, and a remedy."""

from __future__ import annotations


class FluxFastError(Exception):
    """An error that the user can correct.

    Attributes:
        problem: the problem in the user's words, the first line of the message.
        got: the value that was found.
        allowed: the values that are accepted.
        remedy: what to do.
    """

    def __init__(self, problem: str, *, got: object, allowed: str, remedy: str) -> None:
        """Compose the message: problem, got, allowed, remedy, each on its own line."""
        self.problem, self.got, self.allowed, self.remedy = problem, got, allowed, remedy
        super().__init__(f"{problem}\n  got:     {got}\n  allowed: {allowed}\n  remedy:  {remedy}")


class PlanError(FluxFastError):
    """The optimizations do not go together, or this model or hardware does not support them."""


class CheckpointError(FluxFastError):
    """The weights cannot be found or read, or are not a Flux.1 checkpoint."""


class BaselineError(FluxFastError):
    """A baseline or results file is missing, corrupt, or of another machine."""


class ArtifactError(FluxFastError):
    """An exported package is of another model, machine or software version."""


class RankError(FluxFastError):
    """A process that shares an image with others cannot join them, or one of them has failed."""


class TrainingError(FluxFastError):
    """Training of the mini family cannot continue: its loss is NaN or infinite."""
