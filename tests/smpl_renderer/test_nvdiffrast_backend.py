"""The nvdiffrast backend of the mesh rasterizer: conventions with a fake on the CPU, the real package on a GPU."""

import math
import sys

import pytest
import torch

from smpl_renderer import nvdiffrast_backend
from smpl_renderer.errors import InputError
from smpl_renderer.mesh_rasterizer import rasterize_fragments, rasterize_mesh
from smpl_renderer.types import BodyParams

HEIGHT, WIDTH = 19, 26


def random_triangles(images: int, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(images, 3 * count, 2, generator=generator) * torch.tensor([WIDTH + 8.0, HEIGHT + 8.0]) - 4
    depths = 0.5 + 4 * torch.rand(images, 3 * count, generator=generator)
    return pixels, depths, torch.arange(3 * count).reshape(-1, 3)


class FakeNvdiffrast:
    """Interface and conventions of nvdiffrast (face ranges, clip coordinates, row 0 at y = -1), without rounding."""

    @staticmethod
    def RasterizeCudaContext(device):
        return "context"

    @staticmethod
    def rasterize(context, pos, tri, resolution, ranges, grad_db):
        assert context == "context" and pos.dtype == torch.float32 and tri.dtype == ranges.dtype == torch.int32
        assert not ranges.is_cuda and pos.is_contiguous() and tri.is_contiguous()
        height, width = resolution
        result = torch.zeros(len(ranges), height, width, 4)
        x = (2 * torch.arange(width, dtype=torch.float64) + 1) / width - 1
        y = (2 * torch.arange(height, dtype=torch.float64) + 1) / height - 1
        for image, (first, length) in enumerate(ranges.tolist()):
            nearest = torch.full((height, width), math.inf, dtype=torch.float64)
            for i in range(first, first + length):
                corners = pos[tri[i].long()].double()
                p = [(c[0] - x * c[3], c[1] - y[:, None] * c[3]) for c in corners]
                areas = torch.stack([p[a][0] * p[b][1] - p[a][1] * p[b][0] for a, b in ((1, 2), (2, 0), (0, 1))], -1)
                weights = areas / areas.sum(-1, keepdim=True)
                z_over_w = (weights @ corners[:, 2]) / (weights @ corners[:, 3])
                assert (corners[:, 2].abs() <= corners[:, 3]).all()  # otherwise it would be clipped
                seen = (weights >= 0).all(-1) & (z_over_w < nearest)
                nearest[seen] = z_over_w[seen]
                result[image, seen, 3] = i + 1.0
        return result, None


@pytest.fixture
def fake_nvdiffrast(monkeypatch):
    """Replace the package, so that the adapter runs on the CPU."""
    monkeypatch.setattr(nvdiffrast_backend, "_library", lambda: FakeNvdiffrast)
    monkeypatch.setattr(nvdiffrast_backend, "_context", lambda device: FakeNvdiffrast.RasterizeCudaContext(device))
    monkeypatch.setattr(nvdiffrast_backend, "_refuse_other_devices", lambda device: None)


@pytest.mark.parametrize("options", [{}, {"cull": True}, {"near": 2.0}, {"perspective": False}])
def test_adapter_matches_the_torch_backend(options, fake_nvdiffrast):
    """Three images, the second of which is empty."""
    pixels, depths, faces = random_triangles(3, 10, seed=0)
    depths[1] = 0.001
    expected = rasterize_fragments(pixels, depths, faces, HEIGHT, WIDTH, **options)
    actual = rasterize_fragments(pixels, depths, faces, HEIGHT, WIDTH, backend="nvdiffrast", **options)
    assert len(expected.pixel_ids) > 100
    assert torch.equal(actual.pixel_ids, expected.pixel_ids) and torch.equal(actual.face_ids, expected.face_ids)
    torch.testing.assert_close(actual.barycentrics, expected.barycentrics, rtol=0, atol=1e-5)
    torch.testing.assert_close(actual.depths, expected.depths, rtol=1e-5, atol=0)


def test_an_empty_scene_gives_background(fake_nvdiffrast):
    pixels, depths, faces = random_triangles(2, 4, seed=0)
    face_ids, _ = rasterize_mesh(pixels, 0 * depths, faces, HEIGHT, WIDTH, backend="nvdiffrast")
    assert (face_ids == -1).all()


def test_errors_name_a_remedy_where_it_cannot_run(monkeypatch):
    scene = random_triangles(1, 4, seed=0)
    with pytest.raises(InputError, match=r"CUDA tensors.*backend torch"):
        rasterize_mesh(*scene, HEIGHT, WIDTH, backend="nvdiffrast")
    monkeypatch.setitem(sys.modules, "nvdiffrast", None)
    with pytest.raises(InputError, match=r"cannot be loaded.*requirements-cuda\.txt"):
        nvdiffrast_backend._library()


def test_unknown_backend_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'opengl'.*"):
        rasterize_mesh(*random_triangles(1, 4, seed=0), HEIGHT, WIDTH, backend="opengl")


@pytest.mark.gpu
def test_real_package_differs_at_borders_only(body):
    """Rounding vertices to 1/16 pixel moves the borders of faces of about 10 pixels, and thus few pixels."""
    pytest.importorskip("nvdiffrast.torch")
    vertices = body(BodyParams.zeros(2)).vertices.detach()
    points = torch.stack([vertices[0], vertices[1].flip(-1)]) + torch.tensor([0.0, 0.3, 3.0])
    pixels, depths = 600 * points[..., :2] / points[..., 2:] + 256, points[..., 2]
    scene = (pixels.cuda(), depths.cuda(), body.faces.cuda(), 512, 512)
    (ours, _), (nvdiffrast, weights) = rasterize_mesh(*scene), rasterize_mesh(*scene, backend="nvdiffrast")
    covered, other = ours >= 0, nvdiffrast >= 0
    assert covered.double().mean() > 0.05
    assert (covered != other).sum() < 2e-3 * covered.sum()
    assert ((ours != nvdiffrast) & covered).sum() < 0.1 * covered.sum()
    torch.testing.assert_close(weights.sum(-1), other.float())
