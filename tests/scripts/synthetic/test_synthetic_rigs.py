"""Positions of synthetic cameras, and their records in calibration files."""

import numpy as np
import pytest
import torch

from scripts.synthetic.rigs import INPUT_VIEWS_24, make_rig


@pytest.fixture(params=["24", "48"])
def rig(request):
    size = {"24": (1224, 1024), "48": (2048, 1500)}[request.param]
    return make_rig(request.param, *size, np.random.default_rng(3))


def test_files_describe_the_same_cameras(rig):
    """The formula of MVHumanNet, x = R X + s t / 1000, with K scaled to the size of the images."""
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * 0.4
    pixels, depths = rig.cameras().project(points)
    K = rig.intrinsics * np.array([[0.5], [0.5], [1.0]])
    # Pixel centres: on integers at full size, at +0.5 here.
    K[:2, 2] += 0.25
    for name, key in zip(rig.names, rig.keys):
        record = rig.extrinsics(long_center=False)[key]
        assert key.rsplit("_", 1)[1] == f"{name}.png"
        in_camera = points.numpy() @ np.array(record["rotation"]).T
        in_camera += rig.camera_scale * np.array(record["translation"]) / 1000
        projected = in_camera @ K.T
        index = rig.names.index(name)
        np.testing.assert_allclose(projected[:, :2] / projected[:, 2:], pixels[index], atol=2e-3)
        np.testing.assert_allclose(in_camera[:, 2], depths[index], atol=1e-5)


def test_extrinsic_fields_agree_with_each_other(rig):
    records = rig.extrinsics(long_center=True)
    assert list(records) == sorted(records)
    for record in records.values():
        R, t = np.array(record["rotation"]), np.array(record["translation"])
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(R) > 0
        np.testing.assert_allclose(record["camera_pos"], -R.T @ t, atol=1e-9)
        w, x, y, z = record["quaternion"]
        first_row = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
        np.testing.assert_allclose(R[0], first_row, atol=1e-9)
        assert record["focal_length"] == [rig.focal, rig.focal]
        assert record["image_center"] == [(rig.width - 1) / 2, (rig.height - 1) / 2, rig.width, rig.height]


def test_the_ring_of_rig_24():
    rig = make_rig("24", 612, 512, np.random.default_rng(0))
    assert len(rig.names) == len(set(rig.names)) == 16
    assert rig.camera_scale == 100 / 65
    assert (rig.width, rig.height) == (1224, 1024)
    assert rig.focal == pytest.approx(1121, rel=1e-3)
    assert {key[:4] for key in rig.keys} == {"0_0_", "0_1_"}
    centers = rig.cameras().centers.numpy()
    radius, height = np.hypot(centers[:, 0], centers[:, 1]), -centers[:, 2]
    assert radius.min() >= 1.97 and radius.max() <= 2.12
    assert height.min() >= 1.53 and height.max() <= 1.56
    pitch = np.rad2deg(np.arcsin(rig.rotations[:, 2, 2]))
    assert pitch.min() >= 16.9 and pitch.max() <= 19.1
    azimuth = np.rad2deg(np.arctan2(centers[:, 1], centers[:, 0]))
    inputs = [azimuth[rig.names.index(name)] for name in INPUT_VIEWS_24]
    np.testing.assert_allclose(inputs, [-17.6, -110.3, 159.1, 70.9], atol=1e-3)
    # The top of the image is up, which is -z.
    assert (rig.rotations[:, 1, 2] > 0.9).all()


def test_the_rings_of_rig_48():
    rig = make_rig("48", 2048, 1500, np.random.default_rng(0))
    assert len(rig.names) == len(set(rig.names)) == 48
    assert rig.camera_scale == 120 / 65
    assert rig.focal == pytest.approx(2365.44, rel=1e-3)
    assert all(key.startswith("1_CC32871A0") for key in rig.keys)
    centers = rig.cameras().centers.numpy().reshape(3, 16, 3)
    np.testing.assert_allclose(-centers[..., 2].mean(1), [1.11, 1.59, 2.07], atol=0.02)
    faced = centers[1, 8]
    assert rig.names[24] == "CC32871A059"
    assert np.rad2deg(np.arctan2(faced[1], faced[0])) == pytest.approx(3, abs=3)


def test_fewer_cameras_keep_the_input_views():
    rig = make_rig("24", 612, 512, np.random.default_rng(0), num_cameras=6)
    assert rig.names[:4] == INPUT_VIEWS_24
    assert len(set(rig.names)) == 6
