"""Quality of fitted bodies in each frame, as numbers and as warnings."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from smpl_renderer.body_model import BodyModel
from smpl_renderer.fitting.observations import Observations, Silhouettes
from smpl_renderer.fitting.point_model import PointModel, Pose
from smpl_renderer.fitting.projection import pixel_sizes, project
from smpl_renderer.fitting.result import FrameQuality
from smpl_renderer.fitting.surface import height_rows
from smpl_renderer.fitting.targets import Targets
from smpl_renderer.mesh_rasterizer import rasterize_mesh
from smpl_renderer.types import BodyParams

MASK_SIZE = 128
"""Side, in cells, of the windows in which silhouettes are compared."""
POOR_IOU, BAD_IOU = 0.7, 0.5
POOR_LANDMARKS = 0.04
"""Landmark error above which a frame is poor, relative to the body height."""
HIDDEN = 0.3
"""Visibility under which a landmark counts as hidden."""
_LIMB_ENDS = {
    "left arm": ("left_elbow", "left_wrist"),
    "right arm": ("right_elbow", "right_wrist"),
    "left leg": ("left_knee", "left_ankle"),
    "right leg": ("right_knee", "right_ankle"),
}


@torch.no_grad()
def fit_quality(
    params: BodyParams, body: BodyModel, observations: Observations, targets: Targets
) -> tuple[tuple[FrameQuality, ...], tuple[str, ...]]:
    """Quality of each frame, and warnings about all frames together.

    Args:
        params: Fitted bodies, batch axis F.
        body: Body of the fits.
        observations: Observations that they were fitted to.
        targets: Prepared from them; its weights are zero where landmarks were not trusted.
    """
    ious = mask_ious(params, body, observations) if observations.silhouettes is not None else None
    errors = landmark_errors(params, body, targets)
    hidden = _hidden_limbs(targets, observations)
    distrusted = _distrusted(targets, observations)
    quality = []
    for frame in range(observations.num_frames):
        warnings, usable = [], True
        iou = error = None
        if ious is not None and ious[frame].isfinite().any():
            iou = float(ious[frame].nanmean())
        if errors[frame].isfinite():
            error = float(errors[frame])
        if not targets.seen[frame].any():
            warnings.append("no person was found")
            usable = False
        elif observations.silhouettes is not None and iou is None:
            warnings.append("the mask is empty")
        if iou is not None and iou < POOR_IOU:
            warnings.append(f"the body and the mask overlap by {iou:.0%} only")
            usable = usable and iou >= BAD_IOU
        if error is not None and error > POOR_LANDMARKS:
            warnings.append(f"landmarks lie {error:.0%} of the body height from the body")
        if distrusted[frame]:
            warnings.append("the landmarks cover only a part of the person and were not used")
        if _is_cut(observations.silhouettes, frame):
            warnings.append("the person is cut off at the edge of the image")
        quality.append(FrameQuality(iou, error, usable, tuple(warnings)))
    return tuple(quality), _overall(quality, hidden, observations)


def mask_ious(params: BodyParams, body: BodyModel, observations: Observations) -> Float[Tensor, "F C"]:
    """Intersection over union of the bodies' silhouettes and the masks, inside the images; NaN without a mask."""
    masks = observations.silhouettes
    size = min(MASK_SIZE, masks.alphas.shape[-1])
    pool = masks.alphas.shape[-1] // size
    covered = avg_pool2d(masks.alphas, pool) > 0.5
    known = avg_pool2d(masks.known.float(), pool) > 0.5
    drawn = window_silhouettes(params, body, observations.Ks, observations.viewmats, masks.windows, covered.shape[-1])
    both = (drawn & covered).sum((-2, -1))
    either = ((drawn & known) | covered).sum((-2, -1))
    return torch.where(masks.present, both / either.clamp_min(1), torch.nan)


def window_silhouettes(
    params: BodyParams,
    body: BodyModel,
    Ks: Float[Tensor, "C 3 3"],
    viewmats: Float[Tensor, "C 4 4"],
    windows: Float[Tensor, "F C 3"],
    size: int,
) -> Tensor:
    """Cells [F, C, size, size] that bodies cover in windows of the images (left, top, side)."""
    drawn = []
    for frame in range(len(params.scale)):  # one at a time bounds the memory
        vertices = body(params[frame]).vertices
        pixels, depths = project(vertices[None], Ks, viewmats)
        cells = (pixels[0] - windows[frame, :, None, :2]) / windows[frame, :, None, 2:] * size
        faces, _ = rasterize_mesh(cells, depths[0], body.faces, size, size)
        drawn.append(faces >= 0)
    return torch.stack(drawn)


def landmark_errors(params: BodyParams, body: BodyModel, targets: Targets) -> Float[Tensor, " F"]:
    """Mean distance of landmarks at the person, weighted by their weights, relative to the body height."""
    bodies = Pose.from_params(params)
    model = PointModel(body, torch.zeros(1, dtype=torch.int64, device=targets.Ks.device), targets.table)
    posed = model(bodies)
    pixels, _ = project(posed.landmarks, targets.Ks, targets.viewmats)
    metres = pixel_sizes(posed.joints[:, 0], targets.Ks, targets.viewmats)
    distances = (pixels - targets.landmarks).norm(dim=-1) * metres[..., None]
    weights = targets.landmark_weights
    constant, slopes = height_rows(body)
    height = bodies.scale * (constant + slopes[: len(bodies.betas)] @ bodies.betas)
    total = weights.sum((1, 2))
    return torch.where(total > 0, (weights * distances).sum((1, 2)) / total.clamp_min(1e-9) / height, torch.nan)


def _hidden_limbs(targets: Targets, observations: Observations) -> dict[str, Tensor]:
    """Frames in which no camera sees a limb."""
    if observations.visibility is None:
        return {}
    best = observations.visibility.amax(1)
    return {
        limb: (best[:, targets.table.index(*names)] < HIDDEN).all(1) & targets.seen.any(1)
        for limb, names in _LIMB_ENDS.items()
    }


def _distrusted(targets: Targets, observations: Observations) -> Tensor:
    """Frames with landmarks, none of which counts."""
    if observations.visibility is None:
        return targets.seen.any(1) & False
    return (observations.visibility > 0).any((1, 2)) & ~(targets.landmark_weights > 0).any((1, 2))


def _is_cut(masks: Silhouettes | None, frame: int) -> bool:
    """True where every camera's mask reaches the edge of the image."""
    if masks is None or not masks.present[frame].any():
        return False
    covered, known = masks.alphas[frame] > 0.5, masks.known[frame]
    beside = torch.zeros_like(known)
    for shift, axis in ((2, -1), (-2, -1), (2, -2), (-2, -2)):
        beside |= ~known.roll(shift, axis)
    cut = (covered & beside).sum((-2, -1)) > 3
    return bool(cut[masks.present[frame]].all())


def _overall(quality: list[FrameQuality], hidden: dict[str, Tensor], observations: Observations) -> tuple[str, ...]:
    frames = observations.num_frames
    warnings = []
    for limb, where in hidden.items():
        if 2 * int(where.sum()) >= frames:
            warnings.append(f"the {limb} is hidden in {int(where.sum())} of {frames} frames")
    unusable = sum(not q.usable for q in quality)
    if unusable:
        warnings.append(f"{unusable} of {frames} frames should be left out")
    if observations.num_cameras == 1 and frames == 1:
        warnings.append("one image of one camera: how far limbs reach towards the camera is a guess")
    return tuple(warnings)
