"""What people call the combinations of a workload: `all on − fa3_fp8`. Pure."""

from __future__ import annotations

from collections.abc import Collection

from fluxfast.bench.matrix import Names

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


def staircase_of(combinations: Collection[Names]) -> list[Names]:
    """From unoptimized to all on: the longest chain in which each begins as the next one.

    It begins with bfloat16 where that is there: speeds refer to it, not to float32.
    """
    known = set(combinations)
    chains = [[c[:n] for n in range(len(c) + 1) if c[:n] in known] for c in known]
    # Of chains of the same length, the one whose end most others differ from by one: an ablation's
    # centre, not what was tried on top of it.
    longest = max(
        chains,
        key=lambda chain: (len(chain), _neighbours(chain[-1], known), len(chain[-1]), chain[-1]),
        default=[],
    )
    # What was tried on top may be the chain's last step, too: then it is the one before that most
    # others differ from by one. (In a bare staircase it has one such more than the last.)
    around = [_neighbours(names, known) for names in longest[-2:]]
    if (
        len(around) == 2
        and len(set(longest[-1]) ^ set(longest[-2])) == 1
        and around[0] > around[1] + 1
    ):
        longest = longest[:-1]
    return longest[1:] if ("bf16",) in longest[1:] and longest[0] == () else longest


def _neighbours(names: Names, known: Collection[Names]) -> int:
    return sum(len(set(names) ^ set(other)) == 1 for other in known)
