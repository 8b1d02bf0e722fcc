"""Short names of combinations of optimizations, for tables and charts. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.matrix import Names
from fluxfast.bench.cases.role import Role
from fluxfast.hardware import Hardware
from fluxfast.optimizations.registry import default_choice, in_order, optimizations

DEFAULT_LABEL = "default"  # of the default optimizations


def lossless_variant(default: Names, hardware: Hardware) -> Names:
    """Return a combination with each lossy optimization replaced by the lossless choice.

    A combination with names that are not registered, from another version, is returned as it is.
    """
    known = optimizations()
    lossy = [known[name] for name in default if name in known and known[name].is_lossy]
    if not lossy or not known.keys() >= set(default):
        return default
    chosen = {default_choice(o.axis, hardware, lossless=True) for o in lossy} - {None}
    return in_order({*default, *filter(None, chosen)} - {o.name for o in lossy})


def label(
    names: Names, default: Names, lossless: Names | None = None, role: Role | None = None
) -> str:
    """Return a short name for a combination, for tables and charts only.

    Args:
        names: the combination.
        default: the default optimizations of the machine, or the end of a cumulative ablation.
        lossless: the lossless preset of the machine, if known.
        role: what the combination stands for, if known.

    Returns:
        `default`, `lossless`, `low memory`, `default − a + b` for a combination near the default,
        or its parts joined by ` + `; `eager` for no optimization.
    """
    if role is Role.LOW_MEMORY:
        return "low memory"
    missing = [name for name in default if name not in names]
    added = [name for name in names if name not in default]
    if names and names == lossless and names != default:
        return "lossless"
    # An added optimization takes the place of a missing one.
    is_near = len(added) <= 2 and len(missing) - len(added) <= 2
    if names and len(default) > 1 and is_near and 2 * len(missing) <= len(default):
        signs = [f"− {name}" for name in missing] + [f"+ {name}" for name in added]
        return " ".join([DEFAULT_LABEL, *signs])
    return joined(names)


def workload_text(case: Case) -> str:
    """Return the workload of a case as `dev (synthetic), 28 steps, 1024×1024`."""
    shape = f", {case.height}×{case.width}"
    batch = f", batch {case.batch_size}" if case.batch_size != 1 else ""
    return f"{case.model} ({case.weights}), {case.num_inference_steps} steps{shape}{batch}"


def joined(names: Sequence[str]) -> str:
    """Return the names joined by ` + `; `eager` for none."""
    return " + ".join(names) or "eager"
