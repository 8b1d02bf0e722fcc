"""The processes that share an image, as one of them sees them. Imports torch only when called."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def _unwatched(_: object) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, kw_only=True)
class Team:
    """The processes that share an image: one rank for each GPU.

    Tensors go through torch.distributed's default process group, everything else through a group
    of the host.

    Attributes:
        rank: the number of this process; rank 0 leads.
        size: the number of processes.
        messages: the process group of the host; its members may wait for each other for days.
        is_led: ranks above 0 run this project's loop, which follows the calls of rank 0; otherwise
            each rank calls its own pipeline.
        watched: returns a context for a call, given its layout; where another rank fails or hangs
            within it, the context raises that rank's error, or ends this process.
    """

    rank: int
    size: int
    messages: Any
    is_led: bool
    watched: Callable[[object], AbstractContextManager[None]] = _unwatched

    def send(self, message: object) -> None:
        """Send a message from rank 0 to every other rank."""
        import torch.distributed as dist

        dist.broadcast_object_list([message], src=0, group=self.messages)

    def receive(self) -> Any:
        """Return the next message of rank 0; wait for it as long as it takes."""
        import torch.distributed as dist

        held: list[Any] = [None]
        dist.broadcast_object_list(held, src=0, group=self.messages)
        return held[0]

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Fill a contiguous tensor with that of rank 0, and return it."""
        import torch
        import torch.distributed as dist

        # Bytes: a backend need not know the number format.
        dist.broadcast(tensor.detach().flatten().view(torch.uint8), src=0)
        return tensor

    def wait(self) -> None:
        """Wait until every rank has come here."""
        import torch.distributed as dist

        dist.barrier(group=self.messages)

    def summed(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all ranks, and return it."""
        import torch.distributed as dist

        dist.all_reduce(tensor)
        return tensor
