"""Batches in memory shared with workers: in order, valid for as long as promised, and in reused buffers."""

import time
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from core.options import DataOptions, TrainOptions
from core.training import loading, shared_batches
from core.training.loading import EndlessBatches, on_device, training_batches
from core.training.shared_batches import SharedBatches
from core.types.cameras import Cameras
from core.types.frames import Frames, Sample
from smpl_renderer.errors import InputError
from smpl_renderer.types import BodyParams

OPTIONS = TrainOptions(
    data=DataOptions(image_size=4, input_views=("a", "b"), input_frames=2, target_frames=1, target_views=3),
    batch_size=2,
)
LENGTH = 5


def frames(value: int, count: int, views: int) -> Frames:
    cameras = Cameras(torch.full((count, views, 4, 4), float(value)), torch.ones(count, views, 3, 3), 4, 4)
    images = torch.full((count, views, 3, 4, 4), value % 256, dtype=torch.uint8)
    return Frames(images, 255 - images[:, :, :1], cameras, BodyParams.zeros(count))


class Numbered(Dataset):
    """Samples that hold their key as a number; some take longer, so that workers finish out of order."""

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        value = key[0] * LENGTH + key[1]
        time.sleep(0.01 * (value % 3))
        return Sample(frames(value, 2, 2), frames(value + 100, 1, 3), [str(value)])

    sample = staticmethod(lambda epoch, index: Numbered()[epoch, index])

    def __len__(self) -> int:
        return LENGTH


def check(batch: Sample, keys: list[tuple[int, int]]) -> None:
    for i, (epoch, index) in enumerate(keys):
        value = epoch * LENGTH + index
        assert batch.names[i] == str(value)
        for part, expected in ((batch.inputs, value), (batch.targets, value + 100)):
            assert part.images.dtype == torch.uint8 and (part.images[i] == expected % 256).all()
            assert (part.alphas[i] == 255 - expected % 256).all()
            assert (part.cameras.viewmats[i] == expected).all()
            assert part.body.body_pose.dtype == torch.float32 and part.body.body_pose.shape[-1] == 69


def test_a_batch_is_valid_until_the_next_but_one_is_requested():
    order = EndlessBatches(LENGTH, OPTIONS.batch_size, seed=0)
    shared = SharedBatches(OPTIONS, count=2 * 2 + 2)
    loader = DataLoader(Numbered(), batch_sampler=order, collate_fn=shared.collate, num_workers=2, prefetch_factor=2)
    before = None
    for batch, keys in islice(zip(shared.receive(iter(loader), lock_pages=False), order), 40):
        check(batch, keys)
        if before is not None:
            time.sleep(0.005)  # workers write meanwhile
            check(*before)
        before = batch, keys
    assert batch.inputs.images.shape == (2, 2, 2, 3, 4, 4) and batch.targets.alphas.shape == (2, 1, 3, 1, 4, 4)


def test_two_buffers_are_held_and_the_others_are_reused():
    shared = SharedBatches(OPTIONS, count=4)
    taken, places = [], []

    def messages():
        for _ in range(12):
            message = shared.collate([Numbered()[0, 1], Numbered()[0, 2]])
            taken.append(message[0])
            yield message

    for batch in shared.receive(messages(), lock_pages=False):
        places.append(batch.inputs.images.data_ptr())
        free = []
        while not shared._free.empty():
            free.append(shared._free.get())
        assert sorted(free + taken[-2:]) == [0, 1, 2, 3]  # the last two are held
        for index in free:
            shared._free.put(index)
    assert len(set(places)) == 4 and places[:4] == places[4:8] == places[8:]


def test_memory_that_cannot_be_page_locked_is_used_with_one_warning(monkeypatch, caplog):
    tried = []
    monkeypatch.setattr(shared_batches, "_register", lambda memory: tried.append(memory.data_ptr()))
    shared = SharedBatches(OPTIONS, count=3)
    messages = (shared.collate([Numbered()[0, 1], Numbered()[0, 2]]) for _ in range(9))
    for batch in shared.receive(messages, lock_pages=True):
        check(batch, [(0, 1), (0, 2)])
    assert len(tried) == len(set(tried)) == 3
    assert caplog.text.count("not all memory for batches can be page-locked") == 1


def test_the_number_of_buffers_is_that_of_the_batches_in_use(monkeypatch):
    """Workers as far ahead as they may be, and two batches held by the training."""
    spare, requested, made = 20, [], []

    def with_spare_buffers(options, count):
        requested.append(count)
        made.append(SharedBatches(options, spare))
        return made[0]

    monkeypatch.setattr(loading, "can_share_batches", lambda: True)
    monkeypatch.setattr(loading, "SharedBatches", with_spare_buffers)
    monkeypatch.setattr(shared_batches, "_register", lambda memory: False)
    options = replace(OPTIONS, data=replace(OPTIONS.data, num_workers=2))
    batches = training_batches(Numbered(), options, 0, 1, start=0, pin_memory=True)
    for _ in range(4):
        next(batches)
    time.sleep(1)  # until the workers are as far ahead as they may be
    free = 0
    while not made[0]._free.empty():
        made[0]._free.get()
        free += 1
    assert requested == [spare - free]


def test_batches_that_exceed_the_memory_are_refused():
    options = replace(OPTIONS, batch_size=1 << 50)
    with pytest.raises(InputError, match=r"6 prefetched batches of .* GB.*lower --data\.num-workers or --batch-size"):
        SharedBatches(options, count=6)


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_on_the_gpu(workers):
    options = replace(OPTIONS, data=replace(OPTIONS.data, num_workers=workers))
    order = EndlessBatches(LENGTH, OPTIONS.batch_size, options.seed)
    batches = training_batches(Numbered(), options, 0, 1, start=0, pin_memory=True)
    for batch, keys in islice(zip(on_device(batches, torch.device("cuda")), order), 40):
        torch.cuda._sleep(10_000_000)
        check(batch.to("cpu"), keys)
