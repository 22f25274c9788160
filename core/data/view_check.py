"""Check of single images against the fit of their frame: the posed skeleton must lie on the mask, and little beside it.

The check is cheap: joints instead of vertices, and a coarse grid of the mask. It finds masks that are empty, belong to
another frame or camera, or hold further people; it does not measure the accuracy of fits.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from core.types.cameras import Cameras
from smpl_renderer.body_model import BodyModel
from smpl_renderer.rotations import axis_angle_to_matrix
from smpl_renderer.types import BodyParams

SAMPLES = 6
"""Points on each bone."""
MIN_INSIDE = 0.2
"""Smallest share of the skeleton that is in an image of the person."""
MIN_COVER = 0.5
"""Smallest share of the skeleton in the image that lies on the mask. Objects may hide the rest."""
MARGIN = 0.18
"""Width of clothes and hair around the skeleton, as a share of its height or width in the image."""
MAX_FOREIGN = 0.35
"""Largest area of the mask beyond that margin, relative to the area within."""
GRID = 48
"""Cells of the mask along its longer side."""


@torch.no_grad()
def skeleton_points(params: BodyParams, body: BodyModel) -> Float[Tensor, "F P 3"]:
    """Points along the bones of posed bodies [F], in the world of the fits; pose correctives have no influence."""
    return _along_bones(posed_joints(params, body), body.parents)


@torch.no_grad()
def posed_joints(params: BodyParams, body: BodyModel) -> Float[Tensor, "F J 3"]:
    """Joints of posed bodies [F], without their vertices."""
    betas = params.betas
    template, dirs = body.joint_template.to(betas), body.joint_dirs[:, : betas.shape[-1]].to(betas)
    rest = (template + betas @ dirs.mT).unflatten(-1, (-1, 3))
    pose = torch.cat([params.global_orient, params.body_pose], -1).unflatten(-1, (-1, 3))
    rotations = axis_angle_to_matrix(pose)
    positions, orientations = [rest[:, 0]], [rotations[:, 0]]
    for joint, parent in enumerate(body.parents[1:], start=1):
        bone = rest[:, joint] - rest[:, parent]
        positions.append(positions[parent] + (orientations[parent] @ bone[..., None])[..., 0])
        orientations.append(orientations[parent] @ rotations[:, joint])
    return params.scale[:, None, None] * torch.stack(positions, 1) + params.transl[:, None]


def _along_bones(joints: Float[Tensor, "F J 3"], parents: tuple[int, ...]) -> Float[Tensor, "F P 3"]:
    share = torch.linspace(0, 1, SAMPLES, dtype=joints.dtype)[:, None, None]
    ends, starts = joints[:, 1:], joints[:, list(parents[1:])]
    return (starts[:, None] * (1 - share) + ends[:, None] * share).flatten(1, 2)


def view_faults(points: Float[Tensor, "N P 3"], cameras: Cameras, alphas: UInt8[Tensor, "N H W"]) -> list[str | None]:
    """Fault of each of N images, as text; None for a sound one.

    Args:
        points: Points of the skeleton (`skeleton_points`), in the world of the cameras.
        cameras: [N], for images of the size of `alphas`.
        alphas: Masks.
    """
    count, height, width = alphas.shape
    step = max(1, -(-max(height, width) // GRID))
    cells = alphas[:, step // 2 :: step, step // 2 :: step] > 127
    pixels, depths = cameras.project(points)
    pixels = (pixels / step).float()  # in cells
    limits = torch.tensor([cells.shape[2], cells.shape[1]])
    inside = (depths > 0) & (pixels >= 0).all(-1) & (pixels < limits).all(-1)
    columns, rows = (pixels.nan_to_num(0).clamp(-1e6, 1e6).long() * inside[..., None]).unbind(-1)
    on_mask = cells[torch.arange(count)[:, None], rows, columns] & inside
    num_inside = inside.sum(1)
    covered = on_mask.sum(1) / num_inside.clamp_min(1)
    near = cells & _near(pixels, inside, cells.shape[1:])
    area, near_area = cells.sum((1, 2)), near.sum((1, 2))
    foreign = (area - near_area) / near_area.clamp_min(1)
    faults: list[str | None] = []
    for i in range(count):
        share_inside = float(num_inside[i] / inside.shape[1])
        faults.append(_fault(share_inside, int(area[i]), cells[i].numel(), float(covered[i]), float(foreign[i])))
    return faults


def _fault(inside: float, area: int, cells: int, covered: float, foreign: float) -> str | None:
    if inside < MIN_INSIDE:
        return "the fit is outside of the image"
    if area == 0:
        return "its mask is empty"
    if covered < MIN_COVER:
        return f"its mask does not meet the fit ({covered:.0%} of the skeleton lies on it)"
    if area > 0.95 * cells:
        return "its mask covers the whole image"
    if foreign > MAX_FOREIGN:
        return f"its mask holds a second person or an object ({foreign:.0%} of the person's area lies beside the fit)"
    return None


def _near(pixels: Float[Tensor, "N P 2"], inside: Tensor, shape: torch.Size) -> Float[Tensor, "N h w"]:
    """True for cells within the margin of the skeleton: in each row, between its outermost points and around them."""
    count, (height, width) = len(pixels), shape
    low = torch.where(inside[..., None], pixels, torch.inf).amin(1)
    high = torch.where(inside[..., None], pixels, -torch.inf).amax(1)
    margin = MARGIN * (high - low).amax(-1).nan_to_num(0, 0, 0)[:, None]  # [N, 1], in cells
    rows = pixels[..., 1].nan_to_num(0).clamp(0, height - 1).long()
    left = torch.full((count, height), torch.inf).scatter_reduce(
        1, rows, torch.where(inside, pixels[..., 0], torch.inf), "amin"
    )
    right = torch.full((count, height), -torch.inf).scatter_reduce(
        1, rows, torch.where(inside, pixels[..., 0], -torch.inf), "amax"
    )
    left, right = _spread(left, margin, -1), _spread(right, margin, 1)
    x = torch.arange(width) + 0.5
    return (x >= (left - margin)[..., None]) & (x <= (right + margin)[..., None])


def _spread(ends: Float[Tensor, "N h"], margin: Float[Tensor, "N 1"], sign: int) -> Float[Tensor, "N h"]:
    """Outermost ends of all rows within the margin above and below."""
    height = ends.shape[1]
    apart = (torch.arange(height)[:, None] - torch.arange(height)).abs()
    near = apart[None] <= margin[..., None].clamp_min(1)
    return sign * torch.where(near, sign * ends[:, None], -torch.inf).amax(-1)
