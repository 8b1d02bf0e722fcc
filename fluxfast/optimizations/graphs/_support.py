"""The check that CUDA graphs are supported, and the proof that one was replayed."""

from __future__ import annotations

from typing import Any

from fluxfast.hardware import Hardware, Platform
from fluxfast.optimizations.base import Proof


def why_no_graphs(hardware: Hardware) -> str | None:
    """Return why the hardware has no CUDA graphs, or None."""
    if hardware.platform is Platform.CUDA:
        return None
    return "requires an NVIDIA GPU: CUDA graphs are not supported elsewhere"


def replay_proof(forward: Any) -> Proof:
    """Return a proof: active if `forward` is a GraphReplay that has replayed."""
    from fluxfast.optimizations.graphs._replay import GraphReplay

    replays = forward.replays if isinstance(forward, GraphReplay) else 0
    return Proof(is_active=replays > 0, detail=f"{replays} graph replays")
