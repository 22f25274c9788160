"""From captures to batches of a training run."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, pairwise

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from core.data.calibration import read_json
from core.data.dataset import HumanDataset
from core.data.human_list import HumanEntry, find_subjects, split_subjects
from core.options import TrainOptions
from core.training.order import EndlessBatches, Key
from core.training.shared_batches import SharedBatches, can_share_batches
from core.types.frames import Sample, collate
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

PREFETCH = 2
"""Batches that a worker may be ahead."""


class KeyedSamples(Dataset[Sample]):
    """A dataset that is asked for an epoch along with an index, so that workers may be ahead of the training loop."""

    def __init__(self, dataset: HumanDataset):
        self.dataset = dataset

    def __getitem__(self, key: Key) -> Sample:
        return self.dataset.sample(*key)


def choose_subjects(options: TrainOptions) -> tuple[list[HumanEntry], list[HumanEntry]]:
    """Whom to train on, and who is held out; a warning where these are the same.

    Raises:
        InputError: If a folder is missing or holds nobody.
    """
    subjects = find_subjects(options.data.root)
    if options.validation_root is None:
        return split_subjects(subjects, options.validation)
    if options.validation <= 0:
        return subjects, []
    held_out = find_subjects(options.validation_root)[: options.validation]
    if both := sorted({entry.subject for entry in subjects} & {entry.subject for entry in held_out}):
        logger.warning(
            "%s: %d of those held out bear names of people to train on (%s); if they are the same, their scores mean "
            "nothing: choose another --validation-root",
            *(options.validation_root, len(both), ", ".join(both[:5])),
        )
    return subjects, held_out


def training_batches(
    dataset: HumanDataset, options: TrainOptions, rank: int, processes: int, start: int, pin_memory: bool
) -> Iterator[Sample]:
    """Endless packed batches for one process, from its batch number `start` on, on the CPU.

    With `pin_memory` their pictures are page-locked, and may be written over when the next batch but one is asked for.

    Raises:
        InputError: If the batches that workers may be ahead do not fit into memory; and, when one is asked for, if a
            sample cannot be read.
    """
    order = EndlessBatches(len(dataset), options.batch_size, options.seed, rank, processes, start)
    workers = options.data.num_workers
    shared = None
    if pin_memory and workers and can_share_batches():
        shared = SharedBatches(options, PREFETCH * workers + 2)
    loader = DataLoader(
        KeyedSamples(dataset),
        batch_sampler=order,
        collate_fn=shared.collate if shared else _parcel if workers else collate,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=pin_memory and shared is None,
        generator=torch.Generator(),  # the loader draws a seed for its workers: not from the training's generator
    )
    batches = iter(loader)  # forks the workers: page-locked memory and what CUDA keeps of it come after
    return _in_own_words(shared.receive(batches, lock_pages=True) if shared else batches)


def _parcel(samples: list[Sample]) -> Sample:
    """A batch to be sent to the main process. Only the pictures are tensors: each of these takes a file of its own
    there, and half a millisecond of Python, which the training needs itself."""
    return collate(samples).map(lambda x: x if x.dtype == torch.uint8 else x.numpy())


def held_out_batches(dataset: HumanDataset, options: TrainOptions, rank: int, processes: int) -> Iterator[Sample]:
    """This process's share of the held-out persons, packed, one at a time."""
    share = Subset(KeyedSamples(dataset), [(0, index) for index in range(rank, len(dataset), processes)])
    workers = min(options.data.num_workers, 4, len(share))
    return _in_own_words(iter(DataLoader(share, collate_fn=collate, num_workers=workers, generator=torch.Generator())))


def on_device(batches: Iterator[Sample], device: torch.device) -> Iterator[Sample]:
    """The same batches, in the same order, on the device; each travels while the one before it is in use.

    On CUDA the copies run on a stream of their own, and the host waits only for those that began a step ago: before it
    asks for a batch that may be written over them (`training_batches`).
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
            x.record_stream(stream)  # its memory is given away only when this stream is done with it
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

    # `pairwise` asks for the batch after this one before it hands this one out.
    for pair, _ in pairwise(chain(sent(), [None])):
        yield receive(*pair)


def _in_own_words(batches: Iterator[Sample]) -> Iterator[Sample]:
    """The batches; an `InputError` from a worker says again what it said there, where a loader adds a traceback."""
    try:
        yield from (batch.map(torch.as_tensor) for batch in batches)
    except InputError as error:
        raise InputError(str(error).rsplit("InputError: ", 1)[-1].strip()) from error


def data_stamp(subjects: list[HumanEntry]) -> str:
    """What kind of captures these are: `synthetic <version>`, or `captures` if their `body.json` names no generator."""
    stamps = set()
    for subject in subjects:
        record = subject.path / "body.json"
        generator = read_json(record).get("generator") if record.is_file() else None
        stamps.add("captures" if generator is None else f"synthetic {generator}")
    return ", ".join(sorted(stamps))
