"""Baselines without a network: the mesh of the fitted body, coloured from the input images.

The mesh is rendered with 4 samples per pixel, with vertex colours that are

- `mean_color`: one colour, the mean of all foreground pixels of the inputs;
- `vertex_color`: for each vertex, the mean of the input pixels in which it is visible. A vertex that is visible in no
  input has the colour of the nearest visible one in the rest pose.
"""

import torch
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree
from torch import Tensor

from core.types.cameras import Cameras
from core.types.frames import Frames
from smpl_renderer.body_model import BodyModel
from smpl_renderer.mesh_rasterizer import rasterize_mesh
from smpl_renderer.types import BodyParams

SUPERSAMPLING = 2
"""Samples per pixel along each axis."""
DEPTH_TOLERANCE = 0.02
"""Maximum distance, in metres, of a visible vertex behind the nearest surface at its pixel."""


def baseline_colors(inputs: Frames, body: BodyModel) -> dict[str, Float[Tensor, "V 3"]]:
    """Vertex colours of each baseline, from the input frames [F, C] of one subject."""
    # Images are on white; this subtracts the white that shines through soft borders.
    foreground = inputs.images - (1 - inputs.alphas)
    mean_color = foreground.double().sum((0, 1, 3, 4)) / inputs.alphas.double().sum().clamp(min=1e-6)
    vertices = body(inputs.body).vertices  # [F, V, 3]
    sums = torch.zeros(body.num_vertices, 3, device=vertices.device)
    counts = torch.zeros(body.num_vertices, 1, device=vertices.device)
    for frame, posed in enumerate(vertices):
        cameras = inputs.cameras[frame]
        pixels, depths = cameras.project(posed.expand(*cameras.batch_shape, -1, -1))
        colors, alphas = (_sample(x[frame], pixels, cameras) for x in (foreground, inputs.alphas))
        visible = _visible(pixels, depths, body.faces, cameras) & (alphas[..., 0] > 0.5)
        sums += (colors / alphas.clamp(min=0.5) * visible[..., None]).sum(0)
        counts += visible[..., None].sum(0)
    vertex_color = _fill(sums / counts.clamp(min=1), counts[:, 0] > 0, body.shape_vertices(inputs.body.betas[0]))
    mean_color = mean_color.to(vertex_color)
    return {"mean_color": mean_color.clamp(0, 1).expand(body.num_vertices, 3), "vertex_color": vertex_color.clamp(0, 1)}


def render_baselines(
    colors: dict[str, Float[Tensor, "V 3"]], body: BodyModel, params: BodyParams, cameras: Cameras
) -> dict[str, Float[Tensor, "C 3 H W"]]:
    """Render one posed body in each set of vertex colours, on white, from cameras [C]."""
    height, width = cameras.height, cameras.width
    fine = cameras.resized(width * SUPERSAMPLING, height * SUPERSAMPLING)
    vertices = body(params).vertices
    pixels, depths = fine.project(vertices.expand(*cameras.batch_shape, -1, -1))
    face_ids, barycentrics = rasterize_mesh(pixels, depths, body.faces, fine.height, fine.width)
    covered = face_ids >= 0
    corners = body.faces[face_ids.clamp(min=0)]  # [C, H, W, 3]
    images = {}
    for name, vertex_colors in colors.items():
        image = (vertex_colors[corners] * barycentrics[..., None]).sum(-2)
        image = torch.where(covered[..., None], image, torch.ones_like(image)).movedim(-1, -3)
        images[name] = torch.nn.functional.avg_pool2d(image, SUPERSAMPLING)
    return images


def _sample(
    images: Float[Tensor, "C k H W"], pixels: Float[Tensor, "C V 2"], cameras: Cameras
) -> Float[Tensor, "C V k"]:
    """Bilinear samples at pixel positions; zero outside the image."""
    grid = pixels / pixels.new_tensor([cameras.width, cameras.height]) * 2 - 1
    return torch.nn.functional.grid_sample(images, grid[:, None], align_corners=False)[:, :, 0].transpose(1, 2)


def _visible(
    pixels: Float[Tensor, "C V 2"], depths: Float[Tensor, "C V"], faces: Tensor, cameras: Cameras
) -> Bool[Tensor, "C V"]:
    """Visibility of vertices: inside the image and not behind another part of the body, by a z-buffer."""
    face_ids, barycentrics = rasterize_mesh(pixels, depths, faces, cameras.height, cameras.width)
    corners = faces[face_ids.clamp(min=0)].flatten(1)  # [C, H W 3]
    corner_depths = depths.gather(1, corners).view_as(barycentrics)
    surface = torch.where(face_ids >= 0, (corner_depths * barycentrics).sum(-1), torch.inf)
    column, row = pixels.floor().long().unbind(-1)
    inside = (column >= 0) & (column < cameras.width) & (row >= 0) & (row < cameras.height) & (depths > 0)
    index = row.clamp(0, cameras.height - 1) * cameras.width + column.clamp(0, cameras.width - 1)
    return inside & (depths <= surface.flatten(1).gather(1, index) + DEPTH_TOLERANCE)


def _fill(
    colors: Float[Tensor, "V 3"], visible: Bool[Tensor, " V"], rest_vertices: Float[Tensor, "V 3"]
) -> Float[Tensor, "V 3"]:
    """Colours in which each vertex that is not visible has that of the nearest visible one."""
    if not visible.any():
        return torch.full_like(colors, 0.5)
    points = rest_vertices.detach().cpu().numpy()
    nearest = cKDTree(points[visible.cpu().numpy()]).query(points)[1]
    return colors[visible][torch.from_numpy(nearest).to(colors.device)]
