"""Where things are in cropped images, and what their borders look like."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_capture import DOTS, FRONT_LEFT_BACK_RIGHT, TinyCapture

from core.data.calibration import CalibratedCamera
from core.data.crops import FILTER, ImageFiles, Window, center_window, read_window
from core.data.dataset import load_frames
from core.data.readers import open_capture

# Centroids in JPEGs of quality 95 are good to some hundredths of a pixel; half a pixel forgotten, or K halved without
# the pixel centre, shows as 0.06 to 0.5 pixels here.
CENTROID_TOLERANCE = 0.05

SIZES = {
    "24 at a quarter": ("24", (2448, 2048), (612, 512), 256),
    "24 as released": ("24", (2448, 2048), (1224, 1024), 512),
    "24 of odd size": ("24", (2448, 2048), (613, 513), 181),
    "24 decoded at half size, odd": ("24", (2448, 2048), (1225, 1025), 301),
    "24 of odd calibrated size": ("24", (1225, 1023), (613, 511), 255),
    "48 at a quarter": ("48", (4096, 3000), (1024, 750), 300),
    "48 as in 100681": ("48", (4096, 3000), (1398, 1024), 333),
}


@pytest.mark.slow
@pytest.mark.parametrize("crop", ["center", "person"])
@pytest.mark.parametrize("rig, calibrated, size, image_size", SIZES.values(), ids=SIZES.keys())
def test_dots_lie_where_the_cameras_say(rig, calibrated, size, image_size, crop, body, tmp_path):
    tiny = TinyCapture(rig, calibrated, size, frames=(5,), num_cameras=2, content="dots")
    capture = open_capture(tiny.write(tmp_path / "209001", body))
    frames = load_frames(capture, body, [5], tiny.names, tiny.names[0], image_size, crop, check=False)
    for c, name in enumerate(tiny.names):
        camera = DOTS @ tiny.rotations[name].T + tiny.scale * tiny.translations[name] / 1000
        expected = camera @ frames.cameras.Ks[0, c].double().numpy().T
        expected = expected[:, :2] / expected[:, 2:]
        for pixel in expected:
            if (pixel > 12).all() and (pixel < image_size - 12).all():
                found = centroid(frames.images[0, c, 1].numpy(), pixel)
                np.testing.assert_allclose(found, pixel, atol=CENTROID_TOLERANCE)
    visible = ((expected > 12) & (expected < image_size - 12)).all(1)
    assert visible.sum() >= 3


def centroid(channel: np.ndarray, near: np.ndarray, reach: int = 9) -> np.ndarray:
    """Centre of brightness around a pixel, with pixel centres at +0.5."""
    left, top = (np.round(near) - reach).astype(int)
    patch = channel[top : top + 2 * reach, left : left + 2 * reach]
    weights = np.clip(patch - 0.06, 0, None)  # the JPEG's noise far from the dot would pull
    y, x = np.mgrid[: 2 * reach, : 2 * reach] + 0.5
    return np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum() + (left, top)


def test_center_crop_is_the_papers():
    # 100 columns off each side at 1224 x 1024, which is 200 at the calibrated size.
    assert center_window(2448, 2048) == Window(200, 0, 2048)


@pytest.fixture
def files(tmp_path):
    """Write an image and a mask."""

    def write(image: np.ndarray, mask: np.ndarray):
        paths = tmp_path / "image.png", tmp_path / "mask.png"
        for path, array in zip(paths, (image, mask)):
            Image.fromarray(array).save(path)
        return ImageFiles(*paths)

    return write


def camera(width: int, height: int) -> CalibratedCamera:
    """A camera of this size; where it stands does not matter."""
    return CalibratedCamera(torch.eye(4), torch.eye(3), width, height)


@pytest.mark.parametrize("mask_size", [(96, 64), (192, 128), (48, 32), (144, 96)])
def test_border_mixes_person_and_white_only(files, mask_size):
    """A green person on black: every pixel lies on the line from green to white, at its alpha, and nothing is
    darker."""
    x, y = np.meshgrid(*(np.linspace(0, 1, n) for n in (96, 64)))
    disk = (x - 0.5) ** 2 * 2.25 + (y - 0.5) ** 2 < 0.09
    image = np.zeros((64, 96, 3), np.uint8)
    image[...] = (40, 200, 90)
    image[~disk] = 0
    mask = Image.fromarray(np.where(disk, 255, 0).astype(np.uint8)).resize(mask_size, Image.Resampling.BILINEAR)
    rgb, alpha = read_window(files(image, np.asarray(mask)), camera(96, 64), Window(16, 0, 64), 24)
    inside = alpha == 255
    assert 50 < inside.sum() < 300
    np.testing.assert_allclose(rgb[inside], np.broadcast_to((40, 200, 90), rgb[inside].shape), atol=2)
    assert (rgb[alpha == 0] == 255).all()
    if mask_size == (96, 64):
        share = alpha[..., None] / 255
        np.testing.assert_allclose(rgb, share * (40, 200, 90) + (1 - share) * 255, atol=2)


@pytest.mark.parametrize("window, box", [(Window(0, 0, 64), (0, 0, 64, 64)), (Window(3, 1, 60), (3, 1, 63, 61))])
def test_every_window_is_resampled_by_the_same_filter(files, window, box):
    """A checkpoint sees images as sharp as those it was trained on, also where a window is a whole multiple."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    mask = np.pad(image[1:-1, 1:-1, 0], 1)  # a light border is one of an inverted mask
    rgb, alpha = read_window(files(image, mask), camera(64, 64), window, 16)
    share = mask[..., None] / 255
    composed = (share * image + (1 - share) * 255).round().astype(np.uint8)
    expected = Image.fromarray(composed).crop(box).resize((16, 16), FILTER)
    np.testing.assert_allclose(rgb.astype(float), np.asarray(expected), atol=1)
    np.testing.assert_array_equal(alpha, Image.fromarray(mask).crop(box).resize((16, 16), FILTER))


@pytest.mark.parametrize("mask_size", [(96, 64), (192, 128), (60, 40)])
def test_mask_of_another_size_is_scaled_by_its_own(files, mask_size):
    """The window of the mask is the same part of the scene as that of the image."""
    mask = np.zeros(mask_size[::-1], np.uint8)
    mask[: mask_size[1] // 2, : mask_size[0] // 2] = 255  # the upper left quarter
    _, alpha = read_window(files(np.zeros((64, 96, 3), np.uint8), mask), camera(96, 64), Window(16, 0, 64), 64)
    assert alpha[:31, :31].min() == 255 and alpha[33:].max() == 0 and alpha[:, 33:].max() == 0


def test_outside_of_the_picture_is_white(files):
    paths = files(np.full((64, 96, 3), 9, np.uint8), np.full((64, 96), 255, np.uint8))
    rgb, alpha = read_window(paths, camera(96, 64), Window(-32.0, -32.0, 64.0), 64)
    assert (alpha[:32] == 0).all() and (rgb[:32] == 255).all() and (rgb[:, :32] == 255).all()
    assert (alpha[32:, 32:] == 255).all() and (rgb[32:, 32:] == 9).all()


def test_masks_of_zero_and_one(files):
    _, alpha = read_window(
        files(np.zeros((64, 96, 3), np.uint8), np.ones((64, 96), np.uint8)), camera(96, 64), Window(0, 0, 64), 32
    )
    assert (alpha == 255).all()


def test_person_crop_holds_the_body(body, tmp_path):
    tiny = TinyCapture(image_size=(306, 256), frames=(5,), num_cameras=4)
    capture = open_capture(tiny.write(tmp_path / "209001", body))
    args = (capture, body, [5], list(FRONT_LEFT_BACK_RIGHT), FRONT_LEFT_BACK_RIGHT[0], 64)
    for crop, low, high in (("center", 0.4, 0.8), ("person", 0.8, 0.92)):
        rows = load_frames(*args, crop).alphas[0, :, 0].amax(-1) > 0.5
        height = rows.float().mean(-1)
        assert (height > low).all() and (height < high).all()
        assert not rows[:, 0].any() and not rows[:, -1].any()
