"""Batches in page-locked memory that workers share with the training process, so that the GPU reads what they write.

With the pinning of PyTorch's DataLoader, the training process copies every byte once more, and opens and closes shared
files for each batch: about 50 ms of its time for 60 MB, more than a step leaves to the host.
"""

import logging
import math
import mmap
import multiprocessing
from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from core.options import TrainOptions
from core.types.frames import Sample, collate
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

_IN_SHARED_MEMORY = np.empty(0, np.uint8)
"""Placeholder for images and alphas in messages between processes."""

Message = tuple[int, Sample]
"""Message of a worker: the index of a buffer, and the batch with arrays for tensors and placeholders for images."""


class SharedBatches:
    """A ring of buffers, each of which holds the images of one batch.

    Workers must be forked from the process that created it. A batch keeps its buffer while it waits to be received.

    Args:
        options: They determine the shape of a batch.
        count: Number of buffers: the batches that workers may prefetch, and two for the training. With fewer, workers
            wait.
    Raises:
        InputError: If there is not enough memory.
    """

    def __init__(self, options: TrainOptions, count: int):
        data = options.data
        self._shapes = [
            (options.batch_size, frames, views, channels, data.image_size, data.image_size)
            for frames, views in ((data.input_frames, len(data.input_views)), (data.target_frames, data.target_views))
            for channels in (3, 1)
        ]
        size = sum(map(math.prod, self._shapes))
        try:
            self._buffers = [torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8) for _ in range(count)]
        except OSError as error:
            raise InputError(
                f"{count} prefetched batches of {size / 1e9:.2f} GB do not fit into memory ({error}); "
                "lower --data.num-workers or --batch-size"
            ) from error
        self._locked: set[int] = set()
        self._unlockable: set[int] = set()
        self._free = multiprocessing.get_context("fork").SimpleQueue()
        for index in range(count):
            self._free.put(index)

    def collate(self, samples: list[Sample]) -> Message:
        """Join `batch_size` samples into a batch, in a worker (the `collate_fn` of a DataLoader)."""
        index = self._free.get()
        images = iter(self._images(index))
        batch = collate(samples, lambda tensors: torch.stack(tensors, out=next(images)))
        return index, batch.map(lambda x: _IN_SHARED_MEMORY if x.dtype == torch.uint8 else x.numpy())

    def receive(self, messages: Iterator[Message], lock_pages: bool) -> Iterator[Sample]:
        """Packed batches. Workers may overwrite the images of a batch when the next but one is requested.

        Args:
            messages: Results of `collate`.
            lock_pages: Page-lock each buffer when it first occurs, until the batches end. A buffer that the system
                refuses to lock is used as it is, with one warning for all.
        """
        held: deque[int] = deque()
        try:
            for index, batch in messages:
                if lock_pages and index not in self._locked | self._unlockable:
                    self._lock(index)
                held.append(index)
                images = iter(self._images(index))
                yield batch.map(lambda x: next(images) if x.dtype == np.uint8 else torch.from_numpy(x))  # noqa: B023 - called at once
                if len(held) == 2:
                    self._free.put(held.popleft())
        finally:
            for index in self._locked:
                torch.cuda.cudart().cudaHostUnregister(self._buffers[index].data_ptr())

    def _images(self, index: int) -> list[Tensor]:
        """Images and alphas of the inputs, then of the targets: the order of `Frames.stack` and `Frames.map`."""
        parts = self._buffers[index].split([math.prod(shape) for shape in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _lock(self, index: int) -> None:
        if _register(self._buffers[index]):
            self._locked.add(index)
            return
        if not self._unlockable:
            logger.warning("not all memory for batches can be page-locked: training waits for some copies to the GPU")
        self._unlockable.add(index)


def can_share_batches() -> bool:
    """True if workers are forked, and memory that they share can be page-locked."""
    if multiprocessing.get_start_method() != "fork" or not torch.cuda.is_available():
        return False
    probe = torch.frombuffer(mmap.mmap(-1, 1 << 20), dtype=torch.uint8)
    if not _register(probe):
        return False
    torch.cuda.cudart().cudaHostUnregister(probe.data_ptr())
    return True


def _register(memory: Tensor) -> bool:
    """Page-lock memory, so that the GPU can read it directly; False if the system refuses."""
    if int(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.numel(), 0)) == 0:
        return True
    try:
        torch.zeros(1, device="cuda")  # clears the error, which the next kernel would report otherwise
    except RuntimeError as error:
        logger.debug("page-locking: %s", error)
    return False
