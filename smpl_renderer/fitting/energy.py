"""The energy that a fit minimises: all terms with their weights."""

from dataclasses import dataclass

import roma
import torch
from jaxtyping import Float, Int
from torch import Tensor

from smpl_renderer.body_model import JOINT_NAMES, BodyModel
from smpl_renderer.fitting import terms
from smpl_renderer.fitting.joint_limits import joint_ranges, limit_penalty
from smpl_renderer.fitting.point_model import PointModel, PosedPoints
from smpl_renderer.fitting.pose_prior import load_pose_prior
from smpl_renderer.fitting.projection import project, turn_to_cameras
from smpl_renderer.fitting.targets import Targets
from smpl_renderer.fitting.variables import Variables

PELVIS, NECK = JOINT_NAMES.index("pelvis"), JOINT_NAMES.index("neck")
FEET = tuple(JOINT_NAMES.index(f"{side}_{joint}") for side in ("left", "right") for joint in ("ankle", "foot"))
_HAND_JOINTS = ("left_wrist", "right_wrist", "left_hand", "right_hand")
EXTREMITIES = tuple(JOINT_NAMES.index(name) - 1 for name in _HAND_JOINTS)
"""Among the 23 body joints."""
SOLE_HEIGHT = 0.025
"""Vertices of the feet at most so far above the lowest one, in the rest pose, are the soles."""


@dataclass(frozen=True)
class Weights:
    """Factors and scales of the energy terms. Lengths in metres, angles in radians."""

    landmarks: float = 0.5
    landmark_width: float = 4.0
    bones: float = 0.5
    bone_width: float = 3.0
    outside: float = 30.0
    outside_sigma: float = 0.02
    outline: float = 30.0
    outline_sigma: float = 0.02
    outline_width: float = 3.0
    clearance: float = 0.008
    match_reach: float = 0.08
    loose_offset: float = 0.03
    """Outlines of a part whose mask lies so far outside of the body, in the median, count a quarter: loose cloth."""
    ground: float = 1.0
    ground_sigma: float = 0.02
    balance: float = 0.3
    balance_slack: float = 0.06
    balance_sigma: float = 0.08
    upright: float = 0.3
    upright_sigma: float = 0.2
    up_sigma: float = 0.15
    """Of gravity's direction about the image's vertical: roll; pitch is four times as free."""
    prior: float = 0.3
    limits: float = 1.0
    shape: float = 1.0
    scale_sigma: float = 0.1
    common: float = 0.5
    common_sigma: float = 0.15
    common_width: float = 2.0
    smooth: float = 0.0
    smooth_sigma: float = 4.0
    smooth_window: float = 0.25
    hands: float = 1.0
    hand_sigma: float = 0.2
    height_sigma: float = 0.01


class Energy:
    """Terms of the energy for one set of targets.

    Args:
        targets: Of F frames.
        body: With SMPL's joints.
        vertex_ids: Vertices that stand for the body's surface, spread evenly over it.
        weights: Factors of the terms.
        pixel_sizes: Metres per pixel at the person; kept fixed, so that a body does not shrink its residuals by moving.
        times: Seconds of each frame, or None.
    """

    def __init__(
        self,
        targets: Targets,
        body: BodyModel,
        vertex_ids: Int[Tensor, " N"],
        weights: Weights,
        pixel_sizes: Float[Tensor, "F C"],
        times: Float[Tensor, " F"] | None = None,
    ):
        device = body.v_template.device
        self.targets, self.weights, self.times = targets, weights, times
        self.count = len(vertex_ids)
        self.model = PointModel(body, torch.cat([vertex_ids, sole_vertices(body)]), targets.table)
        self.prior = load_pose_prior().to(device)
        self.ranges = joint_ranges(device)
        self.pixel_sizes = pixel_sizes
        self.common: Float[Tensor, "23 3 3"] | None = None
        self.fixed_common = False
        self.parts = cloth_parts(body)[self.model.vertex_ids[: self.count]]
        self.part_weights = torch.ones(NUM_CLOTH_PARTS, device=device)

    def __call__(self, x: Variables, silhouettes: bool = True) -> dict[str, Float[Tensor, " F"]]:
        """Weighted terms of each frame; those of shape and gravity are shared out over the frames."""
        w = self.weights
        bodies = x.bodies()
        posed = self.model(bodies)
        out = self._image_terms(posed, silhouettes)
        out |= self._ground_terms(x, posed)
        energies = self.prior.energies(x.pose)
        out["prior"] = w.prior * energies.sum(-1)
        out["limits"] = w.limits * limit_penalty(x.pose, self.ranges)
        out["hands"] = w.hands * 0.5 * (x.pose[:, EXTREMITIES, :] / w.hand_sigma).square().sum((1, 2))
        if self.common is not None and w.common:
            out["common"] = w.common * terms.common_pose_term(
                bodies.rotations[:, 1:], self.common, w.common_sigma, w.common_width
            )
        if self.times is not None and w.smooth:
            out["smooth"] = w.smooth * terms.smooth_term(posed.joints, self.times, w.smooth_sigma, w.smooth_window)
        shared = 0.5 * w.shape * x.betas.square().sum() + 0.5 * (x.log_scale / w.scale_sigma).square()
        out["shape"] = (shared / self.targets.num_frames).expand(self.targets.num_frames)
        return out

    @torch.no_grad()
    def update_common(self, x: Variables, rounds: int = 3) -> None:
        """Estimate the pose that most frames share: a robust mean of each joint's rotations."""
        if not self.weights.common or self.fixed_common:
            return
        rotations = x.bodies().rotations[:, 1:]
        weights = rotations.new_ones(rotations.shape[:2])
        for _ in range(rounds):
            common = roma.special_procrustes((weights[..., None, None] * rotations).sum(0))
            squared = (rotations - common).square().sum((-2, -1)) / 2 / self.weights.common_sigma**2
            weights = 1 / (1 + squared / self.weights.common_width**2).square()
        self.common = common

    def _image_terms(self, posed: PosedPoints, silhouettes: bool) -> dict[str, Tensor]:
        w, targets, out = self.weights, self.targets, {}
        pixels, _ = project(posed.landmarks, targets.Ks, targets.viewmats)
        out["landmarks"] = w.landmarks * terms.landmark_term(
            pixels,
            targets.landmarks,
            targets.landmark_weights,
            self.pixel_sizes,
            targets.landmark_sigmas,
            w.landmark_width,
        )
        if targets.bones is not None:
            bones = posed.landmarks[:, targets.bones.ends] - posed.landmarks[:, targets.bones.starts]
            out["bones"] = w.bones * terms.bone_term(
                turn_to_cameras(bones, targets.viewmats),
                targets.bones.directions,
                targets.bones.whitening,
                targets.bones.weights,
                w.bone_width,
            )
        if silhouettes and targets.silhouettes is not None:
            out |= self._silhouette_terms(posed)
        return out

    def _silhouette_terms(self, posed: PosedPoints) -> dict[str, Tensor]:
        w, targets, masks = self.weights, self.targets, self.targets.silhouettes
        pixels, _ = project(posed.points[:, : self.count], targets.Ks, targets.viewmats)
        sizes = self.pixel_sizes * masks.present
        outside = terms.outside_term(masks.distances(pixels), sizes, w.outside_sigma, 3.0)
        with torch.no_grad():
            normals = turn_to_cameras(posed.normals[:, : self.count], targets.viewmats)[..., :2]
            matches = terms.match_outline(masks.outline, masks.normals, pixels, normals, sizes, w.match_reach)
        matched = pixels.gather(2, matches[..., None].expand(-1, -1, -1, 2))
        trust = masks.weights * self.part_weights[self.parts[matches]]
        outline = terms.outline_term(
            *(masks.outline, masks.normals, matched, trust, sizes),
            *(w.outline_sigma, w.outline_width, w.clearance),
        )
        return {"outside": w.outside * outside, "outline": w.outline * outline}

    @torch.no_grad()
    def update_looseness(self, x: Variables) -> None:
        """Trust outlines less where the mask lies well outside of a part of the body in most frames: loose cloth."""
        masks = self.targets.silhouettes
        if masks is None:
            return
        posed = self.model(x.bodies())
        pixels, _ = project(posed.points[:, : self.count], self.targets.Ks, self.targets.viewmats)
        normals = turn_to_cameras(posed.normals[:, : self.count], self.targets.viewmats)[..., :2]
        sizes = self.pixel_sizes * masks.present
        matches = terms.match_outline(masks.outline, masks.normals, pixels, normals, sizes, self.weights.match_reach)
        matched = pixels.gather(2, matches[..., None].expand(-1, -1, -1, 2))
        along = ((masks.outline - matched) * masks.normals).sum(-1) * sizes[..., None]
        parts = self.parts[matches]
        for part in range(NUM_CLOTH_PARTS):
            chosen = along[(parts == part) & (masks.weights > 0)]
            if len(chosen):
                excess = (chosen.median() - self.weights.clearance).clamp_min(0) / self.weights.loose_offset
                self.part_weights[part] = 1 / (1 + excess.square()).square()

    def _ground_terms(self, x: Variables, posed: PosedPoints) -> dict[str, Tensor]:
        w, up = self.weights, x.unit_up()
        surface, soles = posed.points[:, : self.count], posed.points[:, self.count :]
        heights = (soles @ up[..., None])[..., 0] - x.floor[:, None]
        return {
            "ground": w.ground * terms.ground_term(heights, w.ground_sigma),
            "balance": w.balance * terms.balance_term(surface, soles, heights, up, w.balance_slack, w.balance_sigma),
            "upright": w.upright
            * terms.upright_term(posed.joints[:, NECK] - posed.joints[:, PELVIS], up, w.upright_sigma),
        }


_CLOTH_PARTS = (
    ("pelvis", "spine1", "spine2", "spine3", "left_collar", "right_collar"),
    ("neck", "head"),
    ("left_shoulder", "right_shoulder"),
    ("left_elbow", "right_elbow"),
    ("left_wrist", "right_wrist", "left_hand", "right_hand"),
    ("left_hip", "right_hip"),
    ("left_knee", "right_knee"),
    ("left_ankle", "right_ankle", "left_foot", "right_foot"),
)
NUM_CLOTH_PARTS = len(_CLOTH_PARTS)


def cloth_parts(body: BodyModel) -> Int[Tensor, " V"]:
    """Part of each vertex that cloth covers alike: trunk, head, upper and lower arms, hands, thighs, shanks, feet."""
    owner = {name: part for part, names in enumerate(_CLOTH_PARTS) for name in names}
    table = torch.tensor([owner[name] for name in JOINT_NAMES], device=body.lbs_weights.device)
    return table[body.lbs_weights.argmax(1)]


def sole_vertices(body: BodyModel) -> Int[Tensor, " M"]:
    """Every second vertex of the soles."""
    part = body.lbs_weights.argmax(1)
    feet = torch.isin(part, torch.tensor(FEET, device=part.device))
    height = body.v_template[:, 1]
    return torch.nonzero(feet & (height < height[feet].min() + SOLE_HEIGHT))[::2, 0]


def spread_vertices(body: BodyModel, count: int) -> Int[Tensor, " N"]:
    """Vertices spread evenly over the body: each next one is farthest from those before."""
    points = body.v_template
    chosen = torch.zeros(min(count, len(points)), dtype=torch.int64, device=points.device)
    nearest = (points - points[0]).square().sum(-1)
    for i in range(1, len(chosen)):
        chosen[i] = nearest.argmax()
        nearest = torch.minimum(nearest, (points - points[chosen[i]]).square().sum(-1))
    return chosen
