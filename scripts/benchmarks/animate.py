"""Timing of an avatar in a new pose for every image: posing, rasterization, and both."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from core.avatar.avatar import Avatar, pose_avatar
from core.avatar.rendering import render_avatar
from core.render import rasterize
from core.render.backends import backend_name
from core.types.cameras import Cameras
from core.utils.device import DeviceName, pick_device
from core.utils.ranges import Count, ImageSize
from scripts.benchmarks.common import graph_replay, median_ms, peak_mb, report
from scripts.benchmarks.render_job import CAPTURABLE
from scripts.benchmarks.splat_scenes import ring
from smpl_renderer.body_files import STANDIN_BODY, load_body
from smpl_renderer.body_model import JOINT_NAMES, BodyModel
from smpl_renderer.types import BodyParams

BATCHES = 3  # batches of poses, used in turn
MOTION = ("global_orient", "body_pose", "transl")  # fields of the body parameters that change


@dataclass(frozen=True)
class AnimateTiming:
    """Medians in milliseconds for a batch of images, each of another pose; `graph_ms` is both steps in a CUDA graph."""

    gaussians: int
    poses: int
    size: int
    pose_ms: float
    raster_ms: float
    both_ms: float
    frames_per_second: float
    graph_ms: float | None
    graph_frames_per_second: float | None
    peak_mb: float | None


def animate(
    gaussians: tuple[Count, ...] = (13_000, 28_000),
    poses: Count = 32,
    size: ImageSize = 512,
    backend: str = "auto",
    repeats: Count | None = None,
    device: DeviceName = "auto",
    out: Path | None = None,
) -> None:
    """Render an avatar in a new pose for every image.

    Args:
        gaussians: Numbers of Gaussians of the avatar, which lie on the skin of the stand-in body.
        poses: Images per call.
        size: Width and height of an image in pixels.
        backend: The rasterizer.
        repeats: Timed calls of each case; by default 20 on a GPU and 3 on a CPU.
        device: Device to time.
        out: Also write the timings to this JSON file.
    """
    where = pick_device(device)
    repeats = repeats or (20 if where.type == "cuda" else 3)
    body = load_body(STANDIN_BODY).to(where)
    timings = [
        time_animation(body, count, poses, size, backend, repeats, where)
        for count in tqdm(gaussians, desc="animate", unit="case")
    ]
    header = ["Gaussians", "poses", "pixels", "pose ms", "raster ms", "both ms", "frames/s"]
    header += ["graph ms", "graph frames/s", "peak MB"]
    print(report("animate", header, timings, where, out))


@torch.no_grad()
def time_animation(
    body: BodyModel, count: int, poses: int, size: int, backend: str, repeats: int, device: torch.device
) -> AnimateTiming:
    """Time an avatar of `count` Gaussians."""
    avatar = random_avatar(body, count).to(device)
    betas = avatar.betas.expand(poses, -1)
    batches = [replace(random_poses(body, poses, seed).to(device), betas=betas) for seed in range(BATCHES)]
    cameras = one_camera_each(poses, size).to(device)
    posed = [pose_avatar(avatar, body, params) for params in batches]

    def pose(i: int) -> object:
        return pose_avatar(avatar, body, batches[i % BATCHES])

    def raster(i: int) -> object:
        gaussians = posed[i % BATCHES]
        return rasterize(gaussians, cameras.viewmats, cameras.Ks, size, size, backend=backend)

    def both(i: int) -> object:
        return render_avatar(avatar, body, batches[i % BATCHES], cameras, backend=backend)

    pose_ms, raster_ms, both_ms = (median_ms(call, repeats, device) for call in (pose, raster, both))
    graph_ms = None
    if device.type == "cuda" and backend_name(backend, device) in CAPTURABLE:
        params = BodyParams(**vars(batches[0]) | {name: getattr(batches[0], name).clone() for name in MOTION})
        replay = graph_replay(lambda _: render_avatar(avatar, body, params, cameras, backend=backend))

        def pose_and_replay(i: int) -> None:
            for name in MOTION:
                getattr(params, name).copy_(getattr(batches[i % BATCHES], name))
            replay(i)

        graph_ms = median_ms(pose_and_replay, repeats, device)
    return AnimateTiming(
        gaussians=count,
        poses=poses,
        size=size,
        pose_ms=pose_ms,
        raster_ms=raster_ms,
        both_ms=both_ms,
        frames_per_second=1000 * poses / both_ms,
        graph_ms=graph_ms,
        graph_frames_per_second=None if graph_ms is None else 1000 * poses / graph_ms,
        peak_mb=peak_mb(both, device),
    )


def random_avatar(body: BodyModel, count: int) -> Avatar:
    """`count` Gaussians of random colours and rotations on the skin; sizes and opacities as in a trained avatar."""
    generator = torch.Generator().manual_seed(0)
    return Avatar(
        offsets=0.003 * torch.randn(count, 3, generator=generator),
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1),
        scales=0.009 * math.sqrt(13_000 / count) * torch.exp(0.35 * torch.randn(count, 3, generator=generator)),
        opacities=torch.sigmoid(2 + 1.5 * torch.randn(count, generator=generator)),
        colors=torch.rand(count, 3, generator=generator),
        vertex_ids=torch.arange(count) * body.num_vertices // count,
        betas=torch.zeros(body.num_betas),
        body=body.fingerprint,
    )


def random_poses(body: BodyModel, count: int, seed: int) -> BodyParams:
    """Random standing poses near the origin: any azimuth, arms lowered, joints slightly bent, elbows and knees more."""
    generator = torch.Generator().manual_seed(seed)
    bend = 0.12 * torch.randn(count, 23, 3, generator=generator)
    for name, axis, angle in (
        ("left_shoulder", 2, -0.9),
        ("right_shoulder", 2, 0.9),
        ("left_elbow", 1, -0.8),
        ("right_elbow", 1, 0.8),
        ("left_knee", 0, 0.5),
        ("right_knee", 0, 0.5),
    ):
        bend[:, JOINT_NAMES.index(name) - 1, axis] += angle * (0.5 + torch.rand(count, generator=generator))
    pelvis = body.rest_joints(body.v_template)[0].cpu()
    orient = torch.zeros(count, 3)
    orient[:, 1] = 2 * math.pi * torch.rand(count, generator=generator) - math.pi
    return BodyParams(
        betas=torch.zeros(body.num_betas).expand(count, -1),
        global_orient=orient,
        body_pose=bend.flatten(1),
        transl=0.05 * torch.randn(count, 3, generator=generator) - pelvis,
        scale=torch.ones(count),
    )


def one_camera_each(poses: int, size: int) -> Cameras:
    """One camera [poses, 1] per pose, on a ring around the body."""
    return ring(poses, size)[:, None]
