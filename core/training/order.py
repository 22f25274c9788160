"""The order in which training sees persons: repeatable, and entered anywhere at no cost, for exact resumption."""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch.utils.data import Sampler

Key = tuple[int, int]
"""Epoch and index: what a training sample is drawn from."""


class EndlessBatches(Sampler[list[Key]]):
    """Batches of keys for one of several processes, without end.

    Epochs are permutations that depend on the seed and the epoch alone, laid end to end. The processes take turns in
    this sequence, so that together they see every person once an epoch; no batch is cut short at an epoch's end.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1, start: int = 0):
        """Args:
        length: Persons in an epoch.
        start: Batches that this process has had before.
        """
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.processes, self.start = rank, processes, start
        self._permutation = lru_cache(maxsize=2)(self._shuffled)

    def __iter__(self) -> Iterator[list[Key]]:
        batch = self.start
        while True:
            first = batch * self.batch_size * self.processes + self.rank
            yield [self._key(first + i * self.processes) for i in range(self.batch_size)]
            batch += 1

    def _key(self, position: int) -> Key:
        epoch, place = divmod(position, self.length)
        return epoch, self._permutation(epoch)[place]

    def _shuffled(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
        return torch.randperm(self.length, generator=generator).tolist()


def mixed_seed(*numbers: int) -> int:
    """One seed out of several numbers; neighbouring ones give unrelated seeds."""
    return hash(tuple(numbers)) & (2**63 - 1)  # Python's hash of integers and their tuples is the same in every process
