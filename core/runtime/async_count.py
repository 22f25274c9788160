"""Counts that are copied from the device while the host continues."""

import torch
from jaxtyping import Bool
from torch import Tensor


class AsyncCount:
    """The number of true entries of a mask, copied to the host asynchronously.

    Created early and read late, it does not make the host wait for the device.
    """

    def __init__(self, mask: Bool[Tensor, "*any"]):
        self._capacity = mask.numel()
        self._copied: torch.cuda.Event | None = None
        self._count = mask.sum()
        if mask.is_cuda and not torch.cuda.is_current_stream_capturing():
            self._count = torch.empty((), dtype=torch.int64, pin_memory=True).copy_(self._count, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> int:
        """The count; during the capture of a CUDA graph, which cannot depend on it, the size of the mask."""
        if self._copied is None:
            return self._capacity if self._count.is_cuda else int(self._count)
        self._copied.synchronize()
        return int(self._count)
