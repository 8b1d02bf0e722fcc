"""Count the operators, kernels and graphs of a case, which are compared exactly, unlike times."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fluxfast.optimizations.base import Evidence, ProfiledStep

# Reading a tensor's value makes the host wait for the device; on a CPU the same operators count.
SYNCING = re.compile(
    r"aten::_local_scalar_dense|aten::nonzero|Memcpy DtoH|(cuda|hip)StreamSynchronize"
)
GRAPH_LAUNCH = re.compile(r"(cuda|hip)GraphLaunch")
# The kernels whose choice decides the time of a step. Kernels of libraries only; this project's own
# (fluxfast_*_product) are proved, not compared. Of a generated kernel's name only the kind is kept:
# the rest is a number in the order of compilation.
KERNELS = {
    "gemm": re.compile(
        r"gemm|nvjet|cutlass|cublas|Cijk_|triton_tem|::addmm|::mm$|::bmm|_scaled_mm|_int_mm"
    ),
    "attention": re.compile(r"attention|flash|fmha|sdpa", re.IGNORECASE),
}
GENERATED = re.compile(r"(triton|cpp)_[a-z_]*?(?=_\d|\d|$)")


def counters(evidence: Evidence, compiled: Mapping[str, int], warm_graphs: int) -> dict[str, int]:
    """Return the counters of a case by name.

    Args:
        evidence: the profiled image.
        compiled: Dynamo's counters now.
        warm_graphs: how many graphs Dynamo had compiled by the end of the warm-up.
    """
    return {
        **compiled,
        "graphs_compiled_after_warmup": compiled["unique_graphs"] - warm_graphs,
        "cached_steps": evidence.cached_steps,
        **step_counters(evidence.step),
    }


def step_counters(step: ProfiledStep) -> dict[str, int]:
    """Return launches, host synchronizations and graph replays in one step.

    Launches are device kernels on a GPU and ATen operators on a CPU, which has no kernels.
    """
    launched = step.kernels or {n: c for n, c in step.counts.items() if n.startswith("aten::")}
    return {
        "launches_in_a_step": sum(launched.values()),
        "host_syncs_in_a_step": _matching(SYNCING, step.counts),
        "graph_replays_in_a_step": _matching(GRAPH_LAUNCH, step.counts),
    }


def _matching(pattern: re.Pattern[str], counts: Mapping[str, int]) -> int:
    return sum(count for name, count in counts.items() if pattern.search(name))


def kernels(step: ProfiledStep) -> dict[str, tuple[str, ...]]:
    """Return the names of the GEMM and attention kernels of a step (on a CPU: operators)."""
    names = step.kernels or step.counts
    return {
        kind: tuple(sorted({_stable(name) for name in names if pattern.search(name)}))
        for kind, pattern in KERNELS.items()
    }


def _stable(name: str) -> str:
    generated = GENERATED.match(name)
    return generated.group() if generated else name
