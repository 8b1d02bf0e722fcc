"""A command that writes and is killed, and made-up results for it."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from fluxfast.bench.baselines.file import write_baseline
from fluxfast.bench.baselines.lookup import find_baseline
from fluxfast.bench.cases.case import Case
from fluxfast.hardware import Hardware
from tests.support.machines import H200
from tests.support.processes import process
from tests.support.results import CANARIES, case

Reported = Collection[str]
SHIPPED = find_baseline("h200")
CASES = (case(), case(optimizations=("bf16",)))
NOW = {"commit": "abc", "dirty": False, "date": "2026-11-01T00:00:00+00:00"}


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A command that is killed.

    Attributes:
        name: the command.
        prepare: writes what is there before into an empty folder.
        run: runs the command; calls its second argument with what it has reported as done.
        check: raises AssertionError if something is lost, given what was reported; None: complete.
        again: the next run, given what was reported; raises if it fails.
    """

    name: str
    prepare: Callable[[Path], None]
    run: Callable[[Path, Callable[[str], None]], None]
    check: Callable[[Path, Reported | None], None]
    again: Callable[[Path, Reported], None]


def measured(one: Case, hardware: Hardware, number: int = 9):
    """Return a made-up result of a process."""
    on_cpu = {"reference_e2e_s": (2.0,) * 3, "pace_ms": (50.0,) * 3, "canaries": {}}
    changes = {"canaries": CANARIES} if hardware.is_gpu else on_cpu
    return process(
        100.0 + number / 100,
        images=3,
        seed=number,
        case=one,
        environment={"hardware": hardware.to_json(), "python": "3.12", "gpu": {"uuid": "GPU-a"}},
        provenance=NOW | {"process": number},
        **changes,
    )


def write_project_baseline(folder: Path) -> None:
    """Write a baseline of three processes of each case."""
    results = {one.id: tuple(measured(one, H200, n) for n in range(3)) for one in CASES}
    write_baseline(replace(SHIPPED, results=results, path=folder / SHIPPED.path.name))


def again(run: Callable[[Path, Callable[[str], None]], None]) -> Callable[[Path, Reported], None]:
    return lambda folder, reported: run(folder, lambda _: None)
