"""Captures in which something is missing or wrong in some images: the rest is used, and the fault is named."""

import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bent_captures import Bends, edit, images, masks, pixels, write_sound
from PIL import Image
from tiny_capture import TinyCapture

from core.data.dataset import HumanDataset, load_frames
from core.data.human_list import HumanEntry
from core.data.packing import pack_dataset
from core.data.protocol import PROTOCOLS, ResolvedProtocol, resolve
from core.data.readers import open_capture
from core.data.verification import verify
from core.options import DataOptions
from smpl_renderer.errors import InputError

RIG = TinyCapture(calibrated=(306, 256), image_size=(153, 128), num_cameras=6, frames=(5, 10, 15, 20))
NAMES = sorted(RIG.names)
FIRST = NAMES[0]
lacking, refused = Bends(), Bends()


def select(paths: list[Path], camera: str | None = None, frame: int | None = None) -> list[Path]:
    """Files of a camera, or of a frame."""
    return [
        path
        for path in paths
        if camera in (None, path.parent.name) and frame in (None, int(re.match(r"\d+", path.name)[0]))
    ]


def fill(mask: Path, value: int) -> None:
    Image.new("L", Image.open(mask).size, value).save(mask)


def add_person(mask: Path) -> None:
    """Copy the person beside itself."""
    person = pixels(mask)
    columns = np.flatnonzero((person > 127).any(0))
    width = columns.max() - columns.min() + 4
    shift = width if columns.max() + width < person.shape[1] else -width
    Image.fromarray(np.maximum(person, np.roll(person, shift, 1))).save(mask)


def edit_fits(folder: Path, indices: list[int], change: Callable[[dict], object]) -> None:
    for index in indices:
        path = folder / "smpl_param" / f"{index:06d}.pkl"
        fit = pickle.loads(path.read_bytes())
        change(fit)
        path.write_bytes(pickle.dumps(fit, 4))


def fill_joints(value: float) -> Callable[[dict], object]:
    return lambda fit: fit.update(joints=torch.full_like(fit["joints"], value), vertices=None)


def exchange(folder: Path, *names: str) -> None:
    """Move each folder to the name of the next."""
    for kind in ("images_lr", "fmask_lr"):
        for name in names:
            (folder / kind / name).rename(folder / kind / f"old {name}")
        for name, other in zip(names, [*names[1:], names[0]]):
            (folder / kind / f"old {name}").rename(folder / kind / other)


# Expected: cameras and frames that are left, and what the log names.


@lacking((NAMES[1:], [5, 10, 15, 20], f"cameras {FIRST} have no frame with both image and mask"))
def no_images_of_one_camera(folder):
    for path in select(images(folder), FIRST):
        path.unlink()


@lacking((NAMES[1:], [5, 10, 15, 20], f"cameras {FIRST} have no frame with both image and mask"))
def no_masks_of_one_camera(folder):
    for path in select(masks(folder), FIRST):
        path.unlink()


@lacking((NAMES, [10, 15, 20], ""))
def no_masks_of_one_frame(folder):
    for path in select(masks(folder), frame=5):
        path.unlink()


@lacking((NAMES, [5, 15, 20], ""))
def no_fit_of_one_frame(folder):
    (folder / "smpl_param/000001.pkl").unlink()


@lacking((NAMES, [5, 15, 20], "frame 0010 is left out: .*000001.pkl: `joints` of the fit holds NaN"))
def fit_of_nan(folder):
    edit_fits(folder, [1], fill_joints(float("nan")))


@lacking((NAMES, [10, 15, 20], "frame 0005 is left out: .*000000.pkl: `transl` of the fit reaches 1e.20"))
def absurd_fit_of_the_first_frame(folder):
    edit_fits(folder, [0], fill_joints(1e20))


@lacking((NAMES, [5, 15, 20], "frame 0010 of camera .* is left out: its mask does not meet the fit"))
def fit_elsewhere(folder):
    edit_fits(folder, [1], lambda fit: fit.update(joints=fit["joints"] + 0.8, vertices=None))


@lacking((NAMES, [10, 15, 20], "frame 0005 of camera .* is left out: its mask is empty"))
def empty_masks_of_one_frame(folder):
    for path in select(masks(folder), frame=5):
        fill(path, 0)


@lacking((NAMES, [5, 10], "frame 0015 of camera .* is left out: its mask is empty"))
def empty_masks_of_half_of_the_frames(folder):
    for path in select(masks(folder), frame=15) + select(masks(folder), frame=20):
        fill(path, 0)


@lacking((NAMES, [5, 10, 15], "frame 0020 of camera .* is left out: its mask covers the whole image"))
def full_masks_of_one_frame(folder):
    for path in select(masks(folder), frame=20):
        fill(path, 255)


@lacking((NAMES[1:], [5, 10, 15, 20], f"camera {FIRST} is left out: "))
def empty_masks_of_one_camera(folder):
    for path in select(masks(folder), FIRST):
        fill(path, 0)


@lacking((NAMES[1:], [5, 10, 15, 20], f"camera {FIRST} is left out: in most frames its mask holds a second person"))
def second_person_in_one_camera(folder):
    for path in select(masks(folder), FIRST):
        add_person(path)


@lacking((NAMES, [5, 15, 20], f"frame 0010 of camera {FIRST} is left out: its mask holds a second person"))
def second_person_in_one_image(folder):
    add_person(*select(masks(folder), FIRST, 10))


@lacking((NAMES[2:], [5, 10, 15, 20], f"camera {FIRST} is left out: .* in camera {NAMES[1]} .*name exchanged"))
def names_of_two_cameras_exchanged(folder):
    exchange(folder, *NAMES[:2])


@lacking((NAMES[:1] + NAMES[2:], [5, 10, 15, 20], f"camera {NAMES[1]} is left out: .*was it moved"))
def one_camera_moved(folder):
    def move(records):
        key = next(key for key in records if NAMES[1] in key)
        records[key]["translation"][0] += 300

    edit(folder / "camera_extrinsics.json", move)


@refused("in most cameras, the image of frame 0015 cannot be used: its mask holds a second person")
def second_person_in_all_cameras(folder):
    for path in masks(folder):
        add_person(path)


@refused("in most cameras, the image of frame 0015 cannot be used: its mask is empty")
def empty_masks(folder):
    for path in masks(folder):
        fill(path, 0)


@refused("in most cameras, the image of frame 0015 cannot be used: its mask covers the whole image")
def full_masks(folder):
    for path in masks(folder):
        fill(path, 255)


@refused(r"00000\d.pkl: `joints` of the fit holds NaN")
def no_fit_without_nan(folder):
    edit_fits(folder, [0, 1, 2, 3], fill_joints(float("nan")))


@refused(
    r"no images: images_lr/<camera> holds no <FFFF>_img.jpg but IMG_0005.png, .* \(24 masks and 4 fits are there\)"
)
def other_names_of_images(folder):
    for path in images(folder):
        path.rename(path.with_name(f"IMG_{path.name[:4]}.png"))


@refused(r"no masks: there is no folder fmask_lr/<camera> .*for instance fmask_lr/\d+\), and the images have no alpha")
def no_masks(folder):
    shutil.rmtree(folder / "fmask_lr")


@refused("no images: images_lr/<camera> holds no <FFFF>_img.jpg .24 masks and 4 fits are there")
def no_images(folder):
    for path in images(folder):
        path.unlink()


@refused("fmask_lr/.*: two files of frame 0005, 0005.png and 0005_img_fmask.png; keep one of them")
def two_masks_of_a_frame(folder):
    shutil.copy(masks(folder)[0], masks(folder)[0].with_name("0005.png"))


@refused("images_lr/.*: two files of frame 0005, 0005_img.jpg and 0005_img.png; keep one of them")
def two_images_of_a_frame(folder):
    Image.open(images(folder)[0]).save(images(folder)[0].with_suffix(".jpg"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory, body):
    return write_sound(tmp_path_factory.mktemp("sound") / "209001", body, RIG)


@pytest.fixture
def folder(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "captures/209001"))


def use(folder: Path, body) -> ResolvedProtocol:
    """What inference does with a capture: cameras and frames of the plan."""
    capture = open_capture(folder)
    verify(capture, body)
    plan = resolve(PROTOCOLS["quick"], capture, body)
    frames = plan.observed_frames + plan.novel_frames
    load_frames(capture, body, frames, plan.input_views + plan.target_views, plan.input_views[0], 16, "person")
    return plan


@pytest.mark.slow
@pytest.mark.parametrize("name", lacking)
def test_the_rest_is_used(folder, body, caplog, name):
    bend, (cameras, frames, message) = lacking[name]
    bend(folder)
    plan = use(folder, body)
    assert sorted(plan.input_views + plan.target_views) == cameras
    assert sorted(plan.observed_frames + plan.novel_frames) == frames
    assert re.search(message, caplog.text)


@pytest.mark.slow
@pytest.mark.parametrize("name", refused)
def test_too_little_is_left(folder, body, name):
    bend, message = refused[name]
    bend(folder)
    with pytest.raises(InputError, match=message) as error:
        use(folder, body)
    assert "\n" not in str(error.value) and str(folder) in str(error.value) and "delete" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["fit of nan", "absurd fit of the first frame", "second person in one camera", "empty masks of one frame"]
)
def test_training_draws_from_the_rest(folder, body, caplog, name):
    """Samples do not depend on what was read before, so that resumed runs draw the same."""
    bend, (_, frames, message) = lacking[name]
    bend(folder)
    options = DataOptions(image_size=16, input_frames=2, target_frames=2, novel_frames=1, target_views=5)
    dataset = HumanDataset(options, [HumanEntry(folder)], body=body)
    samples = [dataset.sample(epoch, 0) for epoch in range(6)]
    assert re.search(message, caplog.text)
    drawn = {int(frame) for sample in samples for frame in sample.names[0].split("/")[1].split(",")}
    assert drawn <= set(frames)
    for epoch, sample in enumerate(samples):
        fresh = HumanDataset(options, [HumanEntry(folder)], body=body).sample(epoch, 0)
        assert fresh.names == sample.names and torch.equal(fresh.targets.images, sample.targets.images)


def test_packed_copies_lack_frames_without_a_usable_fit(folder, body, tmp_path, caplog):
    bend, (_, frames, message) = lacking["fit of nan"]
    bend(folder)
    pack_dataset([HumanEntry(folder)], tmp_path / "packed", 64)
    assert re.search(message, caplog.text)
    assert open_capture(tmp_path / "packed/209001").complete_frames(NAMES) == frames
