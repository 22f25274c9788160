"""scripts/view.py, driven by a browser and by its controls."""

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from core.avatar.file import save_avatar
from core.avatar.rendering import render_avatar, supersampling
from core.inference.animation import RENDERED_SIZE
from core.inference.camera_file import read_camera_path
from core.motion.motion import apply_motion
from core.types.cameras import Cameras, look_at
from scripts.benchmarks.chromium import Chromium, find_chromium
from scripts.view import open_viewer
from scripts.viewer.page import UNSEEN_COLOR
from scripts.viewer.recording import VIDEO_FPS, View, cameras_of
from smpl_renderer.body_model import JOINT_NAMES
from smpl_renderer.errors import InputError
from smpl_renderer.rotations import matrix_to_quat

PORT = 18473


@pytest.fixture
def avatar_file(plain, body, tmp_path):
    """Input images show the head only."""
    path = tmp_path / "avatar.safetensors"
    head = body.lbs_weights.argmax(1) == JOINT_NAMES.index("head")
    save_avatar(path, plain[0], head.to(torch.uint8))
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
        torch.testing.assert_close(viewer.pose(name, 0.5).body_pose[0], expected.body_pose[15])
        seconds = viewer.motions["walk"].seconds
        torch.testing.assert_close(viewer.pose(name, seconds + 0.5).body_pose[0], expected.body_pose[15])  # it loops
        knee = JOINT_NAMES.index("left_knee")
        viewer.turns["left_knee"] = np.array([30.0, 0, 0])
        moved, kept = body(viewer.pose(name, 0.5)).joints[0], body(expected[15:16]).joints[0]
        distance = (moved - kept).norm(dim=-1)
        assert distance[JOINT_NAMES.index("left_ankle")] > 0.1 and distance[knee] < 1e-4
        viewer.turns.clear()
        viewer.shape = {0: 2.0}
        assert viewer.pose(name, 0.5).betas[0, 0] == avatar.betas[0] + 2
        viewer.playing.value = True
        viewer.frame = 0.5
        viewer.advance(0.25)
        assert viewer.frame == pytest.approx(0.75)
    finally:
        viewer.server.stop()


@pytest.mark.slow
def test_what_no_image_shows_is_red(avatar_file, plain, body, tmp_path):
    pytest.importorskip("viser")
    older = tmp_path / "older.safetensors"
    save_avatar(older, plain[0])
    viewer = open_viewer((avatar_file, older), ("idle",), PORT)
    try:
        own = viewer.scene(0.0)
        viewer.with_coverage.value = True
        scene = viewer.scene(0.0)
        head = (body.lbs_weights.argmax(1) == JOINT_NAMES.index("head"))[plain[0].vertex_ids]
        unseen = torch.cat([~head, torch.zeros_like(head)])
        torch.testing.assert_close(scene.colors[unseen], torch.tensor(UNSEEN_COLOR).expand(int(unseen.sum()), 3))
        torch.testing.assert_close(scene.colors[~unseen], own.colors[~unseen])
        torch.testing.assert_close(scene.means[: len(head)] + torch.tensor([1.0, 0, 0]), scene.means[len(head) :])
    finally:
        viewer.server.stop()
    viewer = open_viewer((older,), ("idle",), PORT)
    try:
        assert viewer.with_coverage.disabled
    finally:
        viewer.server.stop()


def test_views_are_cameras():
    """A view that is built from `look_at`, and the middle between two of them."""
    viewmat = look_at(*(torch.tensor(x, dtype=torch.float64) for x in ([2.0, 1, 0], [0, 1.0, 0], [0, 1.0, 0])))
    quat = matrix_to_quat(viewmat[:3, :3].T).numpy()
    view = View(np.array([2.0, 1, 0]), quat, np.pi / 2, 1.5)
    camera = cameras_of([view], 100)
    assert (camera.width, camera.height) == (150, 100)
    torch.testing.assert_close(camera.viewmats[0], viewmat.float())
    torch.testing.assert_close(camera.Ks[0], torch.tensor([[50.0, 0, 75], [0, 50, 50], [0, 0, 1]]))
    path = cameras_of([view, replace(view, position=np.array([0, 1.0, 0]), fov=np.pi / 3)], 100, 3)
    torch.testing.assert_close(path.centers[1], torch.tensor([1.0, 1, 0]))
    assert 50 < path.Ks[1, 0, 0] < path.Ks[2, 0, 0]


@pytest.fixture
def page(avatar_file, tmp_path) -> Iterator[tuple]:
    """A viewer with one avatar at rest, and a browser that shows it; downloads go to a folder."""
    pytest.importorskip("viser")
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    viewer = open_viewer((avatar_file,), ("dance",), PORT)
    try:
        viewer.playing.value = False
        with Chromium(tmp_path / "profile", (700, 500)) as browser:
            browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
            browser.open(f"http://127.0.0.1:{viewer.server.get_port()}")
            wait(lambda: (middle(browser) < 200).all(-1).mean() > 0.01, "no avatar in the browser")
            yield viewer, browser, downloads
    finally:
        viewer.server.stop()


def wait(condition: Callable[[], object], message: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.2)


def middle(browser: Chromium) -> np.ndarray:
    image = np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("RGB")).astype(float)
    return image[150:350, 200:400]


def click(browser: Chromium, label: str) -> None:
    script = "[...document.querySelectorAll('button, label')].find(b => b.textContent.trim() === '%s').click()"
    browser.evaluate(script % label)


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason="needs Chromium or Chrome")
def test_a_browser_shows_and_records_the_avatar(page, plain, body):
    viewer, browser, downloads = page
    (client,) = viewer.server.get_clients().values()

    def downloaded(name: str) -> Path:
        path = downloads / name
        wait(path.exists, f"{name} was not downloaded")
        return path

    # The body is grey, and red where no image shows it.
    def is_red() -> bool:
        image = middle(browser)
        return ((image[..., 0] > 150) & (image[..., 1] < 100)).mean() > 0.01

    assert not is_red()
    viewer.with_coverage.value = True
    viewer.draw()
    wait(is_red, "unseen parts are not red")
    viewer.with_coverage.value = False
    viewer.draw()

    # A screenshot is what our renderer draws from the camera of the page.
    click(browser, "screenshot")
    image = np.asarray(Image.open(downloaded("avatar.png"))).astype(np.float32) / 255
    avatar = plain[0]
    pose = apply_motion(viewer.motions["dance"], body, avatar.betas)[:1]
    expected = render_avatar(avatar, body, pose, page_camera(client.camera, *image.shape[1::-1]), supersample=2)
    assert supersampling(image.shape[0], RENDERED_SIZE) == 2
    np.testing.assert_allclose(image, expected.colors[0, 0].permute(1, 2, 0).clamp(0, 1), atol=2 / 255)
    assert (image < 0.8).any(-1).mean() > 0.005

    # A path of two views: the browser's camera moves along it, the video shows both ends and the motion.
    click(browser, "add view")
    wait(lambda: len(viewer.recorder.views) == 1, "no view was added")
    browser.evaluate("new Promise(done => setTimeout(done, 200))")
    client.camera.position = (3.0, 1.0, 2.0)
    client.camera.look_at = (0.0, 0.9, 0.0)
    wait(lambda: client.camera.position[0] == 3.0, "the camera did not move")
    click(browser, "add view")
    wait(lambda: viewer.recorder.chosen.options == ("1", "2"), "the views are not listed")
    click(browser, "go to")
    first, second = viewer.recorder.views
    np.testing.assert_allclose(second.position, (3, 1, 2), atol=1e-4)
    viewer.recorder.seconds.value = 0.5
    viewer.recorder.height.value = "360"
    viewer.recorder.chosen.value = "1"
    click(browser, "go to")
    wait(lambda: np.allclose(client.camera.position, first.position, atol=1e-3), "no return to the first view")
    click(browser, "play path")
    wait(lambda: np.allclose(client.camera.position, second.position, atol=1e-3), "the path was not played")
    viewer.playing.value = True
    click(browser, "render video")
    with av.open(str(downloaded("avatar.mp4"))) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(np.float32) / 255 for frame in container.decode(video=0)]
    assert len(frames) == round(0.5 * VIDEO_FPS) and frames[0].shape[0] == 360
    poses = apply_motion(viewer.motions["dance"], body, avatar.betas)

    def error(frame: np.ndarray, view: View, index: int) -> float:
        """Mean difference, where the avatar is, from our rendering of a pose."""
        camera = cameras_of([first, view], 360)[1:]
        drawn = render_avatar(avatar, body, poses[index : index + 1], camera[None], supersample=2).colors[0, 0]
        drawn = drawn.permute(1, 2, 0).clamp(0, 1).numpy()
        return np.abs(frame - drawn)[(np.minimum(frame, drawn) < 0.9).any(-1)].mean()

    last = len(frames) - 1
    assert error(frames[0], first, 0) < 0.02 and error(frames[last], second, last) < 0.02
    assert error(frames[last], second, 0) > 0.04 and error(frames[last], first, last) > 0.1

    # The saved path is one for scripts/animate.py.
    click(browser, "save path")
    cameras = read_camera_path(downloaded("cameras.json"), 2)
    np.testing.assert_allclose(cameras.centers, [first.position, second.position], atol=1e-4)
    assert len(json.loads((downloads / "cameras.json").read_text())["cameras"]) == 2
    click(browser, "remove")
    wait(lambda: len(viewer.recorder.views) == 1, "the view was not removed")
    click(browser, "clear")
    wait(lambda: viewer.recorder.chosen.value == "none", "the list was not cleared")


def page_camera(camera, width: int, height: int) -> Cameras:
    """Camera [1, 1] of viser, whose rotation goes from the camera to the world."""
    T = np.eye(4)
    w, x, y, z = camera.wxyz
    T[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    T[:3, 3] = camera.position
    f = height / 2 / np.tan(camera.fov / 2)
    K = torch.tensor([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]])
    return Cameras(torch.tensor(np.linalg.inv(T)).float()[None, None], K.float()[None, None], width, height)
