"""Quality of avatars where no input image shows the person."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from core.inference.evaluation import MetricSuite
from core.losses.metrics import quantize
from core.model.completion import LUMINANCE
from core.types.cameras import Cameras
from core.types.frames import Frames
from smpl_renderer.body_model import BodyModel
from smpl_renderer.mesh_rasterizer import rasterize_mesh
from smpl_renderer.types import BodyParams

METRICS = {
    "PSNR": "dB, all target views",
    "SSIM": "all target views",
    "LPIPS": "VGG, all target views",
    "far PSNR": "dB, views more than 90 degrees from all input views",
    "far in box": "the same, in the bounding box of the person",
    "far SSIM": "of these views",
    "far LPIPS": "of these views",
    "unseen": "mean absolute error of RGB of 255, in pixels that show a part of the body that no input image shows",
    "mean color": "the same of means over windows of a 15th of the image's side: patterns do not count",
    "hue": "the same without the luminance: light and shade do not count either",
}
WINDOW = 1 / 15
"""Side of the windows, as a share of the image's side."""


def far_views(targets: Cameras, inputs: Cameras) -> Bool[Tensor, " C"]:
    """True for cameras [C] whose azimuth is more than 90 degrees from that of all input cameras [I], in one frame."""
    horizontal = [normalize(cameras.centers[:, [0, 2]], dim=-1) for cameras in (targets, inputs)]
    return ((horizontal[0] @ horizontal[1].mT) < -1e-4).all(1)  # a right angle is not more than 90 degrees


def visible_faces(body: BodyModel, params: BodyParams, cameras: Cameras) -> Tensor:
    """Face of the posed body [F] in each pixel of cameras [F, C]; -1 where there is none: [F, C, H, W]."""
    vertices = body(params).vertices[:, None]
    pixels, depths = cameras.project(vertices)
    return rasterize_mesh(pixels, depths, body.faces, cameras.height, cameras.width)[0]


def unseen_faces(body: BodyModel, inputs: Frames) -> Bool[Tensor, " faces"]:
    """True for faces of the body of which no vertex belongs to a face that is visible in an input image [F, C]."""
    seen = torch.zeros(body.num_vertices, dtype=torch.bool, device=body.faces.device)
    for frame in range(len(inputs.images)):
        ids = visible_faces(body, inputs.body[frame : frame + 1], inputs.cameras[frame : frame + 1]).unique()
        seen[body.faces[ids[ids >= 0]]] = True
    return ~seen[body.faces].any(1)


def unseen_pixels(body: BodyModel, unseen: Bool[Tensor, " faces"], targets: Frames) -> Bool[Tensor, "F C 1 H W"]:
    """Pixels of the person in target images that show an unseen face."""
    ids = visible_faces(body, targets.body, targets.cameras)
    return ((ids >= 0) & unseen[ids.clamp_min(0)])[:, :, None] & (targets.alphas > 0.9)


def color_errors(
    predicted: Float[Tensor, "F C 3 H W"], images: Float[Tensor, "F C 3 H W"], mask: Bool[Tensor, "F C 1 H W"]
) -> tuple[float, float, float]:
    """Mean absolute error of RGB, of 255, in masked pixels: of pixels, of local means, of these without luminance.

    NaN if no pixel is masked.
    """
    if not mask.any():
        return (float("nan"),) * 3
    inside = mask.float()
    difference = (predicted - images) * inside
    side = 2 * round(WINDOW * images.shape[-1] / 2) + 1

    def window_mean(x: Tensor) -> Tensor:
        return avg_pool2d(x.flatten(0, 1), side, 1, side // 2).unflatten(0, x.shape[:2])

    local = window_mean(difference) / window_mean(inside).clamp_min(1e-6)
    luminance = (local * local.new_tensor(LUMINANCE)[:, None, None]).sum(-3, keepdim=True)
    errors = difference, local, local - luminance
    return tuple(255 * float((x.abs() * inside).sum() / (3 * inside.sum())) for x in errors)


def measure_unseen(
    rendered: Float[Tensor, "F C 3 H W"],
    targets: Frames,
    inputs: Frames,
    body: BodyModel,
    metric_suite: MetricSuite,
) -> dict[str, float]:
    """All `METRICS` of renderings of the target images [F, C]; NaN where there is no such view or pixel.

    Args:
        inputs: The frames that the avatar was made from; its first frame gives the directions of the input views.
    """
    rows = metric_suite(rendered, targets)
    far = far_views(targets.cameras[0], inputs.cameras[0])
    is_far = far.expand(len(rendered), -1).flatten().tolist()

    def mean(name: str, only_far: bool) -> float:
        values = [row[name] for row, chosen in zip(rows, is_far) if (chosen or not only_far) and row[name] is not None]
        return sum(values) / len(values) if values else float("nan")

    mask = unseen_pixels(body, unseen_faces(body, inputs), targets)
    errors = color_errors(quantize(rendered), targets.images, mask)
    means = [mean(name, only_far) for only_far, name in _COLUMNS]
    return dict(zip(METRICS, (*means, *errors)))


_COLUMNS = (
    *((False, name) for name in ("psnr", "ssim", "lpips")),
    *((True, name) for name in ("psnr", "psnr_box", "ssim", "lpips")),
)
