"""Capacity of the buffer for the tiles' lists of splats, estimated from earlier renderings of the same size."""

import functools
import logging
import math
from typing import Literal

import torch

logger = logging.getLogger(__name__)

HEADROOM = 1.25  # ratio of the estimated capacity to the number of slots that a call used
MIN_ESTIMATE = 4096  # slots
MAX_ESTIMATE = 2**29  # slots: 2 GB
MAX_SLOTS = 2**31 - 1024  # lists have 32-bit indices, which run a little past their end
NOT_MEASURED = "backend triton measures its list sizes in a first call; render once before capturing a graph"


class CapacityEstimator:
    """Capacity of the lists for renderings of one size.

    The first call measures how many slots it needs. Later kernels report overflows and crowded buckets in pinned host
    memory, also when they run in a CUDA graph, and the next call reads the reports without synchronising. A captured
    graph keeps the capacity of its capture.

    Args:
        capacity: Initial number of slots for the lists.
        limit: Largest capacity. Calls that need more use the slow fallback.
        on_cuda: True if the reports come from a GPU.
    """

    def __init__(self, capacity: int, limit: int, on_cuda: bool) -> None:
        self.capacity, self.limit = capacity, limit
        self.is_measured = False
        """True once `capacity` is based on a call, or was given by the caller."""
        self.is_crowded = False
        """True if a bucket of depth was so large that sorting the splats is faster."""
        self.is_exceeded = False
        """True if a call needed more slots than `limit`."""
        self._reported = 0
        self.overflow, self.crowded = (torch.zeros(1, dtype=torch.int64, pin_memory=on_cuda) for _ in range(2))

    def update(self, used: int) -> bool:
        """Set the capacity from the slots that a call needed. Returns whether the previous capacity sufficed."""
        sufficed = used <= self.capacity
        self.is_exceeded = self.is_exceeded or used > self.limit
        self.capacity = min(max(MIN_ESTIMATE, math.ceil(used * HEADROOM / 1024) * 1024), self.limit)
        self.is_measured = True
        return sufficed

    def read_reports(self) -> None:
        """Apply the reports of earlier calls: a crowded bucket, or an overflow; the largest overflow is logged."""
        self.is_crowded = self.is_crowded or bool(self.crowded)
        used = int(self.overflow)
        if not used:
            return
        self.overflow.zero_()
        if used > self._reported:
            message = "lists of %d entries exceeded the capacity of %d; the image is complete, but the call was slow"
            logger.warning(message, used, self.capacity)
            self._reported = used
        if self.capacity < used:
            self.update(used)


@functools.cache  # never evicted: a CUDA graph may write to its host memory at any time
def capacity_estimator(
    device: torch.device,
    num_views: int,
    count: int,
    width: int,
    height: int,
    tile: int,
    capacity: int | None,
    kind: Literal["cells", "entries", "pairs"] = "cells",
) -> CapacityEstimator:
    """The estimator that all renderings of these sizes share.

    Args:
        count: Splats per view.
        tile: Side of a tile in pixels.
        capacity: A fixed number of slots, or None to estimate it.
        kind: Lists of which binning: `binning_kernel.py`, or entries or pairs of `pair_binning.py`, which
            counts them before it writes the first.
    Raises:
        ValueError: If `capacity` is negative.
    """
    if capacity is not None and capacity < 0:
        raise ValueError(f"capacity must be a number of slots or None, got {capacity}")
    on_cuda, num_splats = device.type == "cuda", num_views * count
    if capacity is None:
        limit = max(MIN_ESTIMATE, min(MAX_ESTIMATE, MAX_SLOTS - num_splats))
        first = min(MIN_ESTIMATE + 16 * num_splats, limit) if kind == "cells" else 0
        return CapacityEstimator(first, limit, on_cuda)
    estimator = CapacityEstimator(capacity, capacity, on_cuda)
    estimator.is_measured = True
    return estimator
