"""Which vertices the input images show."""

import pytest
import torch

from core.avatar.avatar import Avatar
from core.inference.coverage import count_views_seen
from core.types.frames import Frames
from smpl_renderer.mesh_rasterizer import rasterize_mesh


@pytest.fixture(scope="module")
def painted(plain) -> Avatar:
    return plain


def test_vertices_are_counted_where_images_show_them(body, painted, rendered_frames):
    inputs = rendered_frames[0]
    seen = count_views_seen(painted[0], body, inputs).int()
    cameras = inputs.cameras
    expected = torch.zeros(body.num_vertices, dtype=torch.int32)
    for frame, vertices in enumerate(body(inputs.body).vertices):
        for view in range(cameras.batch_shape[1]):
            pixels, depths = cameras[frame, view].project(vertices)
            face_ids, _ = rasterize_mesh(4 * pixels, depths, body.faces, 4 * cameras.height, 4 * cameras.width)
            drawn = torch.zeros(body.num_vertices, dtype=torch.int32)
            drawn[body.faces[face_ids[face_ids >= 0].long()].flatten()] = 1
            expected += drawn
    # Most vertices are visible in about half of the images; Gaussians need a margin to the silhouette.
    # At 96 pixels, parts that are hidden by a few centimetres count as visible, as in the sampling of colours.
    assert torch.corrcoef(torch.stack([seen, expected]).float())[0, 1] > 0.5
    assert ((seen > 0) & (expected == 0)).float().mean() < 0.04
    assert (seen[expected >= 2] > 0).float().mean() > 0.98


def test_images_add_up_and_masks_count(body, painted, rendered_frames):
    inputs = rendered_frames[0]

    def count(views: slice, alpha: float = 1.0) -> torch.Tensor:
        images, alphas = inputs.images[:, views], alpha * inputs.alphas[:, views]
        return count_views_seen(painted[0], body, Frames(images, alphas, inputs.cameras[:, views], inputs.body))

    one, rest = count(slice(1)), count(slice(1, None))
    assert torch.equal(count(slice(None)), one + rest)
    assert one.dtype == torch.uint8 and one.max() == 2  # two frames
    assert count(slice(None), 0.0).sum() == 0
