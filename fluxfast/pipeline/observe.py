"""Watching a pipeline draw an image, region by region, without touching the compiled modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from functools import wraps
from typing import Any, Protocol


class Region(StrEnum):
    """The parts of a pipeline call, by flux-fast's names."""

    PROMPT_ENCODING = "prompt_encoding"
    DENOISING_STEP = "denoising_step"
    DECODING = "decoding"
    POSTPROCESSING = "postprocessing"
    PIL_CONVERSION = "pil_conversion"


class Observer(Protocol):
    """Is told when a region begins and ends, on the thread that runs it."""

    def enter(self, region: Region) -> None: ...

    def exit(self, region: Region) -> None: ...


class Together(Observer):
    """Several observers as one: the first is told of a beginning first, and of an end last."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = observers

    def enter(self, region: Region) -> None:
        for observer in self.observers:
            observer.enter(region)

    def exit(self, region: Region) -> None:
        for observer in reversed(self.observers):
            observer.exit(region)


@contextmanager
def observed(pipeline: Any, observer: Observer) -> Iterator[None]:
    """Within it, `observer` hears of every region of a call of the pipeline.

    Denoising steps are told apart by the progress bar that diffusers starts before the first step
    and updates after each; the other regions are methods, wrapped on the instance.
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
                _replaced(owner, name, _told(getattr(owner, name), region, observer))
            )
        stack.enter_context(
            _replaced(pipeline, "progress_bar", lambda **_: _StepBar(observer, **_))
        )
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` within, on the instance alone."""
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


def _told(method: Callable[..., Any], region: Region, observer: Observer) -> Callable[..., Any]:
    @wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        observer.enter(region)
        try:
            return method(*args, **kwargs)
        finally:
            observer.exit(region)

    return wrapper


class _StepBar:
    """Stands in for the progress bar of one call."""

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
