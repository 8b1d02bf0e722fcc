"""Tell a change of the code from a change of the card. No torch.

Two cards (GPUs) of one kind differ, so a night on another card is at another level. The offset of a
card is known from nights in which it and another card measured one commit on one stack. Without
such nights it is estimated where measuring moves from one card to the other. Then a change that
coincides with the only move counts as the card's, and a later night on the first card shows whether
the code changed as well.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise

from fluxfast.history.series import Night

# Cards of one kind differ by up to 3%, see the glossary. A move that changes the level by this and
# the floor of a change point (2%) is not the card's alone.
LARGEST_MOVE = math.log(1.05)
FEWEST_NIGHTS = 3  # of a card; fewer give no offset and no level
MOVE_NIGHTS = 5  # on each side of a move: their median tolerates two spikes
UUID_CHARACTERS = 12  # of a card in texts for people, as GPU-1b2c3d4e
AGREEING_MOVES = 3  # from so many on, the median of all moves; of fewer, the first


def card_offsets(nights: Sequence[Night]) -> dict[str, float]:
    """Return the log offset of each card from the first one; a card of few nights has none."""
    measured = Counter(card for night in nights for card in night.by_card)
    offsets: dict[str, float] = {}
    for card in (card for card, count in measured.items() if count >= FEWEST_NIGHTS):
        offsets[card] = _offset(card, nights, offsets) if offsets else 0.0
    return offsets


def _offset(card: str, nights: Sequence[Night], others: Mapping[str, float]) -> float:
    """Return the log offset of a card, given those of other cards."""
    levels = [(_level(night, {card: 0.0}), _level(night, others)) for night in nights]
    shared = [ours - theirs for ours, theirs in levels if ours is not None and theirs is not None]
    if shared:
        return statistics.median(shared)
    stays = [
        (is_ours, [level for pair in of_stay for level in pair if level is not None])
        for is_ours, of_stay in groupby(
            (pair for pair in levels if pair != (None, None)), key=lambda pair: pair[0] is not None
        )
    ]
    moves = [
        (statistics.median(after[:MOVE_NIGHTS]) - statistics.median(before[-MOVE_NIGHTS:]))
        * (1 if arrives else -1)
        for (_, before), (arrives, after) in pairwise(stays)
    ]
    if not moves:
        return 0.0
    move = statistics.median(moves) if len(moves) >= AGREEING_MOVES else moves[0]
    return move if abs(move) <= LARGEST_MOVE else 0.0


def _level(night: Night, offsets: Mapping[str, float]) -> float | None:
    """Return the mean log value of a night on some cards without their offsets; None without."""
    found = [
        math.log(value) - offsets[card] for card, value in night.by_card.items() if card in offsets
    ]
    return statistics.fmean(found) if found else None


def without_offsets(nights: Sequence[Night], offsets: Mapping[str, float]) -> list[float]:
    """Return the log value of each night as the first card would have measured it."""
    if not offsets:
        return [math.log(night.value) for night in nights]
    levels = (_level(night, offsets) for night in nights)
    return [
        math.log(night.value) if level is None else level
        for night, level in zip(nights, levels, strict=True)
    ]


def offset_of(night: Night, offsets: Mapping[str, float]) -> float:
    """Return the mean log offset of the cards of a night; 0 where none is known."""
    known = [offsets.get(card, 0.0) for card in night.by_card]
    return statistics.fmean(known) if known else 0.0


def lasting_moves(nights: Sequence[Night]) -> list[int]:
    """Return the first night after each lasting move to other cards.

    A move lasts if no card measured in the nights on both sides of it.
    """
    return [
        at
        for at in range(1, len(nights))
        if nights[at - 1].by_card and nights[at].by_card
        if not _cards(nights[max(0, at - FEWEST_NIGHTS) : at])
        & _cards(nights[at : at + FEWEST_NIGHTS])
    ]


def is_only_move(nights: Sequence[Night], at: int) -> bool:
    """Return whether no card measured both before and after a night, so the code may have changed.

    A card that did shows what the code changed.
    """
    return not _cards(nights[:at]) & _cards(nights[at:])


def _cards(nights: Sequence[Night]) -> set[str]:
    return {card for night in nights for card in night.by_card}


def last_on_a_card_of(night: Night, earlier: Sequence[Night]) -> Night:
    """Return the last earlier night that shares a card with `night`, or else the last one."""
    shared = (one for one in reversed(earlier) if one.by_card.keys() & night.by_card.keys())
    return next(shared, earlier[-1])


def cards_text(night: Night) -> str:
    """Return the cards of a night for people, each by the first characters of its UUID."""
    return ", ".join(card[:UUID_CHARACTERS] for card in night.by_card) or "unknown"
