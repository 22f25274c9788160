"""Coverage of an avatar: the parts of the body that the input images show. The rest is the network's guess."""

import torch
from jaxtyping import UInt8
from torch import Tensor

from core.avatar.avatar import Avatar
from core.model.surface import surface_axes
from core.ops.color_observations import observe
from core.types.frames import Frames
from smpl_renderer.body_model import BodyModel


@torch.no_grad()
def count_views_seen(avatar: Avatar, body: BodyModel, inputs: Frames) -> UInt8[Tensor, " V"]:
    """Number of input images, at most 255, in which each vertex of the body is visible.

    A vertex is visible where the colour of one of its Gaussians would be sampled: inside the mask, on a surface that
    faces the camera, behind no other one (`core.ops.color_observations`).

    Args:
        avatar: An avatar without batch axes.
        body: Its body.
        inputs: Its input frames [F, C].
    """
    normals = surface_axes(body)[0][..., 2]
    batch = Frames.stack([inputs])
    visible = observe(avatar[None], normals, batch, body.pose(batch.body)).visible[0].flatten(0, 1)  # [F C, N]
    seen = torch.zeros(len(visible), body.num_vertices, dtype=torch.int32, device=visible.device)
    seen.scatter_reduce_(1, avatar.vertex_ids.expand(len(visible), -1), visible.int(), "amax")
    return seen.sum(0).clamp(max=255).to(torch.uint8)
