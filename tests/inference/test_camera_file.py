"""Camera paths from JSON files."""

import json

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from core.inference.camera_file import read_camera_path, write_camera_path
from core.types.cameras import look_at
from smpl_renderer.errors import InputError

K = [[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]


def record(eye, target=(0.0, 1.0, 0.0), up=(0.0, 1.0, 0.0), **changes):
    viewmat = look_at(*(torch.tensor(x, dtype=torch.float64) for x in (eye, target, up)))
    return {"K": K, "width": 320, "height": 240, "T_cam_world": viewmat.tolist()} | changes


def write(path, cameras, **content):
    path.write_text(json.dumps({"cameras": cameras, **content}))
    return path


def test_one_camera_stays_and_several_are_passed(tmp_path):
    still = read_camera_path(write(tmp_path / "a.json", [record((0, 1, 3))]), 4)
    assert (still.width, still.height) == (320, 240) and (still.viewmats == still.viewmats[0]).all()
    moving = read_camera_path(write(tmp_path / "b.json", [record((0, 1, 3)), record((3, 1, 0))]), 5)
    torch.testing.assert_close(moving.centers, torch.tensor([[0.75 * i, 1, 3 - 0.75 * i] for i in range(5)]))
    middle = torch.nn.functional.normalize(torch.tensor([-1.0, 0, -1]), dim=0)
    torch.testing.assert_close(moving.viewmats[2, 2, :3], middle)  # half of the turn of 90 degrees
    exact = read_camera_path(write(tmp_path / "c.json", {"x": record((0, 1, 3)), "y": record((3, 1, 0))}), 2)
    torch.testing.assert_close(exact.viewmats, moving.viewmats[[0, 4]])


def test_a_world_with_z_up_shows_the_same(tmp_path):
    """Points of the y-up world project as the same points do in the file's own world."""
    camera = record((0, -3, 1), target=(0.0, 0.0, 1.0), up=(0.0, 0.0, 1.0))
    cameras = read_camera_path(write(tmp_path / "a.json", [camera], up="+z"), 1)
    point = np.array([0.3, -0.2, 1.5])
    ours = torch.tensor([[[0.3, 1.5, 0.2]]])
    seen = np.array(camera["T_cam_world"]) @ [*point, 1]
    pixels, depths = cameras.project(ours)
    np.testing.assert_allclose(pixels[0, 0], (np.array(K) @ seen[:3])[:2] / seen[2], atol=1e-3)
    assert depths[0, 0].item() == pytest.approx(seen[2], abs=1e-5)


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        ([], "1 to"),
        ([record((0, 1, 3), K=[[1, 2], [3, 4]])], "K"),
        ([record((0, 1, 3), T_cam_world=(2 * np.eye(4)).tolist())], "rigid"),
        ([record((0, 1, 3)), record((0, 1, 3), width=100)], "same"),
        ([{"K": K}], "lacks"),
    ],
)
def test_other_files_are_refused(tmp_path, cameras, message):
    with pytest.raises(InputError, match=message):
        read_camera_path(write(tmp_path / "a.json", cameras), 3)
    with pytest.raises(InputError, match=r"missing\.json: no such file"):
        read_camera_path(tmp_path / "missing.json", 3)


def test_turns_go_along_arcs(tmp_path):
    """Cameras a quarter turn apart about their own axis."""
    a = record((0, 1, 3))
    roll = np.eye(4)
    roll[:3, :3] = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    b = a | {"T_cam_world": (roll @ np.array(a["T_cam_world"])).tolist()}
    cameras = read_camera_path(write(tmp_path / "a.json", [a, b]), 4)
    relative = cameras.viewmats[1:, :3, :3] @ cameras.viewmats[:-1, :3, :3].mT
    angles = np.degrees(Rotation.from_matrix(relative.numpy()).magnitude())
    np.testing.assert_allclose(angles, 30, atol=1e-3)


def test_written_paths_are_read_again(tmp_path):
    cameras = read_camera_path(write(tmp_path / "a.json", [record((0, 1, 3)), record((3, 1, 0))]), 3)
    write_camera_path(tmp_path / "b.json", cameras)
    again = read_camera_path(tmp_path / "b.json", 3)
    assert torch.equal(again.viewmats, cameras.viewmats) and torch.equal(again.Ks, cameras.Ks)
    assert (again.width, again.height) == (320, 240)
