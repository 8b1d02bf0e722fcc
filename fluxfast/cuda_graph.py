"""Replaying a function of tensors as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fluxfast.hardware import Hardware, Platform
from fluxfast.optimization import Proof


def graphs_unsupported(hardware: Hardware) -> str | None:
    if hardware.platform is Platform.CUDA:
        return None
    return "needs an NVIDIA GPU: there are no CUDA graphs elsewhere"


def replay_proof(forward: Any) -> Proof:
    """In force if `forward` is a GraphReplay that has replayed."""
    replays = forward.replays if isinstance(forward, GraphReplay) else 0
    return Proof(in_force=replays > 0, seen=f"{replays} graph replays")


def call_key(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, ...]:
    """A recorded graph holds for this: each tensor's layout, every other value, however passed."""
    leaves, structure = pytree.tree_flatten((arguments, keywords))
    return (
        pytree.treespec_dumps(structure),
        *(
            (tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device)
            if isinstance(leaf, torch.Tensor)
            else (type(leaf), leaf)
            for leaf in leaves
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: list[Any]
    outputs: Any


class GraphReplay:
    """Calls `function` through a CUDA graph, one for each layout of its arguments.

    Inputs are copied into the graph's memory and outputs out of it, so that a result stays what it
    was when the graph runs again. `replays` counts the calls that were replayed.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.graphs: dict[tuple[Any, ...], _Recorded] = {}
        self.replays = 0

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        key = call_key(arguments, keywords)
        if key not in self.graphs:
            self.graphs[key] = self._record(arguments, keywords)
        recorded = self.graphs[key]
        for held, given in zip(
            recorded.inputs, pytree.tree_leaves((arguments, keywords)), strict=True
        ):
            if isinstance(given, torch.Tensor):
                held.copy_(given)
        recorded.graph.replay()
        self.replays += 1
        return pytree.tree_map_only(torch.Tensor, torch.clone, recorded.outputs)

    def forget(self) -> None:
        """What was recorded; the next call records again."""
        self.graphs.clear()

    def _record(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> _Recorded:
        held_arguments, held_keywords = pytree.tree_map_only(
            torch.Tensor, torch.clone, (arguments, keywords)
        )
        self._warm_up(held_arguments, held_keywords)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self.function(*held_arguments, **held_keywords)
        return _Recorded(
            graph=graph,
            inputs=pytree.tree_leaves((held_arguments, held_keywords)),
            outputs=outputs,
        )

    def _warm_up(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Allocations and library handles of the first call do not belong in a graph."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.function(*arguments, **keywords)
        torch.cuda.current_stream().wait_stream(stream)
