"""Fixtures for tests of the model."""

import copy
import functools
from collections.abc import Callable, Iterator

import pytest
import torch
from model_rig import TEST_MODEL, random_poses, ring_cameras

import core.checkpoint
import core.model.hgg
from core.avatar.avatar import Avatar
from core.avatar.rendering import render_avatar
from core.model.decode import RAW_CHANNELS
from core.model.heads import decode_on_surface
from core.model.surface import place_queries
from core.types.cameras import Cameras
from core.types.frames import Frames
from smpl_renderer.body_model import BodyModel
from smpl_renderer.connectivity import NUM_NEIGHBORS, Connectivity, build_connectivity
from smpl_renderer.mesh_rasterizer import rasterize_mesh


@pytest.fixture(scope="session", autouse=True)
def neighborhoods_are_found_once() -> Iterator[None]:
    """Models of one body share the search for neighbourhoods, not the tensors."""

    @functools.cache
    def find(fingerprint: str, num_neighbors: int) -> Connectivity:
        return build_connectivity(bodies[fingerprint], num_neighbors)

    def build(body: BodyModel, num_neighbors: int = NUM_NEIGHBORS) -> Connectivity:
        bodies[body.fingerprint] = body
        return copy.deepcopy(find(body.fingerprint, num_neighbors))

    bodies: dict[str, BodyModel] = {}
    with pytest.MonkeyPatch.context() as patch:
        for module in (core.checkpoint, core.model.hgg):
            patch.setattr(module, "build_connectivity", build)
        yield


@pytest.fixture(scope="session")
def make_frames(body: BodyModel) -> Callable[..., Frames]:
    """Frames of B subjects with random colours inside of their silhouettes."""

    def make(batch: int = 1, frames: int = 2, views: int = 2, size: int = 32, seed: int = 0) -> Frames:
        params = random_poses(body, batch, frames, seed=seed)
        ring = ring_cameras(views, size)
        shape = (batch, frames, views)
        cameras = Cameras(ring.viewmats.expand(*shape, 4, 4), ring.Ks.expand(*shape, 3, 3), size, size)
        pixels, depths = cameras.project(body(params).vertices[:, :, None])
        face_ids, _ = rasterize_mesh(pixels, depths, body.faces, size, size)
        alphas = (face_ids >= 0).float()[..., None, :, :]
        colors = torch.rand(*shape, 3, size, size, generator=torch.Generator().manual_seed(seed))
        return Frames(colors * alphas + 1 - alphas, alphas, cameras, params)

    return make


@pytest.fixture(scope="session")
def connectivity(body: BodyModel) -> Connectivity:
    return build_connectivity(body, TEST_MODEL.graph.neighbors)


@pytest.fixture(scope="session")
def plain(body: BodyModel) -> Avatar:
    """The body in grey: one Gaussian at each vertex, placed as by an untrained head."""
    vertex_ids = torch.arange(body.num_vertices)[None]
    raw = torch.zeros(1, body.num_vertices, RAW_CHANNELS)
    identity = {"vertex_ids": vertex_ids, "betas": torch.zeros(1, 10), "body": body.fingerprint}
    return decode_on_surface(raw, place_queries(body, 1), **identity)


@pytest.fixture(scope="module")
def rendered_frames(body: BodyModel, painted: Avatar, make_frames) -> Frames:
    """Renderings of the test module's `painted` body in two frames of four views."""
    frames = make_frames(frames=2, views=4, size=96)
    with torch.no_grad():
        rendering = render_avatar(painted, body, frames.body, frames.cameras)
    return Frames(rendering.colors, rendering.alphas, frames.cameras, frames.body)
