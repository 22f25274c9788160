"""From captures to batches of a training run."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch.utils.data import DataLoader, Dataset, Subset

from core.data.cameras_io import read_json
from core.data.dataset import HumanDataset
from core.data.human_list import HumanEntry
from core.data.types import Frames, Sample, collate
from core.options import TrainOptions
from core.training.order import EndlessBatches, Key
from smpl_renderer.errors import InputError


class KeyedSamples(Dataset[Sample]):
    """A dataset that is asked for an epoch along with an index, so that workers may be ahead of the training loop."""

    def __init__(self, dataset: HumanDataset):
        self.dataset = dataset

    def __getitem__(self, key: Key) -> Sample:
        return self.dataset.sample(*key)


def collate_packed(samples: list[Sample]) -> Sample:
    """Join persons into a batch with pictures of one byte a value: a quarter to send between processes and to a GPU."""
    batch = collate(samples)
    return replace(batch, inputs=_pack(batch.inputs), targets=_pack(batch.targets))


def unpack(batch: Sample) -> Sample:
    """Undo the packing of `collate_packed`, exactly: pictures have 8 bits when they are read."""
    return replace(batch, inputs=_unpack(batch.inputs), targets=_unpack(batch.targets))


def _pack(frames: Frames) -> Frames:
    images, alphas = ((x * 255).round().to(torch.uint8) for x in (frames.images, frames.alphas))
    return replace(frames, images=images, alphas=alphas)


def _unpack(frames: Frames) -> Frames:
    images, alphas = (x.to(torch.float32).div_(255) for x in (frames.images, frames.alphas))
    return replace(frames, images=images, alphas=alphas)


def training_batches(
    dataset: HumanDataset, options: TrainOptions, rank: int, processes: int, start: int, pin_memory: bool
) -> Iterator[Sample]:
    """Endless packed batches for one process, from its batch number `start` on."""
    order = EndlessBatches(len(dataset), options.batch_size, options.seed, rank, processes, start)
    workers = options.data.num_workers
    loader = DataLoader(
        KeyedSamples(dataset),
        batch_sampler=order,
        collate_fn=collate_packed,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # the loader draws a seed for its workers: not from the training's generator
    )
    return _in_own_words(iter(loader))


def held_out_batches(dataset: HumanDataset, options: TrainOptions, rank: int, processes: int) -> Iterator[Sample]:
    """This process's share of the held-out persons, one at a time."""
    share = Subset(dataset, range(rank, len(dataset), processes))
    workers = min(options.data.num_workers, 4, len(share))
    return _in_own_words(iter(DataLoader(share, collate_fn=collate, num_workers=workers, generator=torch.Generator())))


def _in_own_words(batches: Iterator[Sample]) -> Iterator[Sample]:
    """The batches; an `InputError` from a worker says again what it said there, where a loader adds a traceback."""
    try:
        yield from batches
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
