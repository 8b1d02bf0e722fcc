"""Ulysses: attention over the tokens of all ranks, each rank with a part of the heads.

Each rank computes query, key and value of its own tokens. An all-to-all gives it all tokens of its
heads; after attention, a second one gives it all heads of its tokens. Attention has no mask, and
RoPE is applied before, so the order of the tokens within it does not matter. Tensors are (batch,
tokens, heads, head_dim). Importing this module imports torch.

Source: Jacobs et al., "DeepSpeed Ulysses", arXiv:2309.14509.
"""

from __future__ import annotations

from functools import cache
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fluxfast.optimizations.base import Attend
from fluxfast.optimizations.parallel._shares import Shares, shares
from fluxfast.optimizations.team import Team

FP8 = torch.float8_e4m3fn
# The exchanges of the pipelines that are open: an operator takes numbers and tensors only.
EXCHANGES: dict[int, Exchange] = {}
_numbers = count()


class Exchange:
    """Attention of one pipeline across the ranks of a team.

    Attributes:
        team: the ranks.
        shares: the tokens of each rank in the current call.
        qkv_bytes: bytes of query, key and value that this rank sent to others, for one attention.
        out_bytes: the same for the attention output.
    """

    def __init__(self, team: Team, attend: Attend, is_fp8: bool) -> None:
        """Exchange around an attention function.

        Args:
            team: the ranks.
            attend: attention on (batch, all tokens, heads of a rank, head_dim).
            is_fp8: it takes fp8 with a scale of one, which is cast before it is sent.
        """
        self.team, self._attend, self._is_fp8 = team, attend, is_fp8
        self.shares = Shares(text=(), image=())
        self.qkv_bytes = self.out_bytes = 0
        self._operator, self._operator_into = _operators()
        self.number = next(_numbers)
        EXCHANGES[self.number] = self

    def close(self) -> None:
        """Forget the exchange: no call uses it any more."""
        EXCHANGES.pop(self.number, None)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return attention of this rank's tokens over those of all ranks."""
        out: Tensor = self._operator(*self._cast(query, key, value), self.number)
        return out

    def attend_into(self, query: Tensor, key: Tensor, value: Tensor, rows: Tensor) -> None:
        """Write attention into the first channels of rows (batch, tokens, ≥ channels)."""
        self._operator_into(*self._cast(query, key, value), rows, self.number)

    def _cast(self, *heads: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.to(FP8) for part in heads) if self._is_fp8 else heads

    def attended(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return attention as (batch, tokens, ranks, heads of a rank, head_dim), not contiguous."""
        heads = self._to_heads(query, key, value)
        return self._to_tokens(self._attend(*heads))

    def _to_heads(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Return all tokens of this rank's heads, as views of one buffer of all three parts."""
        ranks, tokens = self.team.size, self.shares.joined
        batch, own, heads, head_dim = parts[0].shape
        shape = (3, batch, heads // ranks, head_dim)
        sent = parts[0].new_empty((ranks, own, *shape))
        for place, part in enumerate(parts):
            of_ranks = part.view(batch, own, ranks, -1, head_dim)
            sent[:, :, place].copy_(of_ranks.permute(2, 1, 0, 3, 4))
        received = parts[0].new_empty((sum(tokens), *shape))
        self.qkv_bytes = self._all_to_all(received, sent.flatten(0, 1), tokens, (own,) * ranks)
        return tuple(part.transpose(0, 1) for part in received.unbind(1))

    def _to_tokens(self, attended: Tensor) -> Tensor:
        """Return all heads of this rank's tokens."""
        ranks, tokens = self.team.size, self.shares.joined
        own = tokens[self.team.rank]
        sent = attended.transpose(0, 1).contiguous()  # no copy for a batch of one
        received = sent.new_empty((ranks * own, *sent.shape[1:]))
        self.out_bytes = self._all_to_all(received, sent, (own,) * ranks, tokens)
        return received.view(ranks, own, *sent.shape[1:]).permute(2, 1, 0, 3, 4)

    def gathered(self, own: Tensor) -> Tensor:
        """Return the image tokens of all ranks, (batch, tokens, channels), of those of each."""
        counts = self.shares.image
        sent = own.transpose(0, 1).expand(self.team.size, -1, -1, -1).flatten(0, 1)
        received = own.new_empty((sum(counts), *sent.shape[1:]))
        self._all_to_all(received, sent.contiguous(), counts, (own.shape[1],) * self.team.size)
        return received.transpose(0, 1).contiguous()

    def _all_to_all(
        self, received: Tensor, sent: Tensor, counts: tuple[int, ...], given: tuple[int, ...]
    ) -> int:
        """Exchange rows of bytes, and return how many bytes went to other ranks.

        Args:
            received: filled with `counts[r]` rows of each rank r.
            sent: `given[r]` rows go to each rank r.
            counts: rows that come from each rank.
            given: rows that go to each rank.
        """
        # Bytes: backends need not know fp8, and nothing computes with the values.
        dist.all_to_all_single(_rows(received), _rows(sent), list(counts), list(given))
        row_bytes = sent[0].numel() * sent.element_size()
        return (sum(given) - given[self.team.rank]) * row_bytes


def _rows(tensor: Tensor) -> Tensor:
    return tensor.view(tensor.shape[0], -1).view(torch.uint8)


@cache
def _operators() -> tuple[Any, Any]:
    """Register `fluxfast::ulysses` and `fluxfast::ulysses_into`, and return them.

    To a compiler each is one attention operator on this rank's tokens: the collectives, and the
    numbers of tokens of other ranks, are inside.
    """
    schema = "(Tensor query, Tensor key, Tensor value, int exchange) -> Tensor"

    def ulysses(query: Tensor, key: Tensor, value: Tensor, exchange: int) -> Tensor:
        return EXCHANGES[exchange].attended(query, key, value).flatten(2, 3).contiguous()

    def ulysses_into(
        query: Tensor, key: Tensor, value: Tensor, rows: Tensor, exchange: int
    ) -> None:
        attended = EXCHANGES[exchange].attended(query, key, value)
        channels = query.shape[2] * query.shape[3]
        rows[..., :channels].view(attended.shape).copy_(attended)

    attend = torch.library.custom_op("fluxfast::ulysses", ulysses, mutates_args=(), schema=schema)

    @attend.register_fake
    def _(query: Tensor, key: Tensor, value: Tensor, exchange: int) -> Tensor:
        dtype = torch.bfloat16 if query.dtype == FP8 else query.dtype
        return query.new_empty(query.shape, dtype=dtype)

    into = torch.library.custom_op(
        "fluxfast::ulysses_into",
        ulysses_into,
        mutates_args=("rows",),
        schema="(Tensor query, Tensor key, Tensor value, Tensor(a!) rows, int exchange) -> ()",
    )
    into.register_fake(lambda query, key, value, rows, exchange: None)
    return attend, into


class SharedForward:
    """The transformer's `forward` on this rank's tokens, with the result of all ranks."""

    def __init__(self, forward: Any, exchange: Exchange) -> None:
        self.forward, self.exchange = forward, exchange

    def __call__(self, **keywords: Any) -> Any:
        """Return `forward(**keywords)`, computed by all ranks together."""
        exchange, rank = self.exchange, self.exchange.team.rank
        text, image = keywords["encoder_hidden_states"], keywords["hidden_states"]
        exchange.shares = shares(text.shape[1], image.shape[1], exchange.team.size)
        of_text, of_image = exchange.shares.text_of(rank), exchange.shares.image_of(rank)
        own = {
            "hidden_states": image[:, of_image],
            "encoder_hidden_states": text[:, of_text],
            "img_ids": keywords["img_ids"][..., of_image, :],
            "txt_ids": keywords["txt_ids"][..., of_text, :],
        }
        out = self.forward(**(keywords | own))
        if isinstance(out, tuple):
            return (exchange.gathered(out[0]),)
        return type(out)(sample=exchange.gathered(out.sample))
