"""Errors that a user can act on: the problem, the value, what is allowed, and a remedy."""

from __future__ import annotations

import re

# Characters that a terminal obeys, those that change the direction of the text after them, and
# halves of characters, which cannot be printed.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return the text with an escape sequence in place of each character that has no print."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


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
        shown = got if str(got) else "nothing"
        lines = f"{problem}\n  got:     {shown}\n  allowed: {allowed}\n  remedy:  {remedy}"
        super().__init__(printable(lines))


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
