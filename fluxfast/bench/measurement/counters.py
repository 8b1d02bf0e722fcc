"""Counts and names that say how a case draws, compared exactly beside the clock."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fluxfast.optimizations.base import Evidence, ProfiledStep

# Reading a tensor's value makes the host wait for the device; on a CPU the same operators count.
SYNCING = re.compile(
    r"aten::_local_scalar_dense|aten::nonzero|Memcpy DtoH|(cuda|hip)StreamSynchronize"
)
GRAPH_LAUNCH = re.compile(r"(cuda|hip)GraphLaunch")
# What of a step's time goes by the choice of a kernel. Of generated code only the kind is a
# choice: the rest of such a name is a number in the order of compilation.
KERNELS = {
    "gemm": re.compile(
        r"gemm|nvjet|cutlass|cublas|Cijk_|triton_tem|::addmm|::mm$|::bmm|_scaled_mm|_int_mm"
    ),
    "attention": re.compile(r"attention|flash|fmha|sdpa", re.IGNORECASE),
}
GENERATED = re.compile(r"(triton|cpp)_[a-z_]*?(?=_\d|\d|$)")


def counters(evidence: Evidence, compiled: Mapping[str, int], warm_graphs: int) -> dict[str, int]:
    """`compiled`: what Dynamo compiled by now; `warm_graphs`: of that, by the end of warm-up."""
    return {
        **compiled,
        "graphs_compiled_after_warmup": compiled["unique_graphs"] - warm_graphs,
        "cached_steps": evidence.cached_steps,
        **step_counters(evidence.step),
    }


def step_counters(step: ProfiledStep) -> dict[str, int]:
    """Launches are device kernels on a GPU, ATen operators on a CPU, which has no others."""
    launched = step.kernels or {n: c for n, c in step.counts.items() if n.startswith("aten::")}
    return {
        "launches_in_a_step": sum(launched.values()),
        "host_syncs_in_a_step": _matching(SYNCING, step.counts),
        "graph_replays_in_a_step": _matching(GRAPH_LAUNCH, step.counts),
    }


def _matching(pattern: re.Pattern[str], counts: Mapping[str, int]) -> int:
    return sum(count for name, count in counts.items() if pattern.search(name))


def kernels(step: ProfiledStep) -> dict[str, tuple[str, ...]]:
    """Names of the kernels (on a CPU: operators) that multiply matrices, and that attend."""
    names = step.kernels or step.counts
    return {
        kind: tuple(sorted({_stable(name) for name in names if pattern.search(name)}))
        for kind, pattern in KERNELS.items()
    }


def _stable(name: str) -> str:
    generated = GENERATED.match(name)
    return generated.group() if generated else name
