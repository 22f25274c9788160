"""Samples for training: which frames and views they draw, and that nothing but the seed decides."""

from dataclasses import replace

import pytest
import torch
from tiny_capture import FRONT_LEFT_BACK_RIGHT, TinyCapture, standing
from torch.utils.data import DataLoader

from core.data.capture import Capture
from core.data.dataset import HumanDataset, load_frames
from core.data.human_list import HumanEntry, find_subjects
from core.data.readers import open_capture
from core.options import DataOptions
from core.types.frames import Sample, collate
from smpl_renderer.errors import InputError

OPTIONS = DataOptions(image_size=16, input_frames=3, target_frames=3, novel_frames=1, target_views=6)
FRAMES = (5, 10, 15, 20, 25, 30)


@pytest.fixture(scope="module")
def root(tmp_path_factory, body):
    """Two subjects of eight cameras and six frames."""
    folder = tmp_path_factory.mktemp("captures")
    tiny = TinyCapture(image_size=(77, 64), frames=FRAMES, num_cameras=8)
    for subject in ("209001", "209002"):
        tiny.write(folder / subject, body, [standing(i % 3) for i in range(len(FRAMES))])
    return folder


@pytest.fixture
def dataset(root, body):
    return HumanDataset(OPTIONS, find_subjects(root), seed=3, body=body)


def equal(a: Sample, b: Sample) -> bool:
    same = a.names == b.names
    for x, y in ((a.inputs, b.inputs), (a.targets, b.targets)):
        same &= torch.equal(x.images, y.images) and torch.equal(x.cameras.viewmats, y.cameras.viewmats)
        same &= torch.equal(x.body.body_pose, y.body.body_pose)
    return same


def test_shapes_and_order(dataset):
    sample = dataset[0]
    assert sample.inputs.images.shape == (3, 4, 3, 16, 16) and sample.inputs.alphas.shape == (3, 4, 1, 16, 16)
    assert sample.targets.images.shape == (3, 6, 3, 16, 16)
    assert sample.inputs.cameras.viewmats.shape == (3, 4, 4, 4) and sample.targets.body.betas.shape == (3, 10)
    for tensor in (sample.inputs.images, sample.inputs.cameras.Ks, sample.targets.body.transl):
        assert tensor.dtype == torch.float32
    assert sample.inputs.images.min() >= 0 and sample.inputs.images.max() == 1
    # Targets: the first input frames and views, then a novel frame and other views.
    seen = sample.targets[:2].select_views([0, 1, 2, 3])
    assert torch.equal(seen.images, sample.inputs.images[:2])
    assert torch.equal(seen.cameras.viewmats, sample.inputs.cameras.viewmats[:2])
    poses = torch.cat([sample.inputs.body.transl, sample.targets.body.transl[2:]])
    assert len(poses) == 4
    centers = sample.targets.cameras.centers[0]
    assert len({tuple(c) for c in centers.round(decimals=3).tolist()}) == 6  # no view twice
    assert sample.names[0].startswith("209001/")


def test_supervising_views_may_be_mostly_novel(root, body):
    """Two of the inputs, other ones in other epochs, and all other cameras; held-out subjects keep to all inputs."""
    few = replace(OPTIONS, target_input_views=2)
    train = HumanDataset(few, find_subjects(root), seed=3, body=body)
    plain = HumanDataset(OPTIONS, find_subjects(root), seed=3, body=body)
    kept = set()
    for epoch in range(6):
        sample, other = train.sample(epoch, 0), plain.sample(epoch, 0)
        assert torch.equal(sample.inputs.images, other.inputs.images)  # nothing else is drawn differently
        inputs = [tuple(x) for x in sample.inputs.cameras.centers[0].round(decimals=3).tolist()]
        targets = [tuple(x) for x in sample.targets.cameras.centers[0].round(decimals=3).tolist()]
        assert (
            len(set(targets)) == 6 and len(set(targets[:2]) & set(inputs)) == 2 and not set(targets[2:]) & set(inputs)
        )
        kept.add(frozenset(inputs.index(x) for x in targets[:2]))
    assert len(kept) > 1
    held_out = [HumanDataset(o, find_subjects(root), "validation", 3, body)[0] for o in (few, OPTIONS)]
    assert equal(*held_out)


def test_frames_are_distinct_and_novel_ones_not_shown(dataset, monkeypatch):
    calls = []
    original = Capture.fit
    monkeypatch.setattr(
        Capture, "fit", lambda self, frame, body=None: calls.append(frame) or original(self, frame, body)
    )
    dataset._capture(0)
    later = 0
    for epoch in range(8):
        calls.clear()
        dataset.sample(epoch, 0)
        inputs_of_call, targets = calls[:3], calls[3:6]
        assert len(set(inputs_of_call)) == 3 and targets[:2] == inputs_of_call[:2] and targets[2] not in inputs_of_call
        later += targets[2] > max(inputs_of_call)
        # One from each of four stretches of the six frames.
        first, *_, last = sorted(calls[:3] + calls[5:])
        assert first <= 10 and last >= 25
    assert 0 < later < 8  # the novel one is not always the last


def test_input_views_are_those_named(dataset, body):
    capture = open_capture(dataset.subjects[0].path)
    frame = int(dataset[0].names[0].split("/")[1].split(",")[0])
    expected = load_frames(capture, body, [frame], list(FRONT_LEFT_BACK_RIGHT), FRONT_LEFT_BACK_RIGHT[0], 16, "center")
    torch.testing.assert_close(dataset[0].inputs.images[:1], expected.images)
    torch.testing.assert_close(dataset[0].inputs.cameras.viewmats[:1], expected.cameras.viewmats)


def test_samples_follow_from_seed_epoch_and_index_only(root, body, dataset):
    again = HumanDataset(OPTIONS, find_subjects(root), seed=3, body=body)
    again[1]  # the order of asking does not matter
    torch.manual_seed(99)  # nor does the global state
    assert equal(dataset.sample(2, 0), again.sample(2, 0))
    other = HumanDataset(OPTIONS, find_subjects(root), seed=4, body=body)
    assert not equal(dataset.sample(2, 0), other.sample(2, 0))
    frames = [[dataset.sample(epoch, index).names[0].split("/")[1] for epoch in range(4)] for index in (0, 1)]
    assert len(set(frames[0])) > 1 and frames[0] != frames[1]


def test_workers_change_nothing(root, body):
    dataset = HumanDataset(OPTIONS, find_subjects(root) * 2, seed=3, body=body)
    batches = [list(DataLoader(dataset, batch_size=2, num_workers=n, collate_fn=collate)) for n in (0, 2)]
    assert len(batches[0]) == 2
    assert all(equal(a, b) for a, b in zip(*batches))
    assert batches[0][0].inputs.images.shape == (2, 3, 4, 3, 16, 16)


def test_validation_is_the_same_in_every_epoch(root, body):
    options = replace(OPTIONS, random_input_views=1.0)
    dataset = HumanDataset(options, find_subjects(root), "validation", body=body)
    assert equal(dataset.sample(0, 1), dataset.sample(5, 1))
    named = HumanDataset(OPTIONS, find_subjects(root), "validation", body=body)
    torch.testing.assert_close(*(d.sample(0, 0).inputs.cameras.centers for d in (dataset, named)))


def test_random_input_views(root, body):
    options = replace(OPTIONS, random_input_views=0.5)
    dataset = HumanDataset(options, find_subjects(root), seed=0, body=body)
    capture = open_capture(dataset.subjects[0].path)
    drawn = []
    for epoch in range(12):
        generator = torch.Generator().manual_seed(epoch)
        drawn.append(dataset._draw_input_views(capture, capture.camera_names, 5, generator))
    assert all(len(set(views)) == 4 for views in drawn)
    named = sum(tuple(views) == FRONT_LEFT_BACK_RIGHT for views in drawn)
    assert 2 <= named <= 10 and len({tuple(views) for views in drawn}) > 3


def test_human_list_limits_views_and_poses(root, body):
    views = (*FRONT_LEFT_BACK_RIGHT, "22236222", "22236229", "77777777")
    entry = HumanEntry(root / "209001", views=views, poses=(5, 10, 20, 30))
    dataset = HumanDataset(OPTIONS, [entry], body=body)
    capture = open_capture(entry.path)
    cameras, frames = dataset._usable(capture, entry)
    assert set(cameras) == set(views[:6]) and frames == [5, 10, 20, 30]
    other_rig = replace(entry, views=("CC32871A004",))
    assert set(dataset._usable(capture, other_rig)[0]) == set(capture.camera_names)
    with pytest.raises(InputError, match="none of the poses of the human list"):
        dataset._usable(capture, replace(entry, poses=(7,)))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"input_frames": 6}, "7 frames are wanted .* but only 6 have"),
        ({"target_views": 9}, "9 target views are wanted, but only 4 input views and 4 others"),
        ({"target_input_views": 1}, "6 target views are wanted, but only 1 input views and 4 others"),
        ({"target_input_views": -1}, "target_input_views must be at least 0"),
        ({"target_frames": 5}, "target_frames .5. must be at least novel_frames .1., and may exceed it by at most"),
        ({"target_frames": 1, "novel_frames": 2}, "target_frames .1. must be at least novel_frames .2."),
    ],
)
def test_more_than_there_is(root, body, changes, message):
    with pytest.raises(InputError, match=message):
        HumanDataset(replace(OPTIONS, **changes), find_subjects(root), body=body)[0]


def test_no_subjects():
    with pytest.raises(InputError, match="no subject for the split `validation`"):
        HumanDataset(OPTIONS, [], "validation")


def test_a_broken_file_is_named_and_not_replaced(tmp_path, body):
    tiny = TinyCapture(image_size=(77, 64), frames=(5, 10, 15, 20))
    folder = tiny.write(tmp_path / "209001", body)
    for path in folder.glob("images_lr/*/0010_img.jpg"):
        path.write_bytes(path.read_bytes()[:-200])
    dataset = HumanDataset(OPTIONS, find_subjects(folder), body=body)
    with pytest.raises(InputError, match=r"0010_img\.jpg: cannot be read as an image"):
        dataset[0]


def test_moved_cameras_are_never_drawn(tmp_path, body, monkeypatch):
    tiny = TinyCapture(image_size=(77, 64), frames=FRAMES, num_cameras=8)
    tiny.translations[tiny.names[5]] += 400.0
    folder = tiny.write(tmp_path / "209001", body)
    # The images were drawn with the wrong camera too, so move it back in the file only.
    tiny.translations[tiny.names[5]] -= 400.0
    tiny._write_cameras(folder)
    dataset = HumanDataset(OPTIONS, find_subjects(folder), body=body)
    for _ in range(2):  # also when the capture has left the worker's memory and is opened again
        assert tiny.names[5] not in dataset._capture(0).camera_names
        dataset._captures.clear()
        monkeypatch.setattr("core.data.dataset.verify", None)  # done once
