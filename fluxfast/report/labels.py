"""What people call the combinations of a workload: `all on − fa3_fp8`. Pure."""

from __future__ import annotations

from collections.abc import Collection

from fluxfast.bench.cases.matrix import Names
from fluxfast.optimizations.base import Axis
from fluxfast.optimizations.registry import decides, eager_combinations

# Figures as they are called in files, and as people call them.
FIGURES = {
    "psnr_db": "PSNR, dB",
    "ssim": "SSIM",
    "sm_clock_mhz": "SM clock, MHz",
    "memory_clock_mhz": "memory clock, MHz",
    "temperature_c": "temperature, °C",
    "energy_j": "energy, J",
    "power_w": "power, W",
}


def figure_name(name: str) -> str:
    return FIGURES.get(name, name)


def all_on_of(combinations: Collection[Names]) -> Names:
    """The end of the longest chain in which each begins as the next one.

    Of chains of the same length, the one whose end is without a cache, and that most others differ
    from by one: an ablation's centre, not what was tried on top of it.
    """
    known = set(combinations)
    chains = [_chain_to(names, known) for names in known]
    longest = max(
        chains,
        key=lambda chain: (
            len(chain),
            not decides(chain[-1], Axis.CACHE),
            _neighbours(chain[-1], known),
            len(chain[-1]),
            chain[-1],
        ),
    )
    # What was tried on top may be the chain's last step, too: then it is the one before that most
    # others differ from by one. (In a bare staircase it has one such more than the last.)
    around = [_neighbours(names, known) for names in longest[-2:]]
    is_one_more = len(around) == 2 and len(set(longest[-1]) ^ set(longest[-2])) == 1
    return longest[-2] if is_one_more and around[0] > around[1] + 1 else longest[-1]


def staircase_to(all_on: Names, combinations: Collection[Names]) -> list[Names]:
    """From unoptimized to all on, each beginning as the next one.

    It begins with bfloat16 where that is there: speeds refer to it, not to float32.
    """
    chain = _chain_to(all_on, combinations)
    eager = eager_combinations()[:-1]
    return chain[1:] if chain[0] == () and any(c in eager for c in chain[1:]) else chain


def _chain_to(names: Names, known: Collection[Names]) -> list[Names]:
    return [names[:count] for count in range(len(names) + 1) if names[:count] in known]


def _neighbours(names: Names, known: Collection[Names]) -> int:
    return sum(len(set(names) ^ set(other)) == 1 for other in known)
