"""The counters that are judged: which direction is worse, and why. Pure functions; no torch.

Counters and kernel names have no noise: each difference is a change of the code or of a library. A
counter that became worse fails whatever the clock shows, because a faster host, or a device that is
busy anyway, hides its cost on one machine and not on another. Every other difference is a change
that the clock has to judge. So is every difference to other optimizations in the same role.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from fluxfast.bench.cases.role import difference
from fluxfast.bench.results.result import CaseResult


@dataclass(frozen=True, kw_only=True)
class Counter:
    """A counter and how it is judged.

    Attributes:
        name: the key in results.
        noun: what is counted, for messages.
        worse: the number that fails; none does between two lists of optimizations.
        why: why that number is worse, for messages.
    """

    name: str
    noun: str
    worse: Literal["more", "fewer", "another", "none"]
    why: str


# In the order of messages. `bench.measurement.counters` counts them.
COUNTERS = (
    Counter(
        name="launches_in_a_step",
        noun="launches in a step",
        worse="more",
        why="each launch costs time of the host, which a slower host does not hide",
    ),
    Counter(
        name="graph_replays_in_a_step",
        noun="graph replays in a step",
        worse="fewer",
        why="kernels outside a graph are launched one by one",
    ),
    Counter(
        name="cached_steps",
        noun="cached steps",
        worse="fewer",
        why="a step that is not cached is computed in full",
    ),
    Counter(
        name="host_syncs_in_a_step",
        noun="host synchronizations in a step",
        worse="more",
        why="the device runs dry while the host waits for it",
    ),
    Counter(
        name="graphs_compiled_after_warmup",
        noun="graphs compiled after the warm-up",
        worse="more",
        why="a user's image waits for the compiler",
    ),
    Counter(
        name="graph_breaks",
        noun="graph breaks",
        worse="more",
        why="each one returns to Python and ends what the compiler can fuse",
    ),
    Counter(
        name="unique_graphs",
        noun="compiled graphs",
        worse="more",
        why="each further graph is compiled in every new process",
    ),
)


@dataclass(frozen=True, kw_only=True)
class CounterChange:
    """A counter that differs from its accepted value.

    Attributes:
        counter: the counter.
        now: the measured value; None if it is not counted any more.
        before: the accepted value.
    """

    counter: Counter
    now: int | None
    before: int

    @property
    def name(self) -> str:
        """The key of the counter in results."""
        return self.counter.name

    @property
    def is_worse(self) -> bool:
        """Return whether the change fails; a counter that is missing does."""
        if self.counter.worse == "none":
            return False
        if self.now is None or self.counter.worse == "another":
            return True
        return (self.now > self.before) is (self.counter.worse == "more")

    @property
    def why_worse(self) -> str:
        """Why the change fails, if it does."""
        if self.now is None:
            return "no longer counted"
        return f"{self.counter.worse} is worse: {self.counter.why}"

    def __str__(self) -> str:
        """Return both values, as `865 → 703 launches in a step`."""
        return f"{self.before} → {'?' if self.now is None else self.now} {self.counter.noun}"


class _Neutral:
    """A change that is neither better nor worse by itself."""

    @property
    def is_worse(self) -> bool:
        """Return whether the change fails by itself; it never does."""
        return False

    @property
    def why_worse(self) -> str:
        """Why the change fails, if it does."""
        return ""


@dataclass(frozen=True, kw_only=True)
class KernelChange(_Neutral):
    """Another choice of kernels of one kind, which is neither better nor worse by itself.

    Attributes:
        kind: `gemm` or `attention`.
        come: the kernels that a step runs now and did not run before.
        gone: the kernels that it no longer runs.
    """

    kind: str
    come: frozenset[str]
    gone: frozenset[str]

    @property
    def name(self) -> str:
        """The kind of kernels."""
        return f"{self.kind} kernels"

    def __str__(self) -> str:
        """Return which kernels run instead of which."""
        new, old = ", ".join(sorted(self.come)), ", ".join(sorted(self.gone))
        if not self.gone:
            return f"{self.name}: {new} in addition"
        instead = f"{new} instead of {old}" if self.come else f"{old} no longer runs"
        return f"{self.name}: {instead}"


@dataclass(frozen=True, kw_only=True)
class RoleChange(_Neutral):
    """Other optimizations in the same role, such as another default.

    Attributes:
        name: the role.
        difference: which optimizations were added and removed.
    """

    name: str
    difference: str

    def __str__(self) -> str:
        """Return the role and the difference, as `default: + sdpa, − fa3_fp8`."""
        return f"{self.name}: {self.difference}"


StepChange = RoleChange | CounterChange | KernelChange


def step_changes(measured: CaseResult, accepted: CaseResult) -> Iterator[StepChange]:
    """Yield what differs: the optimizations, each counter of the accepted side, and kernels.

    Other optimizations have other counters, so none of these is worse by itself.
    """
    ours, theirs = measured.case.optimizations, accepted.case.optimizations
    if ours != theirs:
        yield RoleChange(name=measured.role or "optimizations", difference=difference(ours, theirs))
    for change in _counter_changes(measured, accepted):
        worse = change.counter.worse if ours == theirs else "none"
        yield replace(change, counter=replace(change.counter, worse=worse))
    for kind in sorted(measured.kernels.keys() & accepted.kernels.keys()):
        come, gone = frozenset(measured.kernels[kind]), frozenset(accepted.kernels[kind])
        if come != gone:
            yield KernelChange(kind=kind, come=come - gone, gone=gone - come)


def _counter_changes(measured: CaseResult, accepted: CaseResult) -> Iterator[CounterChange]:
    known = {counter.name: counter for counter in COUNTERS}
    others = {name: _unknown(name) for name in sorted(accepted.counters.keys() - known.keys())}
    for name, counter in (known | others).items():
        now, before = measured.counters.get(name), accepted.counters.get(name)
        if before is not None and now != before:
            yield CounterChange(counter=counter, now=now, before=before)


def _unknown(name: str) -> Counter:
    """Return the counter of another version, of which nothing but the name is known."""
    return Counter(name=name, noun=name, worse="another", why="this version does not know it")
