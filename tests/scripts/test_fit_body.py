"""Bodies fitted to the shipped captures, whose own fits are exact, and to people drawn in MVHumanNet's layout."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData

from core.capture.landmarks import NUM_LANDMARKS, Landmarks
from core.capture.networks import Person
from core.capture.refit import RefitOptions, refit_subject, spread_cameras
from core.data.fits import posed_vertices
from core.data.readers import open_capture
from core.data.refit_files import refit_path, write_refit
from scripts.fit_body import main
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY
from smpl_renderer.fitting.landmarks import landmark_table
from smpl_renderer.fitting.point_model import PointModel, Pose
from smpl_renderer.types import BodyParams

pytestmark = pytest.mark.usefixtures("one_thread")

SHIPPED = REPOSITORY / "test_dataset/209903"
OPTIONS = RefitOptions(frames=(155, 305), cameras=3, steps=0.2, device="cpu")


@pytest.fixture
def subject(tmp_path) -> Path:
    """A copy of a shipped capture without fits."""
    folder = tmp_path / "209903"
    folder.mkdir()
    for path in SHIPPED.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
        elif path.name in ("images_lr", "fmask_lr"):
            (folder / path.name).symlink_to(path)
    return folder


def give_fits(folder: Path, frames, noise: float = 0.0) -> None:
    rng = torch.Generator().manual_seed(0)
    for frame in frames:
        params = open_capture(SHIPPED).fit(frame)
        pose = params.body_pose + noise * torch.randn(69, generator=rng, dtype=torch.float64)
        write_refit(folder, frame, replace(params, body_pose=pose))


def errors(folder: Path, body, frames) -> list[float]:
    """Mean vertex error of each frame in millimetres, as read by the reader of captures."""
    fitted, true = open_capture(folder), open_capture(SHIPPED)
    return [
        1000 * float((posed_vertices(fitted.fit(f), body) - posed_vertices(true.fit(f), body)).norm(dim=-1).mean())
        for f in frames
    ]


@pytest.mark.slow
def test_perturbed_fits_are_refined(subject, body):
    give_fits(subject, OPTIONS.frames, noise=0.08)
    before = errors(subject, body, OPTIONS.frames)
    report = refit_subject(subject, replace(OPTIONS, redo=True))
    after = errors(subject, body, OPTIONS.frames)
    assert report.written == [155, 305] and not report.failed and min(report.ious) > 0.75
    assert max(after) < 25 and max(after) < 0.8 * min(before)
    for frame in OPTIONS.frames:
        points = PlyData.read(refit_path(subject, frame).with_suffix(".ply"))["vertex"]
        x, z, minus_y = (np.asarray(points[axis]) for axis in ("x", "y", "z"))
        expected = posed_vertices(open_capture(subject).fit(frame), body)
        np.testing.assert_allclose(np.stack([x, -minus_y, z], -1), expected, atol=2e-5)
        record = json.loads(refit_path(subject, frame).read_text())
        assert np.shape(record["pose"]) == (1, 72) and np.shape(record["betas"]) == (1, 10)
        assert np.shape(record["translation"]) == (3,) and isinstance(record["scale"], float)


def test_missing_frames_start_from_their_neighbours_and_runs_resume(subject, body):
    give_fits(subject, [155])
    first = refit_subject(subject, OPTIONS)
    assert first.skipped == [155] and first.written == [305]
    assert errors(subject, body, [155]) == [pytest.approx(0, abs=1e-3)]  # not touched
    stamp = refit_path(subject, 305).stat().st_mtime_ns
    again = refit_subject(subject, OPTIONS)
    assert again.skipped == [155, 305] and not again.written
    assert refit_path(subject, 305).stat().st_mtime_ns == stamp
    # One shape and scale for the subject.
    records = [json.loads(refit_path(subject, frame).read_text()) for frame in (155, 305)]
    np.testing.assert_allclose(records[0]["betas"], records[1]["betas"], atol=1e-6)


class TrueReader:
    """Landmarks of the true bodies instead of a network's."""

    def __init__(self, body):
        self.body, self.calls = body, 0
        self.capture = open_capture(SHIPPED)
        self.images = {}
        for name in self.capture.camera_names:
            for frame in OPTIONS.frames:
                self.images[self.capture.image(name, frame).tobytes()] = (name, frame)

    def people(self, image, *, most=4, details=True):
        self.calls += 1
        name, frame = self.images[image.tobytes()]
        params = BodyParams.stack([self.capture.fit(frame).to(torch.float32)])
        posed = PointModel(self.body, torch.zeros(1, dtype=torch.int64), landmark_table("mediapipe"))
        points = posed(Pose.from_params(params)).landmarks[0].double()
        camera = self.capture.cameras([name])[0]
        pixels, _ = camera.project(points)
        in_camera = points @ camera.viewmats[:3, :3].T
        world = (in_camera - in_camera[[23, 24]].mean(0)).numpy()
        scale = image.shape[1] / self.capture.camera(name).width
        return [Person(Landmarks(pixels.numpy() * scale, np.full(NUM_LANDMARKS, 0.9), world), None)]


@pytest.mark.slow
def test_bodies_without_any_fit_follow_from_landmarks(subject, body):
    reader = TrueReader(body)
    report = refit_subject(subject, replace(OPTIONS, points=False), reader)
    assert report.written == [155, 305] and reader.calls > 0
    assert max(errors(subject, body, OPTIONS.frames)) < 30
    assert not refit_path(subject, 155).with_suffix(".ply").exists()


@pytest.mark.slow
def test_openpose_files_of_the_capture_are_used(subject, body):
    reader, capture = TrueReader(body), open_capture(SHIPPED)
    names = {13: 6, 14: 3}  # elbows by their number among MediaPipe's landmarks and OpenPose's 25
    names |= {0: 0, 11: 5, 12: 2, 15: 7, 16: 4, 23: 12, 24: 9, 25: 13, 26: 10, 27: 14, 28: 11}
    for name in spread_cameras(capture, OPTIONS.cameras):
        for frame in OPTIONS.frames:
            image = capture.image(name, frame)
            marks = reader.people(image)[0].landmarks
            values = np.zeros((25, 3))
            for mediapipe, openpose in names.items():
                full = marks.points[mediapipe] * capture.camera(name).width / image.shape[1]
                values[openpose] = [*(full - 0.5), 0.9]
            path = subject / "openpose" / name / f"{frame:04d}_img_keypoints.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"people": [{"pose_keypoints_2d": values.ravel().tolist()}]}))
    report = refit_subject(subject, OPTIONS)
    assert report.written == [155, 305] and max(errors(subject, body, OPTIONS.frames)) < 35


def test_nothing_to_start_from_is_named(subject):
    with pytest.raises(InputError, match="no fit to start from and no landmarks"):
        refit_subject(subject, replace(OPTIONS, landmarks="none"))


def test_cameras_are_spread_around_the_subject():
    capture = open_capture(SHIPPED)
    names = spread_cameras(capture, 4)
    viewmats = torch.stack([capture.camera(name).viewmat for name in names])
    centers = -(viewmats[:, :3, :3].mT @ viewmats[:, :3, 3:])[..., 0]
    azimuths = torch.rad2deg(torch.atan2(centers[:, 1], centers[:, 0])).sort().values
    gaps = torch.diff(azimuths, append=azimuths[:1] + 360)
    assert len(set(names)) == 4 and gaps.min() > 60


@pytest.mark.slow
def test_the_script_goes_on_after_a_broken_subject(tmp_path, subject, body):
    give_fits(subject, OPTIONS.frames, noise=0.05)
    broken = tmp_path / "209999"
    broken.mkdir()
    (broken / "camera_extrinsics.json").write_text("{")
    with pytest.raises(InputError, match="1 of 2 captures"):
        main(tmp_path, replace(OPTIONS, frames=(), every=5, steps=0.05, redo=True), workers=0)
    assert refit_path(subject, 55).is_file() and refit_path(subject, 705).is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
def test_a_killed_run_of_two_processes_is_resumed(tmp_path, subject, body):
    """Killed once the first fit is there; the next run keeps what is complete and makes the rest."""
    root = tmp_path / "captures"
    subjects = [root / name for name in ("1", "2")]
    for path in subjects:
        shutil.copytree(subject, path, symlinks=True)
        give_fits(path, [155])
    frames = (55, 155, 305)
    options = f"--workers 2 --frames {' '.join(map(str, frames))} --cameras 2 --batch 1 --steps 0.05 --device cpu"
    command = [sys.executable, str(REPOSITORY / "scripts/fit_body.py"), str(root), *options.split()]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    made = []
    while not made and process.poll() is None:
        time.sleep(0.05)
        made = [refit_path(path, frame) for path in subjects for frame in (55, 305) if refit_path(path, frame).exists()]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert made
    kept = {path: path.read_bytes() for each in subjects for path in (each / "optimized_smpl_points").glob("*.json")}
    assert all(set(json.loads(content)) == {"pose", "betas", "translation", "scale"} for content in kept.values())
    again = RefitOptions(frames=frames, cameras=2, batch=1, steps=0.05, device="cpu")
    main(root, again, workers=0)
    assert all(path.read_bytes() == content for path, content in kept.items())
    for path in subjects:
        assert sorted(open_capture(path).fits) == list(frames)
        assert max(errors(path, body, [155])) < 1e-3  # its fit was there


def test_frames_that_are_not_there_are_refused(subject):
    give_fits(subject, [155])
    with pytest.raises(InputError, match="frame 0007"):
        refit_subject(subject, replace(OPTIONS, frames=(7,)))
