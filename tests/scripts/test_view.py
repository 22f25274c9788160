"""scripts/view.py, driven by a browser and by its controls."""

import io
import sys
import time

import numpy as np
import pytest
import torch
from chromium import Chromium, find_chromium
from PIL import Image

from core.avatar.file import save_avatar
from core.motion.motion import apply_motion
from scripts.view import open_viewer
from smpl_renderer.body_model import JOINT_NAMES
from smpl_renderer.errors import InputError

PORT = 18473


@pytest.fixture
def avatar_file(plain, tmp_path):
    path = tmp_path / "avatar.safetensors"
    save_avatar(path, plain[0])
    return path


def test_a_missing_package_is_named(avatar_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(InputError, match="pip install viser"):
        open_viewer((avatar_file,), ("walk",), PORT)


def test_controls_move_the_body(avatar_file, body):
    pytest.importorskip("viser")
    viewer = open_viewer((avatar_file, avatar_file), ("walk", "squat"), PORT)
    try:
        (name,) = viewer.avatars  # the same file twice is one avatar
        avatar = viewer.avatars[name][0]
        viewer.playing.value = False
        expected = apply_motion(viewer.motions["walk"], body, avatar.betas)
        viewer.frame = 0.5
        torch.testing.assert_close(viewer.pose(name).body_pose[0], expected.body_pose[15])
        knee = JOINT_NAMES.index("left_knee")
        viewer.turns["left_knee"] = np.array([30.0, 0, 0])
        moved, kept = body(viewer.pose(name)).joints[0], body(expected[15:16]).joints[0]
        distance = (moved - kept).norm(dim=-1)
        assert distance[JOINT_NAMES.index("left_ankle")] > 0.1 and distance[knee] < 1e-4
        viewer.turns.clear()
        viewer.shape = {0: 2.0}
        assert viewer.pose(name).betas[0, 0] == avatar.betas[0] + 2
        viewer.playing.value = True
        viewer.advance(0.25)
        assert viewer.frame == pytest.approx(0.75)
    finally:
        viewer.server.stop()


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason="needs Chromium or Chrome")
def test_a_browser_shows_the_avatar(avatar_file, tmp_path):
    pytest.importorskip("viser")
    viewer = open_viewer((avatar_file,), ("idle",), PORT)
    try:
        viewer.playing.value = False
        with Chromium(tmp_path / "profile", (700, 500)) as browser:
            browser.open(f"http://127.0.0.1:{viewer.server.get_port()}")

            def middle() -> np.ndarray:
                image = np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("RGB")).astype(float)
                return image[150:350, 200:400]

            # The body is grey: the middle of the page becomes darker when it is drawn.
            deadline = time.monotonic() + 60
            while (middle() < 200).all(-1).mean() < 0.01:
                assert time.monotonic() < deadline, "no avatar in the browser"
                time.sleep(0.5)
            assert len(viewer.server.get_clients()) == 1
    finally:
        viewer.server.stop()
