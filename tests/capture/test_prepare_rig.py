"""The pipeline on rigs of several cameras, with drawn people; a stub stands in for the networks."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn_captures import (
    draw_rig,
    prepare,
    read,
    rig_cameras,
    silhouettes,
    stored_bodies,
    stored_cameras,
    world_person,
)
from drawn_person import FOCAL, TrueFit
from PIL import Image

from core.capture.bodies import turned_bodies
from core.capture.options import PrepareOptions


@pytest.mark.slow
def test_four_calibrated_cameras(tmp_path, body):
    frames = draw_rig(body, tmp_path / "rig", lambda frame: [world_person(0.5 * frame)])
    capture, quality = read(prepare(frames, tmp_path / "rig", tmp_path / "out", PrepareOptions(frames=3, device="cpu")))
    assert capture["up"] == "+z" and list(capture["cameras"]) == ["cam1", "cam2", "cam3", "cam4"]
    assert len(capture["frames"]) == 3 and all(len(frame["images"]) == 4 for frame in capture["frames"])
    assert all(frame["mask_iou"] > 0.93 for frame in quality["frames"])


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [0.0, 4.0])
def test_a_wrong_calibration_is_reported(tmp_path, body, degrees):
    """One of four cameras turned by some degrees."""
    frames = draw_rig(body, tmp_path / "rig", lambda frame: [world_person(0.5 * frame)])
    path = tmp_path / "rig" / "cameras" / "capture.json"
    content = json.loads(path.read_text())
    camera = content["cameras"]["cam2"]
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(a := np.deg2rad(degrees)), -np.sin(a)], [np.sin(a), np.cos(a)]]
    turn[0, 3] = 0.05 * degrees
    camera["T_cam_world"] = (turn @ camera["T_cam_world"]).tolist()
    path.write_text(json.dumps(content))
    options = PrepareOptions(frames=2, device="cpu")
    _, quality = read(prepare(frames, tmp_path / "rig", tmp_path / "out", options))
    assert any("contradict each other" in warning for warning in quality["warnings"]) == (degrees > 0)


@pytest.mark.slow
def test_48_cameras(tmp_path, body):
    """All are matched, read and stored; the overlay sheet shows some of them."""
    frames = draw_rig(body, tmp_path / "rig", lambda frame: [world_person(0.5)], num_frames=1, count=48)
    out = prepare(frames, tmp_path / "rig", tmp_path / "out", PrepareOptions(frames=1, device="cpu"))
    capture, quality = read(out)
    assert list(capture["cameras"]) == [f"cam{i + 1}" for i in range(48)]
    assert len(capture["frames"]) == 1 and len(capture["frames"][0]["images"]) == 48
    assert quality["frames"][0]["mask_iou"] > 0.93
    drawn = silhouettes(stored_bodies(out, capture), body, stored_cameras(capture))[0]
    masks = capture["frames"][0]["masks"]
    for name, silhouette in zip(capture["cameras"], drawn):
        mask = np.asarray(Image.open(out / masks[name])) > 127
        assert (mask & silhouette).sum() / (mask | silhouette).sum() > 0.9, name


@pytest.mark.slow
def test_the_same_person_is_taken_in_all_cameras(tmp_path, body):
    """Each of two people is the larger one in half of the cameras."""
    two_people = [world_person(0.5, x=0.6, y=0.6), world_person(2.0, x=-0.6, y=-0.6)]
    frames = draw_rig(body, tmp_path / "rig", lambda frame: two_people)
    for person in (1, 2):
        options = PrepareOptions(frames=2, device="cpu", person=person)
        out = prepare(frames, tmp_path / "rig", tmp_path / f"out{person}", options)
        capture, quality = read(out)
        x = stored_bodies(out, capture).transl[:, 0]
        assert np.ptp(x.numpy()) < 0.01 and abs(float(x[0])) == pytest.approx(0.6, abs=0.01)
        # Masks of all cameras are of that person: the fit overlaps with them.
        assert all(frame["mask_iou"] > 0.85 for frame in quality["frames"])


@pytest.mark.slow
def test_a_calibration_in_millimetres_is_scaled(tmp_path, body):
    frames = draw_rig(body, tmp_path / "rig", lambda frame: [world_person(0.5 * frame)], units=1000.0)
    fit = TrueFit(frames)
    options = PrepareOptions(frames=3, device="cpu", height=1.70)
    _, quality = read(prepare(frames, tmp_path / "rig", tmp_path / "out", options, fit=fit))
    assert any("scale:" in note for note in quality["notes"])
    centers = np.linalg.inv(fit.calls[0][0].viewmats.numpy())[:, :3, 3]
    # Limbs of the drawn body give its height within some per cent.
    np.testing.assert_allclose(np.linalg.norm(centers, axis=1), np.hypot(3.6, 0.2), rtol=0.05)


@pytest.mark.slow
def test_cameras_without_calibration_are_solved(tmp_path, body):
    frames = draw_rig(body, tmp_path / "rig", lambda frame: [world_person(0.5 * frame)])
    (tmp_path / "rig" / "cameras" / "capture.json").rename(tmp_path / "capture.json")
    options = PrepareOptions(frames=3, focal=FOCAL, height=1.70, device="cpu")
    drawn, T = TrueFit(frames), rig_cameras()["cam1"]

    def fit(*args):  # the world is that of the first camera
        result = drawn(*args)
        return replace(result, params=turned_bodies(result.params, body, T[:3, :3], T[:3, 3]).to(torch.float32))

    _, quality = read(prepare(frames, tmp_path / "rig", tmp_path / "out", options, fit=fit))
    assert any("solved from the person's landmarks" in note for note in quality["notes"])
    centers = np.linalg.inv(drawn.calls[0][0].viewmats.numpy())[:, :3, 3]
    true = np.linalg.inv(np.stack(list(rig_cameras().values())))[:, :3, 3]

    def distances(points):
        return np.linalg.norm(points[:, None] - points, axis=-1)

    # The scale is that of the body height, which limbs of the drawn body give within some per cent.
    np.testing.assert_allclose(distances(centers), distances(true), rtol=0.05)
