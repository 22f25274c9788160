"""Look at avatars in a browser: python scripts/view.py AVATAR... [--motion walk clip.bvh] (needs `pip install viser`)

Opens a page on this machine: orbit, motions with a timeline, joints and shape by sliders, body mesh and skeleton.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import logging
import time
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from core.avatar.avatar import Avatar, pose_avatar
from core.avatar.file import find_avatar_body
from core.export.quantized import load_any_avatar
from core.motion.builtin import SEQUENCES
from core.motion.motion import Motion, apply_motion, leg_length
from core.motion.sources import open_motion
from core.utils.cli import run
from core.utils.ranges import Range, checked
from smpl_renderer.body_model import JOINT_NAMES, BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle, quat_to_matrix
from smpl_renderer.types import BodyParams

logger = logging.getLogger("view")

SPACING = 1.0
"""Metres between avatars."""
AXES = "xyz"


@dataclass
class Viewer:
    """State of the page: avatars side by side, one motion and one pose for all.

    Args:
        server: A server of viser.
        avatars: Avatars and their bodies by name.
        motions: By name.
    """

    server: Any
    avatars: dict[str, tuple[Avatar, BodyModel]]
    motions: dict[str, Motion]
    frame: float = 0.0
    """Seconds into the motion."""
    turns: dict[str, np.ndarray] = field(default_factory=dict)
    """Rotations in degrees that sliders add to joints."""
    shape: dict[int, float] = field(default_factory=dict)
    """Shape components that sliders add."""

    def __post_init__(self) -> None:
        self._poses: dict[tuple[str, str], BodyParams] = {}
        self._splats: dict[str, Any] = {}
        self.server.scene.set_up_direction("+y")
        self.server.initial_camera.position, self.server.initial_camera.look_at = (0.8, 1.2, 3.6), (0.0, 0.9, 0.0)
        self.server.scene.add_grid("/floor", width=8, height=8, plane="xz", cell_color=(225, 225, 230))
        self._build_controls()
        self.draw()

    def _build_controls(self) -> None:
        gui = self.server.gui
        with gui.add_folder("Motion"):
            self.motion = gui.add_dropdown("motion", list(self.motions))
            self.playing = gui.add_checkbox("play", True)
            self.timeline = gui.add_slider("time", 0.0, 1.0, 0.01, 0.0)
        with gui.add_folder("Show"):
            self.size = gui.add_slider("splat size", 0.1, 2.0, 0.05, 1.0)
            self.opacity = gui.add_slider("opacity", 0.05, 1.0, 0.05, 1.0)
            self.with_mesh = gui.add_checkbox("body mesh", False)
            self.with_skeleton = gui.add_checkbox("skeleton", False)
        with gui.add_folder("Joint", expand_by_default=False):
            self.joint = gui.add_dropdown("joint", list(JOINT_NAMES[1:]))
            self.angles = [gui.add_slider(f"about {axis}", -120.0, 120.0, 1.0, 0.0) for axis in AXES]
            reset = gui.add_button("reset joints")
        with gui.add_folder("Shape", expand_by_default=False):
            self.betas = [gui.add_slider(f"component {i + 1}", -3.0, 3.0, 0.1, 0.0) for i in range(4)]
        self.motion.on_update(lambda _: self._start())
        self.timeline.on_update(lambda _: self._seek())
        self.joint.on_update(lambda _: self._load_angles())
        for slider in self.angles:
            slider.on_update(lambda _: self._turn())
        for handle in (self.size, self.opacity, self.with_mesh, self.with_skeleton, *self.betas):
            handle.on_update(lambda _: self._change())
        reset.on_click(lambda _: self._reset())

    def _start(self) -> None:
        self.frame = 0.0
        self.draw()

    def _seek(self) -> None:
        if not self.playing.value:
            self.frame = self.timeline.value * self.motions[self.motion.value].seconds
            self.draw()

    def _load_angles(self) -> None:
        for slider, value in zip(self.angles, self.turns.get(self.joint.value, np.zeros(3))):
            slider.value = float(value)

    def _turn(self) -> None:
        self.turns[self.joint.value] = np.array([slider.value for slider in self.angles])
        self.draw()

    def _reset(self) -> None:
        self.turns.clear()
        self._load_angles()
        self.draw()

    def _change(self) -> None:
        self.shape = {i: slider.value for i, slider in enumerate(self.betas) if slider.value}
        self.draw()

    def advance(self, seconds: float) -> None:
        """Go on in the motion, if it plays."""
        if not self.playing.value:
            return
        duration = max(self.motions[self.motion.value].seconds, 1e-6)
        self.frame = (self.frame + seconds) % duration
        self.timeline.value = self.frame / duration
        self.draw()

    def pose(self, name: str) -> BodyParams:
        """The current pose [1] of an avatar."""
        avatar, body = self.avatars[name]
        motion = self.motions[self.motion.value]
        key = (name, self.motion.value)
        if key not in self._poses:
            self._poses[key] = apply_motion(motion, body, avatar.betas)
        index = min(int(self.frame * motion.fps), len(motion) - 1)
        pose = self._poses[key][index : index + 1]
        body_pose = pose.body_pose.view(1, -1, 3).clone()
        for joint, degrees in self.turns.items():
            j = JOINT_NAMES.index(joint) - 1
            R = axis_angle_to_matrix(torch.tensor(np.radians(degrees), dtype=body_pose.dtype))
            body_pose[0, j] = matrix_to_axis_angle(axis_angle_to_matrix(body_pose[0, j]) @ R)
        betas = pose.betas.clone()
        for component, value in self.shape.items():
            if component < betas.shape[-1]:
                betas[0, component] += value
        # A taller body stands on the floor too: its path rises with its legs.
        rise = leg_length(body, betas[0]) - leg_length(body, pose.betas[0]) if self.shape else 0.0
        return replace(
            pose, body_pose=body_pose.flatten(1), betas=betas, transl=pose.transl + torch.tensor([0.0, rise, 0.0])
        )

    @torch.no_grad()
    def draw(self) -> None:
        """Send the current pose of all avatars to the browser."""
        for place, (name, (avatar, body)) in enumerate(self.avatars.items()):
            shift = (place - (len(self.avatars) - 1) / 2) * SPACING
            pose = self.pose(name)
            gaussians = pose_avatar(avatar, body, pose)[0]
            axes = quat_to_matrix(torch.nn.functional.normalize(gaussians.quats, dim=-1))
            axes = axes * (gaussians.scales * self.size.value)[:, None]
            arrays = {
                "centers": gaussians.means.numpy() + np.array([shift, 0, 0], np.float32),
                "covariances": (axes @ axes.mT).numpy(),
                "rgbs": gaussians.colors.clamp(0, 1).numpy(),
                "opacities": (gaussians.opacities * self.opacity.value).clamp(0, 1)[:, None].numpy(),
            }
            self.server.scene.add_gaussian_splats(f"/avatars/{place}", **arrays)
            self._draw_body(place, shift, body, pose)

    def _draw_body(self, place: int, shift: float, body: BodyModel, pose: BodyParams) -> None:
        scene, offset = self.server.scene, np.array([shift, 0, 0], np.float32)
        output = body(pose) if self.with_mesh.value or self.with_skeleton.value else None
        if self.with_mesh.value:
            vertices = output.vertices[0].numpy() + offset
            scene.add_mesh_simple(
                f"/mesh/{place}", vertices, body.faces.numpy(), color=(120, 140, 190), opacity=0.5, wireframe=True
            )
        if self.with_skeleton.value:
            joints = output.joints[0].numpy() + offset
            bones = np.stack([[joints[parent], joints[i]] for i, parent in enumerate(body.parents) if parent >= 0])
            scene.add_line_segments(f"/skeleton/{place}", bones, (230, 90, 40), line_width=3)
        for path, shown in (("mesh", self.with_mesh.value), ("skeleton", self.with_skeleton.value)):
            if not shown:
                scene.remove_by_name(f"/{path}/{place}")


def main(
    avatars: Annotated[tuple[Path, ...], tyro.conf.Positional],
    motion: tuple[str, ...] = tuple(SEQUENCES),
    port: Annotated[int, Range(1, 65535)] = 8080,
    fps: Annotated[float, Range(1, 60)] = 15.0,
    share: bool = False,
    body: Path | None = None,
) -> None:
    """Show avatars in a browser until Ctrl+C.

    Args:
        avatars: Files `avatar.safetensors`, shown side by side.
        motion: Built-in motions or motion files (docs/motion.md).
        port: Port of the page.
        fps: Poses per second.
        share: Let other machines of the network open the page, too.
        body: A body model file; by default that of each avatar is found by its fingerprint.
    """
    viewer = open_viewer(avatars, motion, port, share, body)
    logger.info("open http://localhost:%d; stop with Ctrl+C", viewer.server.get_port())
    before = time.monotonic()
    while True:
        time.sleep(max(0.0, 1 / fps - (time.monotonic() - before)))
        now = time.monotonic()
        viewer.advance(now - before)
        before = now


def open_viewer(
    avatars: tuple[Path, ...], motion: tuple[str, ...], port: int, share: bool = False, body: Path | None = None
) -> Viewer:
    """The page, with its server running.

    Raises:
        InputError: If viser is not installed, or a file cannot be used.
    """
    try:
        import viser  # optional
    except ImportError as error:
        raise InputError("scripts/view.py needs a package: pip install viser (or export.py --to html)") from error
    if not avatars or not motion:
        raise InputError("no avatar or no motion is named; give an avatar.safetensors and, for --motion, a name")
    loaded = {}
    for path in avatars:
        avatar = load_any_avatar(path)
        loaded[str(path)] = (avatar, find_avatar_body(avatar, body))
    first_body = next(iter(loaded.values()))[1]
    motions = {name: open_motion(name, first_body) for name in motion}
    server = viser.ViserServer(host="0.0.0.0" if share else "127.0.0.1", port=port, verbose=False)
    return Viewer(server, loaded, motions)


if __name__ == "__main__":
    run(lambda: tyro.cli(checked(main)))
