"""The baselines: a file for each GPU, with the raw samples of every accepted process. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.machine import Gpu, hardware_of, stack_difference
from fluxfast.bench.results.result import (
    SCHEMA,
    CaseResult,
    check_positive,
    check_schema,
    read_json,
)
from fluxfast.bench.results.summary import CaseSummary, summarize
from fluxfast.bench.verdicts.noise import Noise, noises
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.verdict import Comparison, Verdict, compare, decide, judge_all
from fluxfast.errors import BaselineError
from fluxfast.files import write_atomically
from fluxfast.hardware import Hardware, Platform

REPOSITORY = Path(__file__).parents[3]
SHIPPED = REPOSITORY / "baselines"
LOCAL = REPOSITORY / ".fluxfast" / "baselines"  # of machines that the project does not describe
PROCESSES = 3  # that a case's noise between processes is known from
LOOKS = 2  # a case that is undecided is sampled on and judged once more


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """One file: the machine, and each case's results with their raw samples."""

    gpu: Gpu
    results: Mapping[str, tuple[CaseResult, ...]]
    path: Path

    def summaries(self) -> list[CaseSummary]:
        return [summarize(results) for results in self.results.values()]

    def accept(self, results: Iterable[CaseResult]) -> Baseline:
        """With each case in `results` replaced by what they hold of it; other cases stay."""
        fresh: dict[str, list[CaseResult]] = {}
        for result in results:
            self._check_machine(result)
            fresh.setdefault(result.case.id, []).append(result)
        merged = dict(self.results) | {case_id: tuple(new) for case_id, new in fresh.items()}
        return replace(self, results=merged)

    def joined(self, results: Iterable[CaseResult]) -> Baseline:
        """With each result as one more process of its case."""
        fresh = list(results)
        cases = dict.fromkeys(result.case.id for result in fresh)
        kept = [old for case_id in cases for old in self.results.get(case_id, ())]
        return self.accept([*kept, *fresh])

    def _check_machine(self, result: CaseResult) -> None:
        hardware = hardware_of(result)
        if not self.gpu.describes(hardware):
            raise BaselineError(
                "these results are of another machine",
                got=f"{hardware.name} ({hardware.architecture})",
                allowed=f"{self.gpu.device_names[0]} ({self.gpu.architecture})",
                remedy=f"accept them into the baseline of {hardware.name} with --gpu",
            )

    @cached_property
    def noise(self) -> Mapping[str, Noise]:
        """How much each metric moves by itself on this machine."""
        return noises(self.results.values())

    def compare(self, results: Sequence[CaseResult]) -> Comparison | Verdict:
        """One case measured now beside its baseline; a verdict where there is nothing to settle."""
        case_id = results[0].case.id
        if case_id not in self.results:
            return Verdict(
                outcome=Outcome.NEW,
                reason=f"no baseline for this case in {self.path.name}; measure it with --record "
                "--results DIR, then `fluxfast baseline accept DIR`",
            )
        accepted = self.accepted_for(results)
        comparison = compare(results, accepted, self.noise)
        difference = stack_difference(accepted[-1], results[-1])
        if difference:
            return Verdict(
                outcome=Outcome.WRONG_STACK,
                reason=f"the baseline has another stack ({difference}); measured now: "
                f"{decide([comparison], LOOKS)[0].reason}",
                changes=comparison.changes,
            )
        return comparison

    def accepted_for(self, results: Sequence[CaseResult]) -> Sequence[CaseResult]:
        """What the baseline has of their case, of their cards if it can."""
        return on_the_same_cards(results, self.results.get(results[0].case.id, ()))

    def judge(self, results: Sequence[CaseResult], to_come: int = 0) -> Verdict:
        """The verdict on one case, whose run has `to_come` others beside it."""
        return judged([self.compare(results)], to_come)[0]

    def judge_all(self, results: Mapping[str, Sequence[CaseResult]]) -> dict[str, Verdict]:
        """Return the verdict on every case of a run from what was measured of each, by case id.

        Call it once, when every case has been measured: the correction for many figures takes all
        cases of the run together.
        """
        compared = {case_id: self.compare(of_case) for case_id, of_case in results.items()}
        return judge_all(compared, LOOKS)

    def write(self) -> None:
        write_atomically(self.path, _render(self))


def on_the_same_cards(
    measured: Sequence[CaseResult], accepted: Sequence[CaseResult]
) -> Sequence[CaseResult]:
    """The accepted processes of the cards that were measured, if there are some of each; else all.

    Cards of one kind differ by more than a gate has to see, so another card's processes say less
    of this one than they blur.
    """
    cards = {result.card for result in measured}
    same = [result for result in accepted if result.card and result.card in cards]
    return same if {result.card for result in same} == cards else accepted


def judged(compared: Sequence[Comparison | Verdict], to_come: int = 0) -> list[Verdict]:
    """The verdict on each case of a run."""
    settled = iter(decide([c for c in compared if isinstance(c, Comparison)], LOOKS, to_come))
    return [c if isinstance(c, Verdict) else next(settled) for c in compared]


def read_baseline(path: Path) -> Baseline:
    """Raises BaselineError if the file is corrupt, truncated, incomplete or of another schema."""
    data = read_json(path)
    check_schema(data, str(path))
    try:
        return Baseline(
            gpu=_read_gpu(data["gpu"]),
            results=dict(_read_case(entry, data, path) for entry in data["cases"]),
            path=path,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BaselineError(
            "this baseline is incomplete, or a value of it is wrong",
            got=f"{path}: {error!r}",
            allowed=f"gpu, environments and cases of schema {SCHEMA}",
            remedy="restore it from version control",
        ) from error


def _read_gpu(data: Mapping[str, Any]) -> Gpu:
    names = data["device_names"]
    if not names or isinstance(names, str):
        raise ValueError(f"device_names is {names!r}, which is no list of names")
    check_positive(memory_gib=data["memory_gib"])
    changes = {"device_names": tuple(names), "platform": Platform(data["platform"])}
    return Gpu(**{**data, **changes})


def _read_case(
    entry: Mapping[str, Any], file: Mapping[str, Any], path: Path
) -> tuple[str, tuple[CaseResult, ...]]:
    case = Case.from_json(entry["case"])
    results = []
    if not entry["processes"]:
        raise ValueError(f"{case.id} has no processes")
    for process in entry["processes"]:
        whole = process | {
            "schema": file["schema"],
            "case": entry["case"],
            "environment": file["environments"][process["environment"]],
        }
        results.append(CaseResult.from_json(whole, f"{path}: {case.id}"))
    return case.id, tuple(results)


def _render(baseline: Baseline) -> str:
    """One line for each process, so that a change of one case is a change of a few lines."""
    environments: dict[str, Any] = {}
    cases = []
    for case_id in sorted(baseline.results):
        results = baseline.results[case_id]
        lines = [_compact(_process(result, environments)) for result in results]
        case = _compact(results[0].case.to_json())
        cases.append(
            f'  {{\n   "case": {case},\n   "processes": [\n    '
            + ",\n    ".join(lines)
            + "\n   ]\n  }"
        )
    gpu = baseline.gpu
    head = {
        "schema": SCHEMA,
        "gpu": {
            "slug": gpu.slug,
            "device_names": list(gpu.device_names),
            "platform": gpu.platform.value,
            "architecture": gpu.architecture,
            "memory_gib": gpu.memory_gib,
        },
        "environments": environments,
    }
    opening = json.dumps(head, indent=1).removesuffix("\n}")
    body = "\n" + ",\n".join(cases) + "\n " if cases else ""
    return f'{opening},\n "cases": [{body}]\n}}\n'


def _process(result: CaseResult, environments: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = _rounded(result.to_json())
    environment = data.pop("environment")
    key = hashlib.sha256(_compact(environment).encode()).hexdigest()[:8]
    environments[key] = environment
    del data["schema"], data["case"]
    return data | {"environment": key}


def _rounded(value: Any) -> Any:
    """Six significant digits: more than any clock here has, and half the size."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def known_baselines(folder: Path = SHIPPED) -> dict[str, Path]:
    """Path of each GPU's file by each of its names."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        for alias in (path.stem, path.stem.partition("-")[2]):
            found[alias] = path
    return found


def find_baseline(gpu: str, folder: Path = SHIPPED) -> Baseline:
    """The baseline that `--gpu` names."""
    known = known_baselines(folder)
    if gpu not in known:
        raise BaselineError(
            "there is no baseline file of this name",
            got=gpu,
            allowed=", ".join(["auto", "cpu", *known]),
            remedy=f"a new GPU is one new file in {folder.name}/: see README.md",
        )
    return read_baseline(known[gpu])


def baseline_for(
    gpu: str, hardware: Hardware, folder: Path = SHIPPED, local: Path = LOCAL
) -> Baseline:
    """The baseline that `--gpu` names, checked against the machine; `auto` follows the machine.

    A file that cannot be read may be that of any machine: it is an error where no other fits.
    """
    if gpu == "cpu" or (gpu == "auto" and not hardware.is_gpu):
        return cpu_baseline(hardware, folder, local)
    if gpu == "auto":
        unread: BaselineError | None = None
        for path in sorted(set(known_baselines(folder).values())):
            try:
                baseline = read_baseline(path)
            except BaselineError as error:
                unread = unread or error
                continue
            if baseline.gpu.describes(hardware):
                return baseline
        if unread:
            raise unread
        raise BaselineError(
            "no baseline describes this GPU",
            got=f"{hardware.name} ({hardware.architecture})",
            allowed=", ".join(known_baselines(folder)),
            remedy=f"add {folder.name}/<vendor>-<gpu>.json: see README.md",
        )
    baseline = find_baseline(gpu, folder)
    if not baseline.gpu.describes(hardware):
        raise BaselineError(
            "this machine is not the GPU that --gpu names",
            got=f"{hardware.name} ({hardware.architecture})",
            allowed=f"{baseline.gpu.device_names[0]} ({baseline.gpu.architecture}) for --gpu {gpu}",
            remedy="leave --gpu out for auto, or run on that GPU",
        )
    return baseline


def cpu_slug(hardware: Hardware) -> str:
    """CPUs are told apart by instruction set and cores, as `cpu-x86_64-avx2-2cores`."""
    return f"cpu-{hardware.architecture}-{hardware.cores}cores"


def machine_name(hardware: Hardware) -> str:
    """A GPU's own; a CPU's tells neither its instruction set nor its cores."""
    return hardware.name if hardware.is_gpu else f"{hardware.name} ({cpu_slug(hardware)})"


def cpu_baseline(hardware: Hardware, folder: Path = SHIPPED, local: Path = LOCAL) -> Baseline:
    """The project's baseline of this kind of CPU, else this machine's own, else an empty one."""
    slug = cpu_slug(hardware)
    for path in (folder / f"{slug}.json", local / f"{slug}.json"):
        if path.exists():
            return read_baseline(path)
    return Baseline(gpu=gpu_as_it_is(hardware, slug), results={}, path=local / f"{slug}.json")


def gpu_as_it_is(hardware: Hardware, slug: str) -> Gpu:
    """A machine that no baseline file describes."""
    return Gpu(
        slug=slug,
        device_names=(hardware.name,),
        platform=hardware.platform,
        architecture=hardware.architecture,
        memory_gib=hardware.memory_gib,
    )
