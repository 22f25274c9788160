"""Batches that workers write where the GPU reads them: page-locked memory that they share with the training process.

Else that process would have to copy every byte once more, and to take and give back shared files for each batch: some
50 ms of its time for 60 MB, which is more than the host has to spare in a step.
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
"""Stands for images and alphas on their way between processes."""

Parcel = tuple[int, Sample]
"""What a worker sends: the number of a piece of memory, and the batch with arrays for tensors and None for pictures."""


class SharedBatches:
    """Pieces of memory that hold the pictures of one batch each, and go round between workers and the training.

    Workers must be forked from the process that made this; a batch that waits for a worker's turn keeps its piece.

    Args:
        options: They fix the shape of a batch.
        count: Pieces: as many as workers may be ahead, and two that the training has. With fewer, workers would wait.
    Raises:
        InputError: If there is not as much memory.
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
            self._memory = [torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8) for _ in range(count)]
        except OSError as error:
            raise InputError(
                f"{count} batches of {size / 1e9:.2f} GB, for workers to be ahead, do not fit into memory ({error}); "
                "lower --data.num-workers or --batch-size"
            ) from error
        self._locked: set[int] = set()
        self._unlockable: set[int] = set()
        self._free = multiprocessing.get_context("fork").SimpleQueue()
        for piece in range(count):
            self._free.put(piece)

    def collate(self, samples: list[Sample]) -> Parcel:
        """Join `batch_size` persons into a batch, in a worker (the `collate_fn` of a DataLoader)."""
        piece = self._free.get()
        pictures = iter(self._pictures(piece))
        batch = collate(samples, lambda tensors: torch.stack(tensors, out=next(pictures)))
        return piece, batch.map(lambda x: _IN_SHARED_MEMORY if x.dtype == torch.uint8 else x.numpy())

    def receive(self, parcels: Iterator[Parcel], lock_pages: bool) -> Iterator[Sample]:
        """The batches, packed. Workers may write over the pictures of one as soon as the next but one is asked for.

        Args:
            parcels: From `collate`.
            lock_pages: Page-lock each piece of memory when it first comes, until
                the batches end. A piece of which the system refuses it is used as it is, with one warning for all.
        """
        held: deque[int] = deque()
        try:
            for piece, batch in parcels:
                if lock_pages and piece not in self._locked | self._unlockable:
                    self._lock(piece)
                held.append(piece)
                pictures = iter(self._pictures(piece))
                yield batch.map(lambda x: next(pictures) if x.dtype == np.uint8 else torch.from_numpy(x))  # noqa: B023 - at once
                if len(held) == 2:
                    self._free.put(held.popleft())
        finally:
            for piece in self._locked:
                torch.cuda.cudart().cudaHostUnregister(self._memory[piece].data_ptr())

    def _pictures(self, piece: int) -> list[Tensor]:
        """Images and alphas of the inputs, then of the targets: the order of `Frames.stack` and `Frames.map`."""
        parts = self._memory[piece].split([math.prod(shape) for shape in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _lock(self, piece: int) -> None:
        if _register(self._memory[piece]):
            self._locked.add(piece)
            return
        if not self._unlockable:
            logger.warning("not all memory for batches can be page-locked: training will wait for some of their copies")
        self._unlockable.add(piece)


def can_share_batches() -> bool:
    """Whether workers are forked here, and their memory can be page-locked."""
    if multiprocessing.get_start_method() != "fork" or not torch.cuda.is_available():
        return False
    probe = torch.frombuffer(mmap.mmap(-1, 1 << 20), dtype=torch.uint8)
    if not _register(probe):
        return False
    torch.cuda.cudart().cudaHostUnregister(probe.data_ptr())
    return True


def _register(memory: Tensor) -> bool:
    """Page-lock memory, so that the GPU reads it by itself; False if the system refuses."""
    if int(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.numel(), 0)) == 0:
        return True
    try:
        torch.zeros(1, device="cuda")  # reports the error that is left behind, which the next kernel would do else
    except RuntimeError as error:
        logger.debug("page-locking: %s", error)
    return False
