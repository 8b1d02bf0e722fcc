"""Find the default optimizations and the cumulative ablation among combinations. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from fluxfast.bench.cases.matrix import Names
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.registry import decides, eager_combinations


def default_of(combinations: Collection[Names]) -> Names:
    """Return the default optimizations, inferred from the combinations that were measured.

    They end the longest chain in which each combination is a prefix of the next one. Of chains of
    the same length, the chain that ends without a cache, and whose end most other combinations
    differ from by one optimization: the centre of an ablation, not an addition to it.
    """
    known = set(combinations)
    chains = [_chain_to(names, known) for names in known]
    larger = Counter(smaller for names in known for smaller in _without_one(names))
    longest = max(
        chains,
        key=lambda chain: (
            len(chain),
            not decides(chain[-1], Axis.CACHE),
            _neighbours(chain[-1], known, larger),
            len(chain[-1]),
            chain[-1],
        ),
    )
    # An addition to the default may be the last step of the chain, too: then the default is the
    # combination before it, from which most others differ by one. (In a cumulative ablation alone
    # that one has one such neighbour more than the last.)
    around = [_neighbours(names, known, larger) for names in longest[-2:]]
    is_one_more = len(around) == 2 and len(set(longest[-1]) ^ set(longest[-2])) == 1
    return longest[-2] if is_one_more and around[0] > around[1] + 1 else longest[-1]


def cumulative_chain(default: Names, combinations: Collection[Names]) -> list[Names]:
    """Return the chain from unoptimized to default, each combination a prefix of the next one.

    The chain begins with bfloat16 where that was measured: speedups refer to it, not to float32.
    """
    chain = _chain_to(default, combinations)
    eager = eager_combinations()[:-1]
    return chain[1:] if chain[0] == () and any(c in eager for c in chain[1:]) else chain


def _chain_to(names: Names, known: Collection[Names]) -> list[Names]:
    return [names[:count] for count in range(len(names) + 1) if names[:count] in known]


def _neighbours(names: Names, known: Collection[Names], larger: Mapping[Names, int]) -> int:
    """Return how many known combinations have one optimization more or less.

    Args:
        names: the combination.
        known: all combinations.
        larger: by combination, how many known ones have one optimization more.
    """
    return larger.get(names, 0) + sum(smaller in known for smaller in _without_one(names))


def _without_one(names: Names) -> list[Names]:
    return [(*names[:at], *names[at + 1 :]) for at in range(len(names))]
