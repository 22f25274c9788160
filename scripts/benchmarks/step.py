"""Timing of whole training steps, and of their parts, on random images of posed bodies."""

import copy
import gc
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from core.avatar.rendering import render_avatar
from core.losses.lpips import LPIPS, load_lpips
from core.model.decode import RAW_CHANNELS
from core.model.heads import decode_on_surface
from core.model.hgg import HumanGaussianGraph
from core.model.surface import place_queries
from core.options import PRESETS, TrainOptions
from core.training.optimizer import finite_step, make_optimizer
from core.training.step import InputSubset, TrainingStep
from core.types.cameras import Cameras
from core.types.frames import Frames, Sample
from core.utils.device import DeviceName, pick_device
from core.utils.ranges import Count
from scripts.benchmarks.common import WARM_UP, median_ms, peak_mb, report
from scripts.benchmarks.splat_scenes import ring
from smpl_renderer.body_files import STANDIN_BODY, load_body
from smpl_renderer.body_model import BodyModel
from smpl_renderer.dispatch import reference_operations
from smpl_renderer.errors import InputError
from smpl_renderer.types import BodyParams

Stage = Literal["frame", "graph", "joint", "avatar"]
"""A training stage, or `avatar`: from images to an avatar, without gradients."""

Operations = Literal["kernels", "reference"]
"""The default operations, or plain PyTorch for everything but the rasterizer, which benchmark `render` compares."""

PARTS = (
    *("U-Net", "edges", "graph", "head", "colour sampling", "feedback"),
    *("posing", "rasterizer", "losses", "backward", "optimizer"),
)
AVATAR_FRAMES = 8
"""Input frames of `avatar`, as in the paper's evaluation."""


@dataclass(frozen=True)
class StepTiming:
    """Median and parts of a step in milliseconds. All are None if the device's memory does not suffice.

    The parts are measured in one additional step. `unet` includes the preparation of its input; `edges` decodes the
    splat maps and finds nearest vertices; `host_ms` is the duration of the Python calls.
    """

    preset: str
    stage: Stage
    operations: str
    samples: int
    total_ms: float | None
    host_ms: float | None
    unet: float | None
    edges: float | None
    graph: float | None
    head: float | None
    color_sampling: float | None
    feedback: float | None
    posing: float | None
    rasterizer: float | None
    losses: float | None
    backward: float | None
    optimizer: float | None
    peak_mb: float | None
    samples_per_second: float | None


HEADER = ("preset", "stage", "operations", "samples", "ms", "host ms", *PARTS, "peak MB", "samples/s")


def step(
    presets: tuple[str, ...] = ("big", "small", "tiny", "demo-gpu"),
    stages: tuple[Stage, ...] = ("graph", "joint", "frame", "avatar"),
    operations: tuple[Operations, ...] = ("kernels", "reference"),
    repeats: Count | None = None,
    device: DeviceName = "auto",
    out: Path | None = None,
) -> None:
    """Time a training step on random images, and its parts. "-" stands for too little memory.

    Args:
        presets: Presets of main.py, with their batch sizes, images and losses.
        stages: Stages of training; `avatar` creates avatars from eight frames instead.
        operations: The default operations, or plain PyTorch for everything but the rasterizer.
        repeats: Timed steps of each case; by default 10 on a GPU and 2 on a CPU.
        device: Device to time.
        out: Also write the timings to this JSON file.
    """
    where = pick_device(device)
    unknown = [name for name in presets if name not in PRESETS]
    if unknown:
        raise InputError(f"unknown preset {unknown[0]!r}; choose from {', '.join(PRESETS)}")
    repeats = repeats or (10 if where.type == "cuda" else 2)
    cases = [(preset, stage, name) for preset in presets for stage in stages for name in operations]
    timings = []
    for preset, stage, name in tqdm(cases, "step", unit="case"):
        timings.append(time_step(preset, stage, PRESETS[preset][1], repeats, where, name))
    print(report("step", HEADER, timings, where, out))


def time_step(
    preset: str,
    stage: Stage,
    options: TrainOptions,
    repeats: int,
    device: torch.device,
    operations: Operations = "kernels",
) -> StepTiming:
    """Time one stage of one preset with one kind of operations."""
    case = preset, stage, operations
    try:
        with reference_operations() if operations == "reference" else nullcontext():
            return _time_step(case, Job(options, stage, device), repeats)
    except torch.OutOfMemoryError:
        unknown = [None] * (len(fields(StepTiming)) - len(case) - 1)
        timing = StepTiming(*case, 1 if stage == "avatar" else options.batch_size, *unknown)
    gc.collect()  # frees the memory for the next case
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return timing


def _time_step(case: tuple[str, str, str], job: "Job", repeats: int) -> StepTiming:
    device, samples = job.device, job.options.batch_size
    total = median_ms(job.run, repeats, device, WARM_UP if device.type == "cuda" else 1)
    parts = job.parts()
    return StepTiming(
        *case,
        samples,
        total,
        job.host_ms(),
        *map(parts.get, PARTS),
        peak_mb(job.run, device),
        1000 * samples / total,
    )


class MarkedStep(TrainingStep):
    """A training step that calls `mark` at the end of each part."""

    mark: Callable[[str], None] = staticmethod(lambda part: None)

    def __init__(self, *args):
        super().__init__(*args)
        model = self.model
        # Between the U-Net and the graph, Gaussians are assigned to vertices.
        model.graph.register_forward_pre_hook(lambda *_: self.mark("edges"))
        ends = {
            "U-Net": model.unet,
            "graph": model.graph,
            "head": model.head,
            "colour sampling": model.color_sampling,
            "feedback": model.feedback,
        }
        for part, module in ends.items():
            if module is not None:
                module.register_forward_hook(lambda *_, part=part: self.mark(part))

    def _frame_losses(self, *args, **kwargs):
        self.mark("edges")
        return super()._frame_losses(*args, **kwargs)

    def _render(self, *args):
        self.mark("posing")
        rendering = super()._render(*args)
        self.mark("rasterizer")
        return rendering

    def _compare(self, *args):
        terms = super()._compare(*args)
        self.mark("losses")
        return terms


class PartClock:
    """Sums the durations between marks by part, measured with CUDA events on a GPU."""

    def __init__(self, device: torch.device):
        self.on_cuda = device.type == "cuda"
        self.marks = [("", self._now())]

    def mark(self, part: str) -> None:
        """Assign the time since the previous mark to `part`."""
        self.marks.append((part, self._now()))

    def read(self) -> dict[str, float]:
        """Duration of each part in milliseconds."""
        if self.on_cuda:
            torch.cuda.synchronize()
        parts: dict[str, float] = {}
        for (_, begin), (part, end) in pairwise(self.marks):
            duration = begin.elapsed_time(end) if self.on_cuda else 1000 * (end - begin)
            parts[part] = parts.get(part, 0.0) + duration
        return parts

    def _now(self) -> torch.cuda.Event | float:
        if not self.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Job:
    """A repeatable step with the losses, optimizer and mixed precision of training."""

    def __init__(self, options: TrainOptions, stage: Stage, device: torch.device):
        self.stage, self.device = stage, device
        if stage == "avatar":
            data = replace(options.data, input_frames=AVATAR_FRAMES, target_frames=1, novel_frames=0, target_views=1)
            options = replace(options, data=data, batch_size=1)
        else:
            options = replace(options, stage=stage)
        self.options = options
        body = copy.deepcopy(load_body(STANDIN_BODY)).to(device)
        model = HumanGaussianGraph(options.model, body).to(device)
        model.unet.to(memory_format=torch.channels_last)
        model.use_cuda_graphs(options.cuda_graphs, trains_unet=stage in ("joint", "frame"))
        # Durations do not depend on the weights: random ones replace missing published ones.
        lpips = (load_lpips() or LPIPS()).to(device) if options.loss.lpips > 0 else None
        self.module = MarkedStep(model, options, lpips).train(stage != "avatar")
        if stage == "avatar":
            model.requires_grad_(False)  # as in inference
        self.optimizer = None if stage == "avatar" else make_optimizer(model, options)
        self.sample = make_sample(options, body, device)
        frames, views = self.sample.inputs.images.shape[1:3]
        self.subset = InputSubset(list(range(frames)), list(range(views)))

    def run(self, index: int = 0) -> None:
        """Run one step."""
        mark = self.module.mark
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            if self.stage == "avatar":
                with torch.no_grad():
                    self.module.model(self.sample.inputs)
                return
            loss, _ = self.module(self.sample, self.subset, use_lpips=True)
        loss.backward()
        mark("backward")
        finite_step(self.optimizer, self.options.clip)
        mark("optimizer")

    def parts(self) -> dict[str, float]:
        """Duration of the parts of one step in milliseconds."""
        clock = PartClock(self.device)
        self.module.mark = clock.mark
        self.run()
        del self.module.mark
        return clock.read()

    def host_ms(self) -> float:
        """Duration of the Python calls of one step in milliseconds, starting with an idle device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        self.run()
        return 1000 * (time.perf_counter() - start)


def make_sample(options: TrainOptions, body: BodyModel, device: torch.device) -> Sample:
    """Bodies in random poses in a ring of cameras: random colours inside their true silhouettes, white outside.

    As in training, the targets begin with the input frames and views, followed by novel frames and views.
    """
    data = options.data
    inputs, views = len(data.input_views), data.target_views
    num_frames = data.input_frames + data.novel_frames
    params = _random_poses(body, options.batch_size, num_frames, device)
    cameras = ring(max(inputs, views), data.image_size).to(device)
    spread = [i * len(cameras.viewmats) // inputs for i in range(inputs)]  # evenly around the body
    order = spread + [i for i in range(len(cameras.viewmats)) if i not in spread]
    frames = _random_frames(body, params, cameras[order])
    targets = [*range(data.observed_targets), *range(data.input_frames, num_frames)]
    return Sample(
        inputs=frames.select_frames(list(range(data.input_frames))).select_views(list(range(inputs))),
        targets=frames.select_frames(targets).select_views(list(range(views))),
        names=["random"] * options.batch_size,
    )


@torch.no_grad()
def _random_frames(body: BodyModel, params: BodyParams, cameras: Cameras) -> Frames:
    """Frames `[B, F, C]` of random colours inside the silhouettes of bodies with one Gaussian per vertex."""
    batch, device = (*params.batch_shape, *cameras.batch_shape), params.scale.device
    cameras = replace(cameras, viewmats=cameras.viewmats.expand(*batch, 4, 4), Ks=cameras.Ks.expand(*batch, 3, 3))
    vertex_ids = torch.arange(body.num_vertices, device=device).expand(batch[0], -1)
    raw = torch.zeros(batch[0], body.num_vertices, RAW_CHANNELS, device=device)
    identity = {"vertex_ids": vertex_ids, "betas": params.betas[:, 0], "body": body.fingerprint}
    avatar = decode_on_surface(raw, place_queries(body, 1), **identity)
    alphas = (render_avatar(avatar, body, params, cameras).alphas > 0.5).float()
    generator = torch.Generator(device).manual_seed(0)
    colors = torch.rand(*batch, 3, cameras.height, cameras.width, generator=generator, device=device)
    return Frames(colors * alphas + 1 - alphas, alphas, cameras, params)


def _random_poses(body: BodyModel, subjects: int, frames: int, device: torch.device) -> BodyParams:
    """Body parameters `[B, F]`: one shape per subject in several poses, the pelvis at the origin."""
    generator = torch.Generator().manual_seed(0)
    rest = BodyParams.zeros(subjects, frames)
    params = replace(
        rest,
        betas=0.5 * torch.randn(subjects, 1, 10, generator=generator).expand(-1, frames, -1),
        global_orient=0.2 * torch.randn(subjects, frames, 3, generator=generator),
        body_pose=0.15 * torch.randn(subjects, frames, 69, generator=generator),
    ).to(device)
    return replace(params, transl=-body(params).joints[..., 0, :])
