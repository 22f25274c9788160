"""The stand-in body in known poses, as exact landmarks and masks: what a fit must recover."""

import math
from dataclasses import replace

import torch

from smpl_renderer.body_model import JOINT_NAMES, BodyModel
from smpl_renderer.fitting import Observations, Silhouettes
from smpl_renderer.fitting.landmarks import landmark_table
from smpl_renderer.fitting.point_model import PointModel, Pose
from smpl_renderer.fitting.projection import project, turn_to_cameras
from smpl_renderer.mesh_rasterizer import rasterize_mesh
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from smpl_renderer.types import BodyParams

WIDTH, HEIGHT, FOCAL = 360, 480, 480.0


def standing_bodies(
    azimuths: list[float], *, betas: tuple[float, ...] = (), scale: float = 1.0, depth: float = 3.4, seed: int = 0
) -> BodyParams:
    """Standing bodies with unlike arms, turned about the vertical, in a camera with y down; their feet are level."""
    frames = len(azimuths)
    rng = torch.Generator().manual_seed(seed)
    pose = torch.zeros(frames, 23, 3)

    def set_joint(name: str, axis: int, values: torch.Tensor) -> None:
        pose[:, JOINT_NAMES.index(name) - 1, axis] = values

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(frames, generator=rng)

    set_joint("left_shoulder", 2, uniform(-1.1, -0.6))
    set_joint("right_shoulder", 2, uniform(0.6, 1.1))
    set_joint("left_elbow", 1, uniform(-0.8, -0.2))
    set_joint("right_elbow", 1, uniform(0.2, 0.8))
    set_joint("left_hip", 2, torch.full((frames,), 0.08))
    set_joint("right_hip", 2, torch.full((frames,), -0.08))
    upright = axis_angle_to_matrix(torch.tensor([math.pi, 0.0, 0.0]))
    turns = torch.tensor([[0.0, azimuth, 0.0] for azimuth in azimuths])
    shape = torch.zeros(10)
    shape[: len(betas)] = torch.tensor(betas)
    return BodyParams(
        betas=shape.expand(frames, -1).clone(),
        global_orient=matrix_to_axis_angle(axis_angle_to_matrix(turns) @ upright),
        body_pose=pose.flatten(1),
        transl=torch.tensor([[0.03 * i, 0.25, depth] for i in range(frames)]),
        scale=torch.full((frames,), scale),
    )


def ring_cameras(count: int, distance: float = 3.4) -> torch.Tensor:
    """World to camera of cameras around a body `distance` before the first one, whose frame is the world."""
    viewmats = []
    for index in range(count):
        T = torch.eye(4)
        T[:3, :3] = axis_angle_to_matrix(torch.tensor([0.0, 2 * math.pi * index / count, 0.0]))
        T[:3, 3] = torch.tensor([0.0, 0.0, distance]) - T[:3, :3] @ torch.tensor([0.0, 0.0, distance])
        viewmats.append(T)
    return torch.stack(viewmats)


@torch.no_grad()
def observe_bodies(
    params: BodyParams,
    body: BodyModel,
    viewmats: torch.Tensor | None = None,
    *,
    layout: str = "mediapipe",
    masks: bool = True,
    depth: bool = True,
    up: bool = False,
    times: torch.Tensor | None = None,
) -> Observations:
    """Exact observations of bodies.

    Args:
        params: Batch axis F.
        viewmats: One camera in the world's origin by default.
        depth: Give landmarks in 3D, as a network that makes no errors.
        up: State the direction against gravity.
    """
    viewmats = torch.eye(4)[None] if viewmats is None else viewmats
    cameras = len(viewmats)
    Ks = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]).repeat(cameras, 1, 1)
    posed = PointModel(body, torch.zeros(1, dtype=torch.int64), landmark_table(layout))(Pose.from_params(params))
    pixels, _ = project(posed.landmarks, Ks, viewmats)
    centred = posed.landmarks - posed.landmarks.mean(1, keepdim=True)
    silhouettes = None
    if masks:
        silhouettes = Silhouettes.from_masks(
            [[_mask(vertices, body, K, T) for K, T in zip(Ks, viewmats)] for vertices in body(params).vertices]
        )
    return Observations(
        Ks=Ks,
        viewmats=viewmats,
        image_sizes=torch.tensor([[WIDTH, HEIGHT]]).float().repeat(cameras, 1),
        landmarks=pixels,
        visibility=torch.ones(pixels.shape[:-1]),
        world_landmarks=turn_to_cameras(centred, viewmats) if depth else None,
        silhouettes=silhouettes,
        layout=layout,
        times=times,
        up=torch.tensor([0.0, -1.0, 0.0]) if up else None,
    )


def _mask(vertices: torch.Tensor, body: BodyModel, K: torch.Tensor, T: torch.Tensor) -> torch.Tensor:
    pixels, depths = project(vertices[None], K[None], T[None])
    faces, _ = rasterize_mesh(pixels[0, 0], depths[0, 0], body.faces, HEIGHT, WIDTH)
    return faces >= 0


def vertex_error(a: BodyParams, b: BodyParams, body: BodyModel) -> float:
    """Mean distance of vertices in millimetres."""
    with torch.no_grad():
        return 1000 * float((body(a).vertices - body(b).vertices).norm(dim=-1).mean())


@torch.no_grad()
def with_skirts(seen: Observations, params: BodyParams, body: BodyModel, cells: int = 12) -> Observations:
    """The same observations with masks that are wider by so many cells on both sides, from the waist to the knees."""
    masks = seen.silhouettes
    alphas = masks.alphas.clone()
    pixels, _ = project(body(params).joints, seen.Ks, seen.viewmats)
    rows = ((pixels[..., 1] - masks.windows[..., None, 1]) / masks.windows[..., None, 2] * alphas.shape[-1]).long()
    top, bottom = (rows[..., JOINT_NAMES.index(name)] for name in ("spine1", "left_knee"))
    for f in range(len(alphas)):
        for c in range(alphas.shape[1]):
            for row in range(int(top[f, c]), int(bottom[f, c])):
                covered = alphas[f, c, row].nonzero()
                alphas[f, c, row, covered.min() - cells : covered.max() + cells + 1] = 1
    return replace(seen, silhouettes=replace(masks, alphas=alphas))
