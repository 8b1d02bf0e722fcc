"""One process of the self-test: every injected fault in one built pipeline. Imports torch."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.bench.measurement.canary import canaries
from fluxfast.bench.measurement.injected_faults import Delay, block_twice, without_applying
from fluxfast.bench.measurement.limits import limits_on
from fluxfast.bench.measurement.measure import (
    PlainRounds,
    built_case,
    case_facts,
    case_result,
    sample_until_enough,
)
from fluxfast.bench.measurement.paired import PairedReferences
from fluxfast.bench.measurement.sampler import Sampler
from fluxfast.bench.measurement.stages import reset_peak_memory
from fluxfast.bench.measurement.warm_up import WarmUp, first_image, warm_up
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.store import write_result
from fluxfast.bench.selftest import UNCHANGED
from fluxfast.files import write_atomically
from fluxfast.hardware import Hardware
from fluxfast.optimizations.axis import Axis
from fluxfast.pipeline.build import BuiltPipeline, build
from fluxfast.profiling.evidence import gather_evidence, proofs
from fluxfast.profiling.telemetry import gpu_reader

PERCENTS = (1, 2, 5, 10)
PERCENTS_ON_CPU = (5, 10, 15, 25)
BLOCK_TWICE = "one block run twice"
SEEN, UNSEEN = "seen", "unseen"


@dataclass(frozen=True, kw_only=True)
class InjectedFault:
    """A slowdown that is injected on purpose.

    Attributes:
        name: the name in results and tables.
        share: the share of a step that each step takes longer.
        on_device: delay the device instead of the host.
    """

    name: str
    share: float = 0.0
    on_device: bool = False


def injected_faults(hardware: Hardware) -> list[InjectedFault]:
    """Return the faults for a machine; the first one changes nothing."""
    delays = [
        InjectedFault(
            name=f"+{percent}% on the {where}", share=percent / 100, on_device=where == "device"
        )
        for where in ("device", "host")
        for percent in (PERCENTS if hardware.is_gpu else PERCENTS_ON_CPU)
    ]
    return [InjectedFault(name=UNCHANGED), *delays, InjectedFault(name=BLOCK_TWICE)]


def measure_faults(
    planned: PlannedCase,
    references: PairedReferences,
    folder: Path,
    *,
    runs: int,
    images: int | None,
) -> None:
    """Measure every fault in turn, `runs` times, in one built pipeline.

    Args:
        planned: the case.
        references: what CPU images are timed with.
        folder: results of a fault's run go into a folder of their own in it.
        runs: how often each fault is measured.
        images: images of a run; None for the noise rule.
    """
    hardware = planned.plan.situation.hardware
    limits = replace(limits_on(hardware.is_gpu), rounds=images)
    paired = references.of(planned)
    with built_case(planned) as built:
        warm = warm_up(built, first_image(built), limits)
        for number in range(runs):
            for fault in injected_faults(hardware):
                sampler = Sampler(
                    built=built,
                    limits=limits,
                    warm_up=warm,
                    paired=paired,
                    read_gpu=gpu_reader(hardware),
                    injected=_delays(fault, warm, hardware),
                )
                result = _measure(sampler, planned, fault)
                write_result(folder / f"{fault.name} {number}", result)


def _delays(fault: InjectedFault, warm: WarmUp, hardware: Hardware) -> tuple[Delay, ...]:
    if not fault.share:
        return ()
    delay_ms = fault.share * warm.step_ms
    return (Delay(ms=delay_ms, on_device=fault.on_device, hardware=hardware),)


def _measure(sampler: Sampler, planned: PlannedCase, fault: InjectedFault) -> CaseResult:
    built, hardware = sampler.built, planned.plan.situation.hardware
    reset_peak_memory(built)
    is_twice = fault.name == BLOCK_TWICE
    with block_twice(built.pipeline) if is_twice else nullcontext():
        sampler.discard_boosted_images()
        sample_until_enough(sampler, PlainRounds())
        facts = case_facts(built)
    readings = {name: (value,) for name, value in canaries(hardware).items()}
    return case_result(sampler, planned, facts, readings)


def drop_optimizations(planned: PlannedCase, folder: Path) -> None:
    """Silently leave out the cache and the compiler, one at a time; write whether proofs see it."""
    for optimization in planned.plan.optimizations:
        if optimization.axis not in (Axis.CACHE, Axis.COMPILE):
            continue
        name = optimization.name
        with build(planned.checkpoint, without_applying(planned.plan, name)) as built:
            word = UNSEEN if _is_active(name, built) else SEEN
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{planned.case.file_stem} {name}.dropped", word)


def _is_active(name: str, built: BuiltPipeline) -> bool:
    built.generate()
    return proofs(gather_evidence(built))[name].is_active
