"""What paint on the posed body mesh achieves: the least that an avatar has to beat.

Both baselines know the fitted body and the input pictures and draw the body's mesh, with 4 samples a pixel, in

- `mean_color`: one colour, the mean of all foreground pixels of the inputs;
- `vertex_color`: for each vertex, the mean of the input pixels that see it. Vertices that no input sees take the colour
  of the nearest seen one in the rest pose.
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
VISIBLE_WITHIN = 0.02
"""A vertex is seen when it lies at most this far, in metres, behind the nearest surface of its pixel."""


def paint(inputs: Frames, body: BodyModel) -> dict[str, Float[Tensor, "V 3"]]:
    """Vertex colours of each baseline, from the input frames [F, C] of one person."""
    # What the person adds to the picture, without the white that is behind soft borders.
    foreground = inputs.images - (1 - inputs.alphas)
    mean_color = foreground.double().sum((0, 1, 3, 4)) / inputs.alphas.double().sum().clamp(min=1e-6)
    vertices = body(inputs.body).vertices  # [F, V, 3]
    sums = torch.zeros(body.num_vertices, 3, device=vertices.device)
    counts = torch.zeros(body.num_vertices, 1, device=vertices.device)
    for frame, posed in enumerate(vertices):
        cameras = inputs.cameras[frame]
        pixels, depths = cameras.project(posed.expand(*cameras.batch_shape, -1, -1))
        colors, alphas = (_sample(x[frame], pixels, cameras) for x in (foreground, inputs.alphas))
        seen = _visible(pixels, depths, body.faces, cameras) & (alphas[..., 0] > 0.5)
        sums += (colors / alphas.clamp(min=0.5) * seen[..., None]).sum(0)
        counts += seen[..., None].sum(0)
    vertex_color = _fill(sums / counts.clamp(min=1), counts[:, 0] > 0, body.shape_vertices(inputs.body.betas[0]))
    mean_color = mean_color.to(vertex_color)
    return {"mean_color": mean_color.clamp(0, 1).expand(body.num_vertices, 3), "vertex_color": vertex_color.clamp(0, 1)}


def render_painted(
    colors: dict[str, Float[Tensor, "V 3"]], body: BodyModel, params: BodyParams, cameras: Cameras
) -> dict[str, Float[Tensor, "C 3 H W"]]:
    """Draw one posed body in each set of vertex colours, on white, from cameras [C]."""
    height, width = cameras.height, cameras.width
    fine = cameras.resized(width * SUPERSAMPLING, height * SUPERSAMPLING)
    vertices = body(params).vertices
    pixels, depths = fine.project(vertices.expand(*cameras.batch_shape, -1, -1))
    face_ids, barycentrics = rasterize_mesh(pixels, depths, body.faces, fine.height, fine.width)
    covered = face_ids >= 0
    corners = body.faces[face_ids.clamp(min=0)]  # [C, H, W, 3]
    pictures = {}
    for name, vertex_colors in colors.items():
        picture = (vertex_colors[corners] * barycentrics[..., None]).sum(-2)
        picture = torch.where(covered[..., None], picture, torch.ones_like(picture)).movedim(-1, -3)
        pictures[name] = torch.nn.functional.avg_pool2d(picture, SUPERSAMPLING)
    return pictures


def _sample(
    images: Float[Tensor, "C k H W"], pixels: Float[Tensor, "C V 2"], cameras: Cameras
) -> Float[Tensor, "C V k"]:
    """Bilinear samples at pixel positions; zero outside of the picture."""
    grid = pixels / pixels.new_tensor([cameras.width, cameras.height]) * 2 - 1
    return torch.nn.functional.grid_sample(images, grid[:, None], align_corners=False)[:, :, 0].transpose(1, 2)


def _visible(
    pixels: Float[Tensor, "C V 2"], depths: Float[Tensor, "C V"], faces: Tensor, cameras: Cameras
) -> Bool[Tensor, "C V"]:
    """Which vertices are in the picture and not behind another part of the body, by a z-buffer."""
    face_ids, barycentrics = rasterize_mesh(pixels, depths, faces, cameras.height, cameras.width)
    corners = faces[face_ids.clamp(min=0)].flatten(1)  # [C, H W 3]
    corner_depths = depths.gather(1, corners).view_as(barycentrics)
    surface = torch.where(face_ids >= 0, (corner_depths * barycentrics).sum(-1), torch.inf)
    column, row = pixels.floor().long().unbind(-1)
    inside = (column >= 0) & (column < cameras.width) & (row >= 0) & (row < cameras.height) & (depths > 0)
    index = row.clamp(0, cameras.height - 1) * cameras.width + column.clamp(0, cameras.width - 1)
    return inside & (depths <= surface.flatten(1).gather(1, index) + VISIBLE_WITHIN)


def _fill(
    colors: Float[Tensor, "V 3"], seen: Bool[Tensor, " V"], rest_vertices: Float[Tensor, "V 3"]
) -> Float[Tensor, "V 3"]:
    """Give unseen vertices the colour of the nearest seen one."""
    if not seen.any():
        return torch.full_like(colors, 0.5)
    points = rest_vertices.detach().cpu().numpy()
    nearest = cKDTree(points[seen.cpu().numpy()]).query(points)[1]
    return colors[seen][torch.from_numpy(nearest).to(colors.device)]
