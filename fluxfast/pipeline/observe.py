"""Observe the stages of a pipeline call without touching the compiled modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from functools import wraps
from typing import Any, Protocol


class Region(StrEnum):
    """The stages of a pipeline call, named as in flux-fast's traces."""

    PROMPT_ENCODING = "prompt_encoding"
    DENOISING_STEP = "denoising_step"
    DECODING = "decoding"
    POSTPROCESSING = "postprocessing"
    PIL_CONVERSION = "pil_conversion"


class Observer(Protocol):
    """Receives the beginning and end of each region, on the thread that runs it."""

    def enter(self, region: Region) -> None:
        """Handle the beginning of a region."""
        ...

    def exit(self, region: Region) -> None:
        """Handle the end of a region."""
        ...


class CombinedObserver(Observer):
    """Several observers as one: the first to receive a beginning is the last to receive the end."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        """Combine the observers in this order."""
        self.observers = observers

    def enter(self, region: Region) -> None:
        """Notify the observers in order."""
        for observer in self.observers:
            observer.enter(region)

    def exit(self, region: Region) -> None:
        """Notify the observers in reverse order."""
        for observer in reversed(self.observers):
            observer.exit(region)


@contextmanager
def observed(pipeline: Any, observer: Observer) -> Iterator[None]:
    """Notify `observer` of every region of the pipeline's calls within this context.

    Denoising steps are recognised by the progress bar, which diffusers creates before the first
    step and updates after each. The other regions are methods, wrapped on the instance.
    """
    methods = (
        (pipeline, "encode_prompt", Region.PROMPT_ENCODING),
        (pipeline.vae, "decode", Region.DECODING),
        (pipeline.image_processor, "postprocess", Region.POSTPROCESSING),
        (pipeline.image_processor, "numpy_to_pil", Region.PIL_CONVERSION),
    )
    with ExitStack() as stack:
        for owner, name, region in methods:
            stack.enter_context(
                _replaced(owner, name, _notifying(getattr(owner, name), region, observer))
            )
        stack.enter_context(
            _replaced(pipeline, "progress_bar", lambda total: _StepBar(observer, total))
        )
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set `owner.name` to `value` on the instance within this context."""
    absent = object()
    before = owner.__dict__.get(name, absent)
    owner.__dict__[name] = value
    try:
        yield
    finally:
        if before is absent:
            del owner.__dict__[name]
        else:
            owner.__dict__[name] = before


def _notifying(
    method: Callable[..., Any], region: Region, observer: Observer
) -> Callable[..., Any]:
    @wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        observer.enter(region)
        try:
            return method(*args, **kwargs)
        finally:
            observer.exit(region)

    return wrapper


class _StepBar:
    """Stand in for the progress bar of one call and report its steps."""

    def __init__(self, observer: Observer, total: int) -> None:
        self.observer, self.left = observer, total

    def __enter__(self) -> _StepBar:
        self.observer.enter(Region.DENOISING_STEP)
        return self

    def __exit__(self, *_: object) -> None:
        if self.left:  # an error stopped the loop within a step
            self.observer.exit(Region.DENOISING_STEP)

    def update(self) -> None:
        self.observer.exit(Region.DENOISING_STEP)
        self.left -= 1
        if self.left:
            self.observer.enter(Region.DENOISING_STEP)
