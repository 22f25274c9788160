"""Energy terms of a fit: pure functions that return one number per frame.

Residuals in images are converted to metres at the depth of the person, so that all lengths compare. Each term is a
negative log-likelihood up to a factor, which `energy.py` sets.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from smpl_renderer.fitting.robust import geman_mcclure, huber


def landmark_term(
    pixels: Float[Tensor, "F C L 2"],
    targets: Float[Tensor, "F C L 2"],
    weights: Float[Tensor, "F C L"],
    pixel_sizes: Float[Tensor, "F C"],
    sigmas: Float[Tensor, " L"],
    width: float,
) -> Float[Tensor, " F"]:
    """Distance of projected from detected landmarks, summed over landmarks and cameras.

    Args:
        pixels, targets: Positions in pixels; targets are finite where they count.
        weights: Weight of each landmark, 0 where it is missing.
        pixel_sizes: Metres per pixel at the person.
        sigmas: Standard deviations in metres.
        width: Width of the robust loss, in standard deviations.
    """
    squared = ((pixels - targets) * pixel_sizes[..., None, None] / sigmas[:, None]).square().sum(-1)
    return (weights * geman_mcclure(squared, width)).sum((1, 2))


def bone_term(
    bones: Float[Tensor, "F C B 3"],
    targets: Float[Tensor, "F C B 3"],
    whitening: Float[Tensor, "F C B 3 3"],
    weights: Float[Tensor, "F C B"],
    width: float,
) -> Float[Tensor, " F"]:
    """Difference of bone directions from those of a single-image network, in each camera's axes.

    Lengths do not count: the network's scale is that of an average person.

    Args:
        bones, targets: Any length.
        whitening: Takes differences of unit vectors to standard deviations; depth is less certain.
        weights: Weight of each bone, 0 where it is missing.
        width: Width of the robust loss, in standard deviations.
    """
    difference = normalize(bones, dim=-1) - normalize(targets, dim=-1)
    squared = (whitening @ difference[..., None]).square().sum((-2, -1))
    return (weights * geman_mcclure(squared, width)).sum((1, 2))


def outside_term(
    distances: Float[Tensor, "F C N"], pixel_sizes: Float[Tensor, "F C"], sigma: float, width: float
) -> Float[Tensor, " F"]:
    """Distance of the body's points from the inside of the masks: mean over points, sum over cameras.

    Args:
        distances: To the mask in pixels, 0 inside.
        pixel_sizes: Metres per pixel at the person; 0 where there is no mask.
        sigma: Standard deviation in metres.
        width: Residual from which on the loss is linear, in standard deviations.
    """
    return huber(distances * (pixel_sizes / sigma)[..., None], width).mean(2).sum(1)


def match_outline(
    outline: Float[Tensor, "F C P 2"],
    normals: Float[Tensor, "F C P 2"],
    pixels: Float[Tensor, "F C N 2"],
    point_normals: Float[Tensor, "F C N 2"],
    pixel_sizes: Float[Tensor, "F C"],
    reach: float,
) -> Int[Tensor, "F C P"]:
    """Body point that explains each point of a mask's outline: near it, and with a like normal.

    Args:
        outline, normals: Points and unit normals of the mask's outline, in pixels.
        pixels, point_normals: Points of the body, and x and y of their normals in the camera, of length 1 on its rim.
        pixel_sizes: Metres per pixel.
        reach: Distance in metres that weighs as much as normals at right angles.
    """
    scale = (pixel_sizes / reach)[..., None, None]
    wanted = torch.cat([outline * scale, normals], -1)
    offered = torch.cat([pixels * scale, point_normals], -1)
    # |a - b|^2 up to |a|^2, which does not change the nearest; centred, as float32 cancels otherwise.
    middle = offered.mean(-2, keepdim=True)
    wanted, offered = wanted - middle, offered - middle
    return (offered.square().sum(-1)[..., None, :] - 2 * wanted @ offered.mT).argmin(-1)


def outline_term(
    outline: Float[Tensor, "F C P 2"],
    normals: Float[Tensor, "F C P 2"],
    matched: Float[Tensor, "F C P 2"],
    weights: Float[Tensor, "F C P"],
    pixel_sizes: Float[Tensor, "F C"],
    sigma: float,
    width: float,
    clearance: Float[Tensor, "F C P"],
) -> Float[Tensor, " F"]:
    """Distance of the masks' outlines from the body: mean over points, sum over cameras.

    Cloth and hair lie outside of the body, so the mask is expected to exceed it by `clearance`. Large distances cost
    little more than moderate ones. Along the outline the body may slide.

    Args:
        outline, normals: Points of the mask's outline in pixels, and unit normals pointing away from the person.
        matched: The body point of each, from `match_outline`, in pixels.
        weights: Weight of each outline point; 0 for padding.
        pixel_sizes: Metres per pixel at the person; 0 where there is no mask.
        sigma: Standard deviation in metres.
        width: Width of the robust loss, in standard deviations.
        clearance: Metres by which the mask usually exceeds the body.
    """
    offset = (outline - matched) * pixel_sizes[..., None, None]
    along = (offset * normals).sum(-1)
    across = offset.square().sum(-1) - along.square()
    squared = ((along - clearance).square() + 0.1 * across.clamp_min(0)) / sigma**2
    count = weights.sum(-1).clamp_min(1)
    return ((weights * geman_mcclure(squared, width)).sum(-1) / count).sum(1)


def ground_term(heights: Float[Tensor, "F N"], sigma: float) -> Float[Tensor, " F"]:
    """Distance of the lowest part of the soles from the ground, and of all soles where they are near it.

    Args:
        heights: Heights of points of the soles over the ground, in metres.
        sigma: Standard deviation in metres.
    """
    lowest = heights.min(1).values / sigma
    standing = geman_mcclure((heights / (2.5 * sigma)).square(), 1.0).mean(1)
    sinking = 0.5 * torch.relu(-heights / sigma).square().mean(1)
    return 0.5 * torch.log1p(lowest.square()) + standing + sinking


def balance_term(
    vertices: Float[Tensor, "F N 3"],
    soles: Float[Tensor, "F M 3"],
    heights: Float[Tensor, "F M"],
    up: Float[Tensor, "F 3"],
    slack: float,
    sigma: float,
) -> Float[Tensor, " F"]:
    """Horizontal distance of the body's centre from its support.

    Args:
        vertices: Spread evenly over the body, so that their mean stands for the centre of mass.
        soles, heights: Points of the soles and their heights over the ground; the lower ones bear more.
        up: Unit vectors.
        slack: Distance in metres that costs nothing.
        sigma: Standard deviation beyond it.
    """
    bearing = torch.softmax(-heights.detach() / 0.03, 1)[..., None]
    lean = vertices.mean(1) - (bearing * soles).sum(1)
    lean = lean - (lean * up).sum(-1, keepdim=True) * up
    # Away from zero the gradient of the length is finite.
    length = (lean.square().sum(-1) + 1e-8).sqrt()
    return geman_mcclure((torch.relu(length - slack) / sigma).square(), 3.0)


def still_feet(ankles: Float[Tensor, "F 2 3"], times: Float[Tensor, " F"] | None, speed: float) -> Float[Tensor, " F"]:
    """Stillness of feet, in [0, 1], for frames at most half a second from another; 1 where that is unknown.

    Args:
        ankles: World positions in metres.
        times: Seconds, ascending, or None.
        speed: Metres per second of the slower foot at which the result is 0.37.
    """
    still = ankles.new_ones(len(ankles))
    if times is None or len(ankles) < 2:
        return still
    steps = (times[1:] - times[:-1]).clamp_min(1e-3)
    speeds = ((ankles[1:] - ankles[:-1]).norm(dim=-1) / steps[:, None]).min(1).values
    share = torch.where(steps < 0.5, torch.exp(-((speeds / speed) ** 2)), 1.0)
    return torch.minimum(torch.cat([still[:1], share]), torch.cat([share, still[:1]]))


def upright_term(trunk: Float[Tensor, "F 3"], up: Float[Tensor, "F 3"], sigma: float) -> Float[Tensor, " F"]:
    """Angle of the trunk (pelvis to neck) from vertical, as twice the squared sine of its half; `sigma` in radians."""
    cosine = (normalize(trunk, dim=-1) * up).sum(-1)
    return geman_mcclure(2 * (1 - cosine) / sigma**2, 2.0)


def roll_term(up: Float[Tensor, "F 3"], rotations: Float[Tensor, "C 3 3"], sigma: float) -> Float[Tensor, " F"]:
    """Roll of the cameras, as sines with standard deviation `sigma`, and their pitch, which is ten times as free.

    Robust for each camera where there are several, because some may be mounted askew.

    Args:
        up: Unit vectors against gravity, in the world.
        rotations: From the world to the cameras (OpenCV axes).
    """
    x, _, z = torch.einsum("cij,fj->fci", rotations, up).unbind(-1)
    squared = (x / sigma).square() + (z / (10 * sigma)).square()
    return (0.5 * squared if len(rotations) == 1 else geman_mcclure(squared, 3.0)).sum(-1)


def pose_term(
    rotations: Float[Tensor, "F J 3 3"], expected: Float[Tensor, "*F J 3 3"], sigma: float, width: float
) -> Float[Tensor, " F"]:
    """Difference of joint rotations from those of another pose, in radians, robust for each joint."""
    squared = (rotations - expected).square().sum((-2, -1)) / 2  # about the squared angle
    return geman_mcclure(squared / sigma**2, width).sum(-1)


def smooth_term(
    joints: Float[Tensor, "F J 3"], times: Float[Tensor, " F"], sigma: float, window: float
) -> Float[Tensor, " F"]:
    """Speed change of the joints between successive frames that are close in time.

    Args:
        joints: World positions in metres.
        times: Seconds, ascending.
        sigma: Standard deviation of accelerations in metres per second squared.
        window: Frames further apart than this many seconds do not count.
    """
    if len(joints) < 3:
        return joints.new_zeros(len(joints))
    steps = (times[1:] - times[:-1]).clamp_min(1e-3)
    speeds = (joints[1:] - joints[:-1]) / steps[:, None, None]
    near = (steps < window).to(joints)
    spans = 0.5 * (steps[1:] + steps[:-1])
    accelerations = (speeds[1:] - speeds[:-1]) / spans[:, None, None]
    inner = geman_mcclure((accelerations / sigma).square().sum(-1), 3.0).mean(-1) * near[1:] * near[:-1]
    return torch.cat([inner.new_zeros(1), inner, inner.new_zeros(1)])
