"""From captures to batches of a training run."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset, Subset

from core.data.cameras_io import read_json
from core.data.dataset import HumanDataset
from core.data.human_list import HumanEntry
from core.data.types import Sample, collate
from core.options import TrainOptions
from core.training.order import EndlessBatches, Key


class KeyedSamples(Dataset[Sample]):
    """A dataset that is asked for an epoch along with an index, so that workers may be ahead of the training loop."""

    def __init__(self, dataset: HumanDataset):
        self.dataset = dataset

    def __getitem__(self, key: Key) -> Sample:
        return self.dataset.sample(*key)


def training_batches(
    dataset: HumanDataset, options: TrainOptions, rank: int, processes: int, start: int, pin_memory: bool
) -> Iterator[Sample]:
    """Endless batches for one process, from its batch number `start` on."""
    order = EndlessBatches(len(dataset), options.batch_size, options.seed, rank, processes, start)
    workers = options.data.num_workers
    loader = DataLoader(
        KeyedSamples(dataset),
        batch_sampler=order,
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # the loader draws a seed for its workers: not from the training's generator
    )
    return iter(loader)


def held_out_batches(dataset: HumanDataset, options: TrainOptions, rank: int, processes: int) -> Iterator[Sample]:
    """This process's share of the held-out persons, one at a time."""
    share = Subset(dataset, range(rank, len(dataset), processes))
    workers = min(options.data.num_workers, 4, len(share))
    return iter(DataLoader(share, collate_fn=collate, num_workers=workers, generator=torch.Generator()))


def data_stamp(subjects: list[HumanEntry]) -> str:
    """What kind of captures these are: `synthetic <version>`, or `captures` if their `body.json` names no generator."""
    stamps = set()
    for subject in subjects:
        record = subject.path / "body.json"
        generator = read_json(record).get("generator") if record.is_file() else None
        stamps.add("captures" if generator is None else f"synthetic {generator}")
    return ", ".join(sorted(stamps))
