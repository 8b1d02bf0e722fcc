"""Report what is active in an optimized pipeline, with the proof of one profiled step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fluxfast.models.lora.adapter import AppliedLora, describe
from fluxfast.optimizations.base import Evidence, Plan, Proof
from fluxfast.profiling.evidence import evidence_of

# Left out when a call is repeated: they would act on the caller's objects a second time.
NOT_REPEATED = ("callback_on_step_end", "generator")


@dataclass(frozen=True, kw_only=True)
class Report:
    """The optimizations of a pipeline after one profiled step.

    Attributes:
        taken_for: the model that the pipeline was taken for, and why.
        proofs: the proof of each requested optimization.
        left_out: default optimizations that are not applied, each with the reason.
        loras: the LoRAs that are part of the weights.
    """

    taken_for: str
    proofs: Mapping[str, Proof]
    left_out: Mapping[str, str]
    loras: tuple[AppliedLora, ...]

    @property
    def is_as_requested(self) -> bool:
        """Return whether every requested optimization is active."""
        return all(proof.is_active for proof in self.proofs.values())

    def __str__(self) -> str:
        """Format the report as a table."""
        states = {True: "active", False: "requested but not active"}
        rows = [(name, states[p.is_active], p.detail) for name, p in self.proofs.items()]
        rows += [(name, "left out", reason) for name, reason in self.left_out.items()]
        names, kinds = (max((len(row[i]) for row in rows), default=0) for i in (0, 1))
        lines = [f"{name:{names}}  {kind:{kinds}}  {detail}" for name, kind, detail in rows]
        return "\n".join([f"taken for {self.taken_for}, {describe(self.loras)}", *lines])


def repeated_call(pipeline: Any, plan: Plan, call: Mapping[str, Any]) -> Evidence:
    """Repeat a call of an optimized pipeline with its first step profiled.

    Args:
        pipeline: the optimized pipeline.
        plan: the optimizations.
        call: the arguments of the call by name.
    """
    repeated = {name: value for name, value in call.items() if name not in NOT_REPEATED}
    repeated["generator"] = torch.Generator().manual_seed(0)  # not the caller's random state
    repeated["output_type"] = "latent"
    return evidence_of(pipeline, plan, lambda: pipeline(**repeated))
