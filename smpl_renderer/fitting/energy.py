"""The energy that a fit minimises: all terms with their weights."""

import roma
import torch
from jaxtyping import Float, Int
from torch import Tensor

from smpl_renderer.body_model import JOINT_NAMES, BodyModel
from smpl_renderer.fitting import terms
from smpl_renderer.fitting.joint_limits import joint_ranges, limit_penalty
from smpl_renderer.fitting.point_model import PointModel, Pose, PosedPoints
from smpl_renderer.fitting.pose_prior import load_pose_prior
from smpl_renderer.fitting.projection import pixel_sizes, project, turn_to_cameras
from smpl_renderer.fitting.surface import CLEARANCES, NUM_CLOTH_PARTS, cloth_parts, height_rows, sole_vertices
from smpl_renderer.fitting.targets import Targets
from smpl_renderer.fitting.variables import Variables
from smpl_renderer.fitting.weights import Weights

PELVIS, NECK = JOINT_NAMES.index("pelvis"), JOINT_NAMES.index("neck")
ANKLES = tuple(JOINT_NAMES.index(f"{side}_ankle") for side in ("left", "right"))
HAND_JOINTS = tuple(i - 1 for i, name in enumerate(JOINT_NAMES) if name.endswith(("wrist", "hand")))
"""Indices of the hand joints among the 23 body joints."""


class Energy:
    """Terms of the energy for one set of targets.

    Args:
        targets: Targets of F frames.
        body: With SMPL's joints.
        vertex_ids: Vertices that stand for the body's surface, spread evenly over it.
        weights: Factors of the terms.
        start: Bodies whose depths convert pixels to metres. These stay fixed, so that a body does not shrink its
            residuals by moving away from or towards a camera.
        times: Seconds of each frame, ascending, or None.
        height: Body height in metres, where known.
        initial: Bodies of another estimate, near which fitted ones are expected.
        free_gravity: Gravity is a variable, and images are rarely rolled.
    """

    def __init__(
        self,
        targets: Targets,
        body: BodyModel,
        vertex_ids: Int[Tensor, " N"],
        weights: Weights,
        start: Pose,
        *,
        times: Float[Tensor, " F"] | None = None,
        height: float | None = None,
        initial: Pose | None = None,
        free_gravity: bool = False,
    ):
        device = body.v_template.device
        self.targets, self.weights, self.times, self.height = targets, weights, times, height
        self.initial, self.free_gravity = initial, free_gravity
        self.count = len(vertex_ids)
        self.model = PointModel(body, torch.cat([vertex_ids, sole_vertices(body)]), targets.table)
        self.prior = load_pose_prior().merged().to(device)
        self.ranges = joint_ranges(device)
        self.height_rows = height_rows(body)
        self.parts = cloth_parts(body)[vertex_ids]
        self.clearance = weights.clearance * torch.tensor(CLEARANCES, device=device)
        self.trust = torch.ones(NUM_CLOTH_PARTS, device=device)
        """Weight of the outlines of each part, in [0, 1]."""
        # Tensors, as an index of Python numbers would be copied to the device in every step.
        self.ankles = torch.tensor(ANKLES, device=device)
        # Products with 0 and 1 instead of indices, whose gradients take ten launches each.
        self.is_hand = torch.zeros(len(JOINT_NAMES) - 1, 1, device=device)
        self.is_hand[list(HAND_JOINTS)] = 1
        self.to_bones: Float[Tensor, "B L"] | None = None
        if targets.bones is not None:
            ones = torch.eye(len(targets.table.joints), device=device)
            self.to_bones = ones[targets.bones.ends] - ones[targets.bones.starts]
        self.common: Float[Tensor, "23 3 3"] | None = None
        with torch.no_grad():
            pelvis = start.scale * self.model.rest_joints(start.betas)[PELVIS] + start.transl
            self.pixel_sizes = pixel_sizes(pelvis, targets.Ks, targets.viewmats)

    def __call__(self, x: Variables, silhouettes: bool = True) -> dict[str, Float[Tensor, " F"]]:
        """Weighted terms of each frame; those of shape and gravity are shared out over the frames."""
        w, bodies = self.weights, x.bodies()
        posed = self.model(bodies)
        out = self._landmark_terms(posed)
        if silhouettes and self.targets.silhouettes is not None:
            out |= self._silhouette_terms(posed)
        out |= self._ground_terms(x, posed)
        out["prior"] = w.prior * self.prior.energies(x.pose).sum(-1)
        out["limits"] = w.limits * limit_penalty(x.pose, self.ranges)
        out["hands"] = (0.5 * w.hands / w.hand_sigma**2) * (x.pose * self.is_hand).square().sum((1, 2))
        rotations = bodies.rotations[:, 1:]
        if self.common is not None:
            out["common"] = w.common * terms.pose_term(rotations, self.common, w.common_sigma, w.common_width)
        if self.initial is not None:
            expected = self.initial.rotations[:, 1:]
            out["initial"] = w.initial * terms.pose_term(rotations, expected, w.initial_sigma, w.initial_width)
        if self.times is not None and w.smooth:
            out["smooth"] = w.smooth * terms.smooth_term(posed.joints, self.times, w.smooth_sigma, w.smooth_window)
        out["shape"] = self._shape_term(x, bodies)
        return out

    def total(self, x: Variables, silhouettes: bool = True) -> Float[Tensor, " F"]:
        """Sum of the terms of each frame, without gradients."""
        with torch.no_grad():
            return torch.stack(list(self(x, silhouettes).values())).sum(0)

    @torch.no_grad()
    def update_common(self, x: Variables, rounds: int = 3) -> None:
        """Estimate the pose that most frames share: a robust mean of each joint's rotations."""
        rotations = x.bodies().rotations[:, 1:]
        weights = rotations.new_ones(rotations.shape[:2])
        for _ in range(rounds):
            common = roma.special_procrustes((weights[..., None, None] * rotations).sum(0))
            squared = (rotations - common).square().sum((-2, -1)) / 2 / self.weights.common_sigma**2
            weights = 1 / (1 + squared / self.weights.common_width**2).square()
        if self.common is None:
            self.common = common
        else:
            self.common.copy_(common)  # graphs of steps read it where it is

    @torch.no_grad()
    def update_trust(self, x: Variables) -> None:
        """Trust outlines less where the mask lies well outside of a part of the body in most frames: loose cloth."""
        masks = self.targets.silhouettes
        if masks is None:
            return
        pixels, matches, sizes = self._match(self.model(x.bodies()))
        matched = pixels.gather(2, matches[..., None].expand(-1, -1, -1, 2))
        along = ((masks.outline - matched) * masks.normals).sum(-1) * sizes[..., None]
        parts = self.parts[matches]
        for part in range(NUM_CLOTH_PARTS):
            chosen = along[(parts == part) & (masks.weights > 0)]
            if len(chosen):
                excess = (chosen.median() - self.clearance[part]).clamp_min(0) / self.weights.loose_offset
                self.trust[part] = 1 / (1 + excess.square()).square()

    def _landmark_terms(self, posed: PosedPoints) -> dict[str, Tensor]:
        w, targets, out = self.weights, self.targets, {}
        pixels, _ = project(posed.landmarks, targets.Ks, targets.viewmats)
        out["landmarks"] = w.landmarks * terms.landmark_term(
            *(pixels, targets.landmarks, targets.landmark_weights),
            *(self.pixel_sizes, targets.landmark_sigmas, w.landmark_width),
        )
        bones = targets.bones
        if bones is not None:
            vectors = turn_to_cameras(self.to_bones @ posed.landmarks, targets.viewmats)
            out["bones"] = w.bones * terms.bone_term(
                vectors, bones.directions, bones.whitening, bones.weights, w.bone_width
            )
        return out

    def _silhouette_terms(self, posed: PosedPoints) -> dict[str, Tensor]:
        w, masks = self.weights, self.targets.silhouettes
        pixels, matches, sizes = self._match(posed)
        outside = terms.outside_term(masks.distances(pixels), sizes, w.outside_sigma, 3.0)
        matched = pixels.gather(2, matches[..., None].expand(-1, -1, -1, 2))
        parts = self.parts[matches]
        outline = terms.outline_term(
            *(masks.outline, masks.normals, matched, masks.weights * self.trust[parts], sizes),
            *(w.outline_sigma, w.outline_width, self.clearance[parts]),
        )
        return {"outside": w.outside * outside, "outline": w.outline * outline}

    def _match(self, posed: PosedPoints) -> tuple[Float[Tensor, "F C N 2"], Int[Tensor, "F C P"], Float[Tensor, "F C"]]:
        """Projected surface, the point of it that explains each outline point, and metres per pixel (0: no mask)."""
        targets, masks = self.targets, self.targets.silhouettes
        pixels, _ = project(posed.points[:, : self.count], targets.Ks, targets.viewmats)
        sizes = self.pixel_sizes * masks.present
        with torch.no_grad():
            normals = turn_to_cameras(posed.normals[:, : self.count], targets.viewmats)[..., :2]
            matches = terms.match_outline(
                masks.outline, masks.normals, pixels, normals, self.pixel_sizes, self.weights.match_reach
            )
        return pixels, matches, sizes

    def _ground_terms(self, x: Variables, posed: PosedPoints) -> dict[str, Tensor]:
        w, up = self.weights, x.unit_up()
        surface, soles = posed.points[:, : self.count], posed.points[:, self.count :]
        heights = (soles @ up[..., None])[..., 0] - x.floor[:, None]
        balance = terms.balance_term(surface, soles, heights, up, w.balance_slack, w.balance_sigma)
        balance = balance * terms.still_feet(posed.joints[:, self.ankles].detach(), self.times, w.still_speed)
        trunk = posed.joints[:, NECK] - posed.joints[:, PELVIS]
        out = {
            "ground": w.ground * terms.ground_term(heights, w.ground_sigma),
            "balance": w.balance * balance,
            "upright": w.upright * terms.upright_term(trunk, up, w.upright_sigma),
        }
        if self.free_gravity:
            out["roll"] = terms.roll_term(up, self.targets.viewmats[:, :3, :3], w.roll_sigma)
        return out

    def _shape_term(self, x: Variables, bodies: Pose) -> Float[Tensor, " F"]:
        w, frames = self.weights, self.targets.num_frames
        shape = x.betas if self.initial is None else x.betas - self.initial.betas
        shared = 0.5 * w.shape * shape.square().sum() + 0.5 * (x.log_scale / w.scale_sigma).square()
        if self.height is not None:
            constant, slopes = self.height_rows
            height = bodies.scale * (constant + slopes[: len(x.betas)] @ x.betas)
            shared = shared + 0.5 * ((height - self.height) / w.height_sigma).square()
        return (shared / frames).expand(frames)
