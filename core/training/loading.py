"""Batches of a training run, read from captures.

choose_subjects -> HumanDataset -> EndlessBatches (order) -> DataLoader workers -> on_device
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import chain, pairwise

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from core.data.dataset import HumanDataset
from core.data.human_list import HumanEntry, find_subjects, split_subjects
from core.data.input_files import read_json
from core.options import TrainOptions
from core.training.shared_batches import SharedBatches, can_share_batches
from core.types.frames import Sample, collate
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

PREFETCH = 2
"""Batches that a worker may be ahead."""
VALIDATION_WORKERS = 4
"""Maximum number of workers that read held-out subjects."""

SampleKey = tuple[int, int]
"""Epoch and index: a training sample is a function of these and of the seed."""


class EndlessBatches(Sampler[list[SampleKey]]):
    """Infinite batch sampler of one of several processes, repeatable, and startable at any batch at no cost.

    Epochs are permutations that depend on the seed and the epoch only, concatenated. The processes take keys from this
    sequence in turn, so that together they see every subject once per epoch. Batches may span two epochs.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1, start: int = 0):
        """Args:
        length: Number of subjects in an epoch.
        start: Number of batches that this process has taken before.
        """
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.processes, self.start = rank, processes, start
        self._permutation = lru_cache(maxsize=2)(self._shuffled)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        batch = self.start
        while True:
            first = batch * self.batch_size * self.processes + self.rank
            yield [self._key(first + i * self.processes) for i in range(self.batch_size)]
            batch += 1

    def _key(self, position: int) -> SampleKey:
        epoch, place = divmod(position, self.length)
        return epoch, self._permutation(epoch)[place]

    def _shuffled(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
        return torch.randperm(self.length, generator=generator).tolist()


def mixed_seed(*values: int) -> int:
    """One seed from several integers; neighbouring integers give unrelated seeds."""
    return hash(tuple(values)) & (2**63 - 1)  # Python's hash of integers and their tuples is the same in every process


class KeyedSamples(Dataset[Sample]):
    """A dataset indexed by `SampleKey`, so that workers may be in the next epoch already."""

    def __init__(self, dataset: HumanDataset):
        self.dataset = dataset

    def __getitem__(self, key: SampleKey) -> Sample:
        return self.dataset.sample(*key)


def choose_subjects(options: TrainOptions) -> tuple[list[HumanEntry], list[HumanEntry]]:
    """Training subjects and held-out subjects; logs a warning where a name occurs in both.

    Raises:
        InputError: If a folder is missing or empty.
    """
    subjects = find_subjects(options.data.root)
    if options.validation_root is None:
        return split_subjects(subjects, options.validation)
    if options.validation <= 0:
        return subjects, []
    held_out = find_subjects(options.validation_root)[: options.validation]
    if both := sorted({entry.subject for entry in subjects} & {entry.subject for entry in held_out}):
        logger.warning(
            "%s: %d held-out subjects have names of training subjects (%s); if they are the same people, their scores "
            "are meaningless: choose another --validation-root",
            *(options.validation_root, len(both), ", ".join(both[:5])),
        )
    return subjects, held_out


def training_batches(
    dataset: HumanDataset, options: TrainOptions, rank: int, processes: int, start: int, pin_memory: bool
) -> Iterator[Sample]:
    """Infinite packed batches of one process, from its batch number `start` on, on the CPU.

    With `pin_memory` their images are page-locked, and may be overwritten when the next batch but one is requested.

    Raises:
        InputError: If the prefetched batches do not fit into memory; on request of a batch, if a sample cannot be read.
    """
    order = EndlessBatches(len(dataset), options.batch_size, options.seed, rank, processes, start)
    workers = options.data.num_workers
    shared = None
    if pin_memory and workers and can_share_batches():
        shared = SharedBatches(options, PREFETCH * workers + 2)
    loader = DataLoader(
        KeyedSamples(dataset),
        batch_sampler=order,
        collate_fn=shared.collate if shared else _collate_in_worker if workers else collate,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=pin_memory and shared is None,
        generator=torch.Generator(),  # the loader draws its workers' seed from this one, not from the training's
    )
    batches = iter(loader)  # forks the workers, so it precedes page-locked memory and CUDA's own state
    return _restore_errors(shared.receive(batches, lock_pages=True) if shared else batches)


def _collate_in_worker(samples: list[Sample]) -> Sample:
    """A batch to be sent to the training process, with tensors for the images only.

    Each tensor would take a file of its own, and half a millisecond of the training process.
    """
    return collate(samples).map(lambda x: x if x.dtype == torch.uint8 else x.numpy())


def held_out_batches(dataset: HumanDataset, options: TrainOptions, rank: int, processes: int) -> Iterator[Sample]:
    """The held-out subjects of one process, packed, one per batch."""
    share = Subset(KeyedSamples(dataset), [(0, index) for index in range(rank, len(dataset), processes)])
    workers = min(options.data.num_workers, VALIDATION_WORKERS, len(share))
    loader = DataLoader(share, collate_fn=collate, num_workers=workers, generator=torch.Generator())
    return _restore_errors(iter(loader))


def on_device(batches: Iterator[Sample], device: torch.device) -> Iterator[Sample]:
    """The same batches on the device, in the same order; each is copied while the one before it is in use.

    On CUDA the copies run on a stream of their own. The host waits only for the copy of the step before, because the
    next request may overwrite its source (`training_batches`).
    """
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    copies = torch.cuda.Stream(device)

    def send(batch: Sample) -> tuple[Sample, torch.cuda.Event]:
        with torch.cuda.stream(copies):
            return batch.to(device, non_blocking=True), copies.record_event()

    def receive(batch: Sample, arrival: torch.cuda.Event) -> Sample:
        stream = torch.cuda.current_stream(device)
        stream.wait_event(arrival)

        def keep(x: Tensor) -> Tensor:
            x.record_stream(stream)  # its memory is reused only after the work of this stream
            return x

        return replace(batch, inputs=batch.inputs.map(keep), targets=batch.targets.map(keep))

    def sent() -> Iterator[tuple[Sample, torch.cuda.Event]]:
        before = None
        for batch in batches:
            batch, arrival = send(batch)
            yield batch, arrival
            if before is not None:
                before.synchronize()
            before = arrival

    # `pairwise` requests the next batch before it yields this one.
    for pair, _ in pairwise(chain(sent(), [None])):
        yield receive(*pair)


def _restore_errors(batches: Iterator[Sample]) -> Iterator[Sample]:
    """The batches; an `InputError` of a worker keeps its own message, to which a DataLoader adds a traceback."""
    try:
        yield from (batch.map(torch.as_tensor) for batch in batches)
    except InputError as error:
        raise InputError(str(error).rsplit("InputError: ", 1)[-1].strip()) from error


def data_stamp(subjects: list[HumanEntry]) -> str:
    """Kind of captures: `synthetic <version>`, or `captures` if their `body.json` names no generator."""
    stamps = set()
    for subject in subjects:
        record = subject.path / "body.json"
        generator = read_json(record).get("generator") if record.is_file() else None
        stamps.add("captures" if generator is None else f"synthetic {generator}")
    return ", ".join(sorted(stamps))
