"""Which tokens of an image each rank computes. Pure, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from fluxfast.errors import FluxFastError


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The tokens of each rank: consecutive text tokens and consecutive image tokens.

    Attributes:
        text: number of text tokens by rank.
        image: number of image tokens by rank.
    """

    text: tuple[int, ...]
    image: tuple[int, ...]

    @property
    def joined(self) -> tuple[int, ...]:
        """The number of text and image tokens together by rank; they differ by 2 at most."""
        return tuple(text + image for text, image in zip(self.text, self.image, strict=True))

    def text_of(self, rank: int) -> slice:
        """Return the text tokens of a rank."""
        return _slice_of(self.text, rank)

    def image_of(self, rank: int) -> slice:
        """Return the image tokens of a rank."""
        return _slice_of(self.image, rank)

    def describe(self, rank: int) -> str:
        """Return a rank's share, for people."""
        text, image = f"{self.text[rank]} of {sum(self.text)}", f"{self.image[rank]}"
        return f"rank {rank} has {text} text and {image} of {sum(self.image)} image tokens"


def shares(text_tokens: int, image_tokens: int, ranks: int) -> Shares:
    """Return the shares of `ranks` ranks, as even as whole tokens allow.

    The first ranks have the text tokens that are left over, the last ones those of the image.

    Raises:
        FluxFastError: a rank would have no token of the text or of the image.
    """
    if min(text_tokens, image_tokens) < ranks:
        raise FluxFastError(
            "fewer tokens than GPUs",
            got=f"{text_tokens} text and {image_tokens} image tokens on {ranks} GPUs",
            allowed=f"{ranks} text tokens and {ranks} image tokens (16×16 pixels each) or more",
            remedy="make the image or max_sequence_length larger, or use fewer GPUs",
        )
    return Shares(
        text=_parts(text_tokens, ranks), image=tuple(reversed(_parts(image_tokens, ranks)))
    )


def _parts(count: int, ranks: int) -> tuple[int, ...]:
    each, left_over = divmod(count, ranks)
    return tuple(each + (rank < left_over) for rank in range(ranks))


def _slice_of(counts: tuple[int, ...], rank: int) -> slice:
    ends = list(accumulate(counts))
    return slice(ends[rank] - counts[rank], ends[rank])
