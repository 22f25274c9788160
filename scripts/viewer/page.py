"""The page: avatars side by side that share a motion, a pose and a shape."""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from core.avatar.avatar import Avatar, pose_avatar
from core.motion.motion import Motion, apply_motion, leg_length
from core.types.gaussians import Gaussians
from scripts.viewer.recording import Recorder
from smpl_renderer.body_model import JOINT_NAMES, BodyModel
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle, quat_to_matrix
from smpl_renderer.types import BodyParams

SPACING = 1.0
"""Metres between avatars."""
FIELD_OF_VIEW = math.radians(45)
AXES = "xyz"
UNSEEN_COLOR = (0.9, 0.1, 0.3)
"""Colour of what no input image shows."""


@dataclass
class Viewer:
    """State of the page: avatars side by side, one motion and one pose for all.

    Args:
        server: A server of viser.
        avatars: Avatars and their bodies by name.
        motions: By name.
        views_seen: Number of input images that show each vertex, of the avatars whose files hold it, by name.
    """

    server: Any
    avatars: dict[str, tuple[Avatar, BodyModel]]
    motions: dict[str, Motion]
    views_seen: dict[str, UInt8[Tensor, " V"]] = field(default_factory=dict)
    frame: float = 0.0
    """Seconds into the motion."""
    turns: dict[str, np.ndarray] = field(default_factory=dict)
    """Rotations in degrees that sliders add to joints."""
    shape: dict[int, float] = field(default_factory=dict)
    """Shape components that sliders add."""

    def __post_init__(self) -> None:
        self._poses: dict[tuple[str, str], BodyParams] = {}
        self.server.scene.set_up_direction("+y")
        camera, width = self.server.initial_camera, max(1.0, len(self.avatars) * SPACING / 2.5)
        camera.position, camera.look_at, camera.fov = (0.7 * width, 1.2, 3.5 * width), (0.0, 0.95, 0.0), FIELD_OF_VIEW
        self.server.scene.add_grid("/floor", width=8, height=8, plane="xz", cell_color=(225, 225, 230))
        self._build_controls()
        self.recorder = Recorder(self)
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
            self.with_coverage = gui.add_checkbox(
                "unseen in red",
                False,
                disabled=not self.views_seen,
                hint="what no input image shows" if self.views_seen else "not stored in this file: run infer.py again",
            )
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
        shown = (self.size, self.opacity, self.with_mesh, self.with_skeleton, self.with_coverage)
        for handle in (*shown, *self.betas):
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

    def pose(self, name: str, seconds: float) -> BodyParams:
        """Pose [1] of an avatar at a time of the motion; loops go on, others stay at their end."""
        avatar, body = self.avatars[name]
        motion = self.motions[self.motion.value]
        key = (name, self.motion.value)
        if key not in self._poses:
            self._poses[key] = apply_motion(motion, body, avatar.betas)
        index = int(seconds * motion.fps + 1e-6)
        index = index % len(motion) if motion.loops else min(index, len(motion) - 1)
        pose = self._poses[key][index : index + 1]
        body_pose = pose.body_pose.view(1, -1, 3).clone()
        for joint, degrees in list(self.turns.items()):  # sliders change it from other threads
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
    def _shown(self, name: str, pose: BodyParams) -> Gaussians:
        """Gaussians of an avatar at its place, as the controls show them."""
        avatar, body = self.avatars[name]
        gaussians = pose_avatar(avatar, body, pose)[0]
        colors = gaussians.colors.clamp(0, 1)
        if self.with_coverage.value and name in self.views_seen:
            unseen = (self.views_seen[name] == 0)[avatar.vertex_ids]
            colors = torch.where(unseen[:, None], colors.new_tensor(UNSEEN_COLOR), colors)
        return replace(
            gaussians,
            means=gaussians.means + gaussians.means.new_tensor([self._shift(name), 0, 0]),
            scales=gaussians.scales * self.size.value,
            opacities=(gaussians.opacities * self.opacity.value).clamp(0, 1),
            colors=colors,
        )

    def _shift(self, name: str) -> float:
        return (list(self.avatars).index(name) - (len(self.avatars) - 1) / 2) * SPACING

    def scene(self, seconds: float) -> Gaussians:
        """All avatars at a time of the motion, as one set of Gaussians."""
        sets = [self._shown(name, self.pose(name, seconds)) for name in self.avatars]
        return Gaussians(**{f.name: torch.cat([getattr(x, f.name) for x in sets]) for f in fields(Gaussians)})

    @torch.no_grad()
    def draw(self) -> None:
        """Send the current pose of all avatars to the browser."""
        for place, name in enumerate(self.avatars):
            pose = self.pose(name, self.frame)
            gaussians = self._shown(name, pose)
            axes = quat_to_matrix(torch.nn.functional.normalize(gaussians.quats, dim=-1))
            axes = axes * gaussians.scales[:, None]
            self.server.scene.add_gaussian_splats(
                f"/avatars/{place}",
                centers=gaussians.means.numpy(),
                covariances=(axes @ axes.mT).numpy(),
                rgbs=gaussians.colors.numpy(),
                opacities=gaussians.opacities[:, None].numpy(),
            )
            self._draw_body(place, self._shift(name), self.avatars[name][1], pose)

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
