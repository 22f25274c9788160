"""Images and videos of what the page shows, drawn by our rasterizer: screenshot and camera path."""

import io
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from core.avatar.rendering import render_gaussians, supersampling
from core.inference.animation import RENDERED_SIZE
from core.inference.camera_file import interpolate_cameras, write_camera_path
from core.types.cameras import Cameras
from core.types.gaussians import Gaussians
from core.utils.images import to_bytes
from core.utils.video import write_video
from smpl_renderer.rotations import matrix_to_quat, quat_to_matrix

SCREENSHOT_HEIGHTS = (64, 2160)
"""Smallest and largest height of a screenshot in pixels; between them it is that of the browser's window."""
VIDEO_HEIGHTS = ("360", "512", "720", "1080")
VIDEO_FPS, PLAY_FPS = 30, 20
NO_VIEW = "none"


@dataclass(frozen=True)
class View:
    """A view of the page."""

    position: Float[np.ndarray, "3"]
    """Camera centre in the world, in metres."""
    wxyz: Float[np.ndarray, "4"]
    """Rotation (w, x, y, z) from camera to world; OpenCV axes."""
    fov: float
    """Vertical field of view in radians."""
    aspect: float
    """Width of the image relative to its height."""

    @classmethod
    def of(cls, camera: Any) -> "View":
        """The current view of a client's camera."""
        return cls(np.array(camera.position), np.array(camera.wxyz), float(camera.fov), float(camera.aspect))

    def matrices(self, height: int) -> tuple[Float[np.ndarray, "4 4"], Float[np.ndarray, "3 3"], int]:
        """Matrix from world to camera, intrinsic matrix, and width of an image of some height; both sides are even."""
        width = max(2, 2 * round(self.aspect * height / 2))
        R = quat_to_matrix(torch.from_numpy(self.wxyz / np.linalg.norm(self.wxyz))).numpy()
        viewmat = np.eye(4)
        viewmat[:3, :3], viewmat[:3, 3] = R.T, -R.T @ self.position
        focal = height / 2 / np.tan(self.fov / 2)
        return viewmat, np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]), width


def cameras_of(views: list[View], height: int, count: int | None = None) -> Cameras:
    """Cameras of views, all with the aspect of the first one; or `count` cameras at even intervals between them."""
    width = views[0].matrices(height)[2]
    viewmats, Ks = (np.stack(x) for x in zip(*(view.matrices(height)[:2] for view in views)))
    Ks[:, 0, 2] = width / 2
    if count is not None:
        viewmats, Ks = interpolate_cameras(viewmats, Ks, count)
    return Cameras(torch.from_numpy(viewmats).float(), torch.from_numpy(Ks).float(), width, height)


class Page(Protocol):
    """What a recorder needs of the page (`scripts/viewer/page.py`)."""

    server: Any
    """A server of viser."""
    frame: float
    """Seconds into the motion."""
    playing: Any
    """Checkbox: the motion plays."""

    def scene(self, seconds: float) -> Gaussians:
        """All avatars at a time of the motion."""


class Recorder:
    """Controls for a screenshot and for a camera path, which is a list of views.

    Args:
        viewer: The page, with a server.
    """

    def __init__(self, viewer: Page):
        self.viewer = viewer
        self.views: list[View] = []
        self._busy = threading.Lock()
        gui = viewer.server.gui
        with gui.add_folder("Image and video"):
            self.screenshot = gui.add_button("screenshot", hint="the avatars on white, as large as the window")
            self.add = gui.add_button("add view", hint="the present view becomes the last one of the camera path")
            self.chosen = gui.add_dropdown("view", [NO_VIEW])
            self.edit = gui.add_button_group("", ["go to", "remove", "clear"])
            self.seconds = gui.add_slider("seconds", 0.5, 60.0, 0.5, 6.0)
            self.height = gui.add_dropdown("height", list(VIDEO_HEIGHTS), initial_value="720")
            self.play = gui.add_button("play path")
            self.video = gui.add_button("render video", hint="along the path, or from the present view without one")
            self.save = gui.add_button("save path", hint="for scripts/animate.py --camera")
        self.screenshot.on_click(self._exclusive(self._screenshot))
        self.add.on_click(lambda event: self._add(event.client))
        self.edit.on_click(lambda event: self._edit(event.client))
        self.play.on_click(self._exclusive(self._play))
        self.video.on_click(self._exclusive(self._video))
        self.save.on_click(self._exclusive(self._save))

    def _exclusive(self, action: Callable[[Any], None]) -> Callable[[Any], None]:
        """A callback for one action at a time: renderings take all cores."""

        def callback(event: Any) -> None:
            if event.client is None:
                return
            if not self._busy.acquire(blocking=False):
                event.client.add_notification("Busy", "The last image or video is not finished.", auto_close_seconds=4)
                return
            try:
                action(event.client)
            finally:
                self._busy.release()

        return callback

    def _add(self, client: Any) -> None:
        if client is not None:
            self.views.append(View.of(client.camera))
            self._list(len(self.views))

    def _edit(self, client: Any) -> None:
        if self.edit.value == "clear":
            self.views.clear()
        elif self.views:
            index = int(self.chosen.value) - 1
            if self.edit.value == "remove":
                del self.views[index]
            elif client is not None:
                _move(client, self.views[index])
                return
        self._list(len(self.views))

    def _list(self, chosen: int) -> None:
        self.chosen.options = [str(i + 1) for i in range(len(self.views))] or [NO_VIEW]
        self.chosen.value = str(chosen) if chosen else NO_VIEW

    def path(self, client: Any) -> list[View]:
        """The views of the path; without any, the present one."""
        return list(self.views) or [View.of(client.camera)]

    def _screenshot(self, client: Any) -> None:
        height = int(np.clip(client.camera.image_height, *SCREENSHOT_HEIGHTS))
        cameras = cameras_of([View.of(client.camera)], height)
        image = self.image(cameras, self.viewer.frame)
        buffer = io.BytesIO()
        Image.fromarray(to_bytes(image)).save(buffer, "PNG")
        client.send_file_download("avatar.png", buffer.getvalue(), save_immediately=True)

    @torch.no_grad()
    def image(self, camera: Cameras, seconds: float) -> Float[Tensor, "3 H W"]:
        """Rendering on white of all avatars at a time of the motion.

        Args:
            camera: Cameras [1].
        """
        supersample = supersampling(min(camera.width, camera.height), RENDERED_SIZE)
        return render_gaussians(self.viewer.scene(seconds), camera, supersample=supersample).colors[0]

    def images(self, cameras: Cameras) -> Iterator[Float[Tensor, "3 H W"]]:
        """Renderings along a path; the motion goes on from the present time if it plays."""
        start, moves = self.viewer.frame, self.viewer.playing.value
        for i in range(len(cameras.Ks)):
            yield self.image(cameras[i : i + 1], start + moves * i / VIDEO_FPS)

    def _video(self, client: Any) -> None:
        count = max(1, round(self.seconds.value * VIDEO_FPS))
        cameras = cameras_of(self.path(client), int(self.height.value), count)
        note = client.add_notification("Video", "", loading=True, with_close_button=False)

        def frames() -> Iterator[Float[Tensor, "3 H W"]]:
            for i, image in enumerate(self.images(cameras)):
                note.body = f"{i + 1} of {count} images"
                yield image

        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "avatar.mp4"
                write_video(path, frames(), VIDEO_FPS)
                client.send_file_download(path.name, path.read_bytes(), save_immediately=True)
        finally:
            note.remove()

    def _save(self, client: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cameras.json"
            write_camera_path(path, cameras_of(self.path(client), int(self.height.value)))
            client.send_file_download(path.name, path.read_bytes(), save_immediately=True)

    def _play(self, client: Any) -> None:
        if len(self.views) < 2:
            client.add_notification("Camera path", "Add two views or more first.", auto_close_seconds=4)
            return
        count = max(2, round(self.seconds.value * PLAY_FPS))
        cameras = cameras_of(self.views, int(self.height.value), count)
        poses = torch.linalg.inv(cameras.viewmats.double())
        begin = time.monotonic()
        for i in range(count):
            time.sleep(max(0.0, begin + i / PLAY_FPS - time.monotonic()))
            fov = 2 * float(torch.atan(cameras.height / 2 / cameras.Ks[i, 1, 1]))
            _move(client, View(poses[i, :3, 3].numpy(), matrix_to_quat(poses[i, :3, :3]).numpy(), fov, 1.0))


def _move(client: Any, view: View) -> None:
    with client.atomic():
        client.camera.position = view.position
        client.camera.wxyz = view.wxyz
        client.camera.fov = view.fov
