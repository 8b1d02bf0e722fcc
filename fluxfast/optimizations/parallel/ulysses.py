"""Ulysses: the tokens of an image divided between GPUs, and within attention the heads.

Weights are on every GPU. Each GPU computes its share of the text and image tokens; two all-to-alls
around each attention exchange tokens for heads. The number of heads has to divide by the number of
GPUs.
"""

from __future__ import annotations

from typing import Any

from fluxfast.hardware import Hardware
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build, Evidence, Optimization, Proof
from fluxfast.optimizations.facts import KernelCategory, NumberFormat
from fluxfast.optimizations.situation import Situation

# On a CPU the operator of torch.distributed; on an NVIDIA GPU, NCCL's kernel, also in a graph.
ALL_TO_ALL = ("c10d::alltoall_base_", "ncclDevKernel_SendRecv")
WHOLE = "it compiles the whole transformer, whose collectives were not compiled yet; use regional"


def apply(build: Build) -> None:
    """Divide the transformer's tokens, exchange around attention, and call with all ranks."""
    from fluxfast.optimizations.attention._processor import OperatorAttnProcessor
    from fluxfast.optimizations.attention.sdpa import sdpa
    from fluxfast.optimizations.parallel._calls import Follower, Leader, called_together
    from fluxfast.optimizations.parallel._exchange import Exchange, SharedForward

    team, transformer = build.team, build.pipeline.transformer
    assert team is not None  # `fluxfast.pipeline.ranks` joins one for several GPUs
    processor = next(iter(transformer.attn_processors.values()))
    is_operator = isinstance(processor, OperatorAttnProcessor)
    is_fp8 = build.plan.number_format(Axis.ATTENTION) is NumberFormat.FP8_UNSCALED
    exchange = Exchange(team, processor.attend if is_operator else sdpa(), is_fp8)
    build.undo.callback(exchange.close)
    into = exchange.attend_into if is_operator and processor.attend_into else None
    transformer.set_attn_processor(OperatorAttnProcessor(exchange.attend, into))
    # A bound method, as what it replaces: cache-dit binds it again when it is disabled.
    transformer.forward = SharedForward(transformer.forward, exchange).__call__
    transformer.__dict__["exchange"] = exchange
    if team.rank == 0:
        calls: Any = Leader(team=team, pipeline=build.pipeline)
    elif not team.is_led:
        calls = Follower(team, transformer, build.pipeline.device)
    else:
        return  # the loop of this rank receives the calls
    transformer.__dict__["called_by_ranks"] = calls
    transformer.__class__ = called_together(type(transformer))


def proof(evidence: Evidence) -> Proof:
    """Return a proof: active if a step exchanged around each attention, and gathered its result."""
    transformer: Any = evidence.pipeline.transformer
    exchange = getattr(transformer, "exchange", None)
    if exchange is None:
        return Proof(is_active=False, detail="this process computes every token")
    blocks = len(transformer.transformer_blocks) + len(transformer.single_transformer_blocks)
    counts = evidence.step.counts
    found = sum(n for name, n in counts.items() if any(part in name for part in ALL_TO_ALL))
    mib = blocks * (exchange.qkv_bytes + exchange.out_bytes) / 2**20
    share = exchange.shares.describe(exchange.team.rank)
    detail = f"{found} all-to-alls in a step, {mib:.2f} MiB sent by each rank; {share}"
    return Proof(is_active=found == 2 * blocks + 1, detail=detail)


def why_unsupported(hardware: Hardware) -> str | None:
    """Return why this machine has nothing to divide an image between, or None."""
    return None if hardware.gpus > 1 else "requires several GPUs for one image (gpus=2)"


def why_unsupported_request(situation: Situation) -> str | None:
    """Return why the model does not divide between this number of GPUs, or None."""
    gpus, heads = situation.hardware.gpus, situation.heads
    if situation.loaded and "ControlNet" in situation.loaded.pipeline_class:
        return "a ControlNet's residuals are not divided between GPUs"
    if heads is None or heads % gpus == 0:
        return None
    able = ", ".join(str(n) for n in range(2, heads + 1) if heads % n == 0)
    return f"{heads} attention heads do not divide by {gpus} GPUs; use {able} GPUs"


OPTIMIZATION = Optimization(
    name="ulysses",
    axis=Axis.PARALLEL,
    summary="tokens of an image divided between GPUs, within attention the heads",
    apply=apply,
    proof=proof,
    why_unsupported=why_unsupported,
    why_unsupported_request=why_unsupported_request,
    conflicts={"compile": WHOLE, "export_aoti": WHOLE},
    kernels={KernelCategory.EXCHANGE: "c10d::alltoall|nccl"},
    is_reference=True,
    on_by_default=lambda hardware: hardware.gpus > 1,
)
