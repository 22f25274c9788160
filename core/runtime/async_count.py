"""Counts that are copied from the device while the host continues."""

import torch
from jaxtyping import Bool
from torch import Tensor


class AsyncCount:
    """The number of true entries of a mask, on its way from the device while the host goes on.

    Ask for it early and read it late, when the copy has long arrived: then nobody waits.
    """

    def __init__(self, mask: Bool[Tensor, "*any"]):
        self._capacity = mask.numel()
        self._arrived: torch.cuda.Event | None = None
        self._count = mask.sum()
        if mask.is_cuda and not torch.cuda.is_current_stream_capturing():
            self._count = torch.empty((), dtype=torch.int64, pin_memory=True).copy_(self._count, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> int:
        """The count; in the capture of a CUDA graph, which cannot depend on it, the size of the mask."""
        if self._arrived is None:
            return self._capacity if self._count.is_cuda else int(self._count)
        self._arrived.synchronize()
        return int(self._count)
