"""The exchange of heads and tokens between ranks, which are threads here: every dtype and shape."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, local

import pytest
import torch
import torch.nn.functional as F

from fluxfast.optimizations.parallel._exchange import Exchange, SharedForward
from fluxfast.optimizations.parallel._shares import shares
from fluxfast.optimizations.team import Team

HEADS, HEAD_DIM, TEXT, IMAGE = 6, 8, 7, 12
TOKENS = TEXT + IMAGE


class Ranks:
    """Runs a function in a thread for each rank; stands in for torch.distributed's all-to-all."""

    def __init__(self, count, monkeypatch):
        self.count, self.barrier, self.here = count, Barrier(count, timeout=20), local()
        self.sent = [None] * count
        monkeypatch.setattr("torch.distributed.all_to_all_single", self.all_to_all)

    def run(self, function):
        def as_rank(rank):
            self.here.rank = rank
            return function(rank)

        with ThreadPoolExecutor(self.count) as pool:
            return list(pool.map(as_rank, range(self.count)))

    def all_to_all(self, received, sent, counts, given):
        assert received.dtype == sent.dtype == torch.uint8
        assert sent.is_contiguous() and received.is_contiguous()
        rank = self.here.rank
        self.sent[rank] = sent.split(given)
        self.barrier.wait()
        parts = [other[rank] for other in self.sent]
        assert [len(part) for part in parts] == counts
        received.copy_(torch.cat(parts))
        self.barrier.wait()

    def exchanges(self, is_fp8=False):
        """Return the exchange of each rank, all made in one thread, as operators are registered."""
        teams = (
            Team(rank=rank, size=self.count, messages=None, is_led=True)
            for rank in range(self.count)
        )
        return [Exchange(team, attend, is_fp8) for team in teams]


def attend(query, key, value):
    """Attention as a kernel computes it: in float32, returned in bfloat16 for fp8."""
    dtype = torch.bfloat16 if query.dtype == torch.float8_e4m3fn else query.dtype
    heads = (part.float().transpose(1, 2) for part in (query, key, value))
    return F.scaled_dot_product_attention(*heads).transpose(1, 2).contiguous().to(dtype)


def heads(batch, dtype):
    random = torch.Generator().manual_seed(0)
    joined = torch.randn(batch, TOKENS, 3, HEADS, HEAD_DIM, generator=random).to(dtype)
    return joined.unbind(2)  # not contiguous, as the views of a fused GEMM's output


def own_tokens(tensor, held, rank):
    """Return a rank's text and image tokens, which are those of a block's input."""
    text, image = tensor[:, :TEXT], tensor[:, TEXT:]
    return torch.cat([text[:, held.text_of(rank)], image[:, held.image_of(rank)]], dim=1)


@pytest.mark.parametrize("is_into", [False, True], ids=["returned", "into"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize(("ranks", "batch"), [(2, 1), (2, 2), (3, 2)])
def test_ranks_attend_as_one(ranks, batch, dtype, is_into, monkeypatch):
    is_fp8 = dtype == torch.float8_e4m3fn
    given = heads(batch, torch.bfloat16 if is_fp8 else dtype)  # the exchange casts to fp8
    expected = attend(*(part.to(dtype) for part in given))
    held, threads = shares(TEXT, IMAGE, ranks), Ranks(ranks, monkeypatch)
    exchanges = threads.exchanges(is_fp8)

    def of_rank(rank):
        exchange = exchanges[rank]
        exchange.shares = held
        own = [own_tokens(part, held, rank) for part in given]
        try:
            if not is_into:
                return exchange.attend(*own), exchange
            channels = HEADS * HEAD_DIM
            rows = torch.full((batch, own[0].shape[1], channels + 5), 9.0, dtype=expected.dtype)
            exchange.attend_into(*own, rows)
            assert (rows[..., channels:] == 9).all()
            return rows[..., :channels].unflatten(2, (HEADS, HEAD_DIM)), exchange
        finally:
            exchange.close()

    for rank, (found, exchange) in enumerate(threads.run(of_rank)):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, own_tokens(expected, held, rank), rtol=0, atol=1e-6)
        each = batch * HEADS // ranks * HEAD_DIM * held.joined[rank] * (ranks - 1)
        assert exchange.qkv_bytes == 3 * each * dtype.itemsize


def test_every_rank_returns_the_result_of_all_tokens(monkeypatch):
    threads = Ranks(3, monkeypatch)
    exchanges = threads.exchanges()
    random = torch.Generator().manual_seed(0)
    arguments = {
        "hidden_states": torch.randn(2, IMAGE + 1, 4, generator=random),
        "encoder_hidden_states": torch.randn(2, TEXT, 5, generator=random),
        "img_ids": torch.arange(IMAGE + 1)[:, None].expand(-1, 3),
        "txt_ids": torch.zeros(1, TEXT, 3),
    }

    def forward(*, hidden_states, encoder_hidden_states, img_ids, txt_ids, timestep):
        assert encoder_hidden_states.shape[1] == txt_ids.shape[1]
        return (hidden_states + img_ids[None, :, :1] * timestep,)

    def of_rank(rank):
        shared = SharedForward(forward, exchanges[rank])
        exchanges[rank].close()
        return shared(**arguments, timestep=0.5)[0]

    image = arguments["hidden_states"]
    expected = image + torch.arange(IMAGE + 1)[None, :, None] * 0.5
    for found in threads.run(of_rank):
        torch.testing.assert_close(found, expected)
