"""Which correctness tests are left out, and why: they say little for their time."""

from __future__ import annotations

import pytest

from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.optimizations.axis import Axis
from fluxfast.pytest_plugin.session import Suite


def why_left_out(
    item: pytest.Item, planned: PlannedCase, suite: Suite, *, is_named: bool
) -> str | None:
    """Return why a test is left out, as `what: why`, or None.

    Args:
        item: the test.
        planned: its case.
        suite: the session.
        is_named: an option names the model or the cases.
    """
    names = getattr(item, "fixturenames", ())
    if planned.case.gpus > 1 and "swapped" in names:  # needs a second pipeline of the same case
        return "of LoRAs on several GPUs: a process can have one such pipeline at a time"
    needs_images = not {"generated", "swapped"}.isdisjoint(names)
    if planned.checkpoint.kind.profile and needs_images:
        return "of whole images of synthetic weights: they show no scene; the step error decides"
    if suite.hardware.is_gpu or is_named:
        return None
    if not planned.checkpoint.model.is_few_step and _takes_minutes(item, planned):
        return "of models with more steps than schnell: minutes on a CPU; --model runs them"
    if needs_images and not has_images(planned, suite):
        return "of whole images of single optimizations: the step error decides; --model runs them"
    return None


def has_images(planned: PlannedCase, suite: Suite) -> bool:
    """Return whether whole images judge the case: on a CPU those of presets and caches."""
    if planned.checkpoint.kind.profile:
        return False
    return bool(
        suite.hardware.is_gpu
        or suite.is_recording
        or _is_preset(planned)
        or planned.case.is_own
        or planned.plan.on(Axis.CACHE)
    )


def is_left_to_further(planned: PlannedCase) -> bool:
    """Return whether the case compiles on a CPU what takes long or what another case compiles.

    Whole models take minutes. The compiler's flags are part of the model's presets, whose step
    error and images show a fault of the flags, too.
    """
    hardware = planned.plan.situation.hardware
    compilers = (o for o in planned.plan.optimizations if o.compiles)
    takes_minutes = any(o.slow_to_generate(hardware) for o in compilers)
    has_flags = planned.plan.on(Axis.COMPILER_FLAGS) is not None
    has_flags_alone = has_flags and not _is_preset(planned)
    return not hardware.is_gpu and (takes_minutes or has_flags_alone)


def _is_preset(planned: PlannedCase) -> bool:
    """Return whether the case is a preset of the model, or of its cache."""
    return planned.role is not None or planned.case.cache is not None


def _takes_minutes(item: pytest.Item, planned: PlannedCase) -> bool:
    hardware = planned.plan.situation.hardware
    if getattr(getattr(item, "module", None), "SHORTEST_MODEL_ON_A_CPU", False):
        return True
    if planned.plan.compiles and not _is_preset(planned):
        return True  # the presets of the model compile the same blocks
    return any(o.slow_to_generate(hardware) for o in planned.plan.optimizations)
