"""Record a function of tensors as CUDA graphs, and replay them. Importing it imports torch."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.utils import _pytree as pytree

MAX_GRAPHS = 8  # graphs kept per function: one for each layout (size, batch) of its arguments


def may_launch_kernels() -> bool:
    """Return whether a kernel of this project may be launched: each imports Triton first."""
    return "triton" in sys.modules


def call_key(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a recorded graph is valid for: each tensor's layout, every other value."""
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
    """A graph with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Any]
    outputs: Any


class GraphReplay:
    """Call `function` through a CUDA graph, one for each layout of its arguments.

    Inputs are copied into the graph's memory and outputs out of it, so a result stays valid when
    the graph runs again. The `max_graphs` most recently used graphs are kept; they share one memory
    pool, which is safe because no result of one lives in the pool while another one runs.

    Attributes:
        ahead: calls whose Triton kernels are compiled together with those of the function.
        replays: number of calls that were replayed.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        max_graphs: int = MAX_GRAPHS,
        ahead: Sequence[Callable[[], object]] = (),
    ) -> None:
        self.function = function
        self.max_graphs = max_graphs
        self.ahead = ahead
        self.graphs: OrderedDict[tuple[Any, ...], _Recorded] = OrderedDict()
        self.pool: Any = None
        self.replays = 0

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Return `function(*arguments, **keywords)`, recorded at the first call of a layout."""
        recorded = self._graph_for(arguments, keywords)
        given = pytree.tree_leaves((arguments, keywords))
        for held, new in zip(recorded.inputs, given, strict=True):
            if isinstance(new, torch.Tensor):
                held.copy_(new)
        recorded.graph.replay()
        self.replays += 1
        return pytree.tree_map_only(torch.Tensor, torch.clone, recorded.outputs)

    def forget(self) -> None:
        """Drop every graph; the next call records again."""
        self.graphs.clear()
        self.pool = None  # a pool that no graph holds any more may not be captured into again

    def _graph_for(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> _Recorded:
        key = call_key(arguments, keywords)
        if key not in self.graphs:
            # Record before dropping one: the pool stays alive as long as some graph holds it.
            self.graphs[key] = self._record(arguments, keywords)
            if len(self.graphs) > self.max_graphs:
                self.graphs.popitem(last=False)
        self.graphs.move_to_end(key)
        return self.graphs[key]

    def _record(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> _Recorded:
        held_arguments, held_keywords = pytree.tree_map_only(
            torch.Tensor, torch.clone, (arguments, keywords)
        )
        self._warm_up(held_arguments, held_keywords)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            outputs = self.function(*held_arguments, **held_keywords)
        self.pool = graph.pool()
        return _Recorded(
            graph=graph,
            inputs=pytree.tree_leaves((held_arguments, held_keywords)),
            outputs=outputs,
        )

    def _warm_up(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Call once outside of a graph, after compiling the call's kernels side by side.

        No first allocation or library handle is then captured.
        """
        stream = _warm_up_stream(torch.cuda.current_device())
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            if may_launch_kernels():
                from fluxfast.kernels.compile_ahead import compile_kernels_of

                compile_kernels_of(lambda: self.function(*arguments, **keywords), *self.ahead)
            self.function(*arguments, **keywords)
        torch.cuda.current_stream().wait_stream(stream)


@cache
def _warm_up_stream(device: int) -> torch.cuda.Stream:
    """Return the one warm-up stream: cuBLAS keeps a workspace (32 MiB on Hopper) per stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-any-return]
