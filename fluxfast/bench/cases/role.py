"""The role of a case, such as eager or default, whatever optimizations it stands for.

A case is its list of optimizations, so a change of the defaults makes other cases. The role tells
which of them belong together: the default before and the default after. Pure, without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.presets import preset_names
from fluxfast.optimizations.registry import available, default_names
from fluxfast.optimizations.situation import Situation


class Role(StrEnum):
    """The role of a case. The values are stored in results and baselines.

    Where two roles stand for the same optimizations, a case has the first of them.
    """

    DEFAULT = "default"
    EAGER = "eager"
    LOSSLESS = "lossless"
    CACHE = "cache"
    LOW_MEMORY = "low_memory"


def names_by_role(situation: Situation) -> dict[Role, tuple[str, ...]]:
    """Return the optimizations that each role stands for; no cache where there is none."""
    found: dict[Role, tuple[str, ...]] = {
        role: preset_names(role, situation) for role in Role if role is not Role.CACHE
    }
    caches = available(Axis.CACHE, situation.hardware)
    if caches:
        found[Role.CACHE] = default_names(situation, {Axis.CACHE: caches[0].name})
    return found


def role_of(names: tuple[str, ...], known: Mapping[Role, tuple[str, ...]]) -> Role | None:
    """Return the role of these optimizations among the known ones; None if they have none."""
    return next((role for role in Role if known.get(role) == names), None)


def difference(names: tuple[str, ...], before: tuple[str, ...]) -> str:
    """Return what optimizations have and lack compared with others, as `+ sdpa, − fa3_fp8`."""
    signs = [f"+ {name}" for name in names if name not in before]
    return ", ".join([*signs, *(f"− {name}" for name in before if name not in names)])
