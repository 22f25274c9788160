"""Captures of one still camera: the turn, the framing, and the room behind the subject."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial import Delaunay

from scripts.synthetic import CaptureOptions, default_frames, write_capture
from scripts.synthetic.fabrics import Fabric
from scripts.synthetic.fits import body_params
from scripts.synthetic.options import BACKGROUNDS
from scripts.synthetic.people import sample_person
from scripts.synthetic.rigs import make_rig
from scripts.synthetic.rooms import Block, draw_room, sample_room
from scripts.synthetic.seeding import random_stream
from scripts.synthetic.staging import capture_rig, draw_images, stage
from scripts.synthetic.turn import sample_turn

FRAMES = default_frames(8, "phone")
OPTIONS = CaptureOptions(rig="phone", frames=FRAMES, width=72, height=128, background="clutter", smpl_param=False)
CPU = torch.device("cpu")


def posed_people(body, indices=range(6)):
    """Posed bodies [F] and cameras of some people that turn."""
    for index in indices:
        person = sample_person(body, OPTIONS.seed, OPTIONS.split, index)
        rig = capture_rig(index, OPTIONS)
        turn = sample_turn(random_stream(OPTIONS.seed, OPTIONS.split, index, "turn"), FRAMES)
        with torch.no_grad():
            yield body(body_params(body, person, turn, FRAMES, rig.front_azimuth)), rig


def test_frames_are_spread_over_one_turn():
    assert FRAMES == (5, 30, 55, 80, 105, 130, 155, 180)
    assert len(default_frames(60, "phone")) == 60 and default_frames(60, "phone")[:2] == (5, 10)
    assert default_frames(1, "phone") == (5,)


def test_subjects_turn_once_and_start_facing_the_camera(body):
    for posed, rig in posed_people(body):
        across = posed.joints[:, 1] - posed.joints[:, 2]  # from the right to the left hip
        azimuth = torch.rad2deg(torch.atan2(across[:, 1], across[:, 0])) + 90 - rig.front_azimuth
        turned = np.unwrap(azimuth.numpy(), period=360)
        assert abs((turned[0] + 180) % 360 - 180) < 8
        steps = np.diff(turned)
        assert (np.abs(steps - np.sign(steps[0]) * 45) < 12).all()  # 8 frames; the pelvis sways
        assert abs(abs(turned[-1] - turned[0]) - 7 * 45) < 12


def test_subjects_stay_in_the_image(body):
    heights = []
    for posed, rig in posed_people(body, range(12)):
        pixels, depths = rig.cameras()[:1].project(posed.vertices.reshape(1, -1, 3))
        assert depths.min() > 0.8
        low, high = pixels[0].amin(0), pixels[0].amax(0)
        assert (low > 0).all() and high[0] < 72 and high[1] < 128
        heights.append((high[1] - low[1]) / 128)
    assert 0.5 < np.mean(heights) < 0.85


@pytest.mark.slow
@pytest.mark.parametrize("background", ["plain", "clutter"])
def test_the_room_is_the_same_in_all_frames(body, background):
    options = replace(OPTIONS, background=background, camera_noise=False, soft_masks=False)
    staged = stage(3, options, body)
    images, masks = zip(*(next(draw_images(staged, frame, options))[1:] for frame in FRAMES))
    images, masks = np.concatenate(images), np.concatenate(masks)
    free = (masks == 0).all(0)
    free[84:] = False  # the subject's shadow on the floor follows the feet
    assert free.mean() > 0.3 and (images[:, free] == images[0, free]).all()
    # The room fills the image, and furniture is visible.
    assert (images[0].max(-1) > 3).all()
    assert images[0, free].std(0).max() > (12 if background == "clutter" else 2)
    black = next(draw_images(replace(staged, backdrops={}), FRAMES[0], replace(options, background="black")))[1][0]
    assert (black[free] == 0).all() and (black[masks[0] == 255] == images[0][masks[0] == 255]).all()


@pytest.mark.parametrize("kind", ["phone", "24"])
def test_floors_are_where_cameras_see_them(body, kind):
    """Floor points of a backdrop project back to the pixels that show them; all cameras are inside of the room."""
    rng, rig = np.random.default_rng(1), make_rig(kind, 48, 40, np.random.default_rng(0))
    light = sample_person(body, 0, "train", 0).light
    room = sample_room(rng, "train", light, rig, furnished=True)
    for i, backdrop in enumerate(draw_room(room, rig, 1, CPU).values()):
        assert backdrop.colors.isfinite().all()
        row, column = torch.nonzero(backdrop.floor[..., 0].isfinite(), as_tuple=True)
        assert len(row) > 40
        places = torch.nn.functional.pad(backdrop.floor[row, column], (0, 1))  # the floor is z = 0
        pixels, depths = rig.cameras()[i].project(places)
        assert (depths > 0.3).all()
        # A rug is 6 mm thick.
        torch.testing.assert_close(pixels, torch.stack([column, row], -1) + 0.5, rtol=0, atol=0.3)
    centers = rig.cameras().centers
    forward = torch.tensor([np.cos(room.azimuth), np.sin(room.azimuth)], dtype=torch.float32)
    reach = centers[:, :2] @ forward
    assert (reach > room.low[0]).all() and (reach < room.high[0]).all()


def test_a_block_hides_what_is_behind_it(body):
    """Each face of a box in an empty room is seen exactly where its projected outline is."""
    rig = make_rig("phone", 36, 64, np.random.default_rng(0))
    light = sample_person(body, 0, "train", 0).light
    empty = sample_room(np.random.default_rng(1), "train", light, rig, furnished=False)
    block = Block((0.1, -0.3, 0.4), (0.5, 0.2, 1.3), Fabric("plain", ((0.9, 0.0, 0.0),) * 3))
    views = [draw_room(replace(empty, blocks=blocks), rig, 1, CPU)["phone"].colors for blocks in ((), (block,))]
    changed = (views[0] != views[1]).any(-1)
    corners = torch.tensor([[u, v, h] for u in (0.1, 0.5) for v in (-0.3, 0.2) for h in (0.4, 1.3)])
    azimuth = torch.tensor(empty.azimuth)
    forward = torch.stack([azimuth.cos(), azimuth.sin(), torch.zeros(())]).float()
    right = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]), forward)
    world = corners[:, :1] * forward + corners[:, 1:2] * right - corners[:, 2:] * torch.tensor([0.0, 0.0, 1.0])
    pixels, _ = rig.cameras()[0].project(world)
    row, column = np.indices((64, 36))
    inside = Delaunay(pixels.numpy()).find_simplex(np.stack([column, row], -1) + 0.5) >= 0
    assert inside.sum() > 50 and np.array_equal(changed.numpy(), inside)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(body, tmp_path):
    for name in ("a", "b"):
        write_capture(tmp_path / name, 2, OPTIONS, body=body)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert Path("images_lr/phone/0005_img.jpg") in files and len(files) == 4 + 3 * len(FRAMES)
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    assert Image.open(tmp_path / "a/images_lr/phone/0005_img.jpg").size == (72, 128)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_records_give_the_options_back(background):
    options = replace(OPTIONS, background=background)
    assert CaptureOptions.from_record(json.loads(json.dumps(options.record()))) == options


def test_records_of_earlier_versions_are_equal():
    """Captures and benchmarks made before rooms existed store the background as a truth value."""
    assert CaptureOptions().record()["background"] is True
    assert CaptureOptions(background="black").record()["background"] is False
    assert CaptureOptions.from_record({"frames": [5], "background": False}).background == "black"
