"""Times of whole training steps, and of their parts, on random pictures of posed bodies."""

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
from core.model.decode import RAW_CHANNELS, decode_on_surface
from core.model.hgg import HumanGaussianGraph
from core.model.surface import place_queries
from core.options import PRESETS, TrainOptions
from core.training.optimizer import finite_step, make_optimizer
from core.training.step import InputSubset, TrainingStep
from core.types.cameras import Cameras
from core.types.frames import Frames, Sample
from core.utils.device import DeviceName, pick_device
from scripts.benchmarks.common import WARM_UP, median_ms, peak_mb, report
from scripts.benchmarks.render import ring
from smpl_renderer.body_files import STANDIN_BODY, load_body
from smpl_renderer.body_model import BodyModel
from smpl_renderer.dispatch import reference_operations
from smpl_renderer.errors import InputError
from smpl_renderer.types import BodyParams

Stage = Literal["frame", "graph", "joint", "avatar"]
"""A training stage, or `avatar`: from pictures to an avatar, without gradients."""

Operations = Literal["kernels", "reference"]
"""What runs by default, or plain PyTorch in everything but the rasterizer, which benchmark `render` compares."""

PARTS = (
    *("U-Net", "ties", "graph", "head", "second look", "feedback"),
    *("posing", "rasterizer", "losses", "backward", "optimizer"),
)
AVATAR_FRAMES = 8
"""Frames that `avatar` is made from: as many as in the paper's evaluation."""


@dataclass(frozen=True)
class StepTiming:
    """Medians in milliseconds; the parts are those of one further step, in which events stand between them.

    `unet` includes its input, `edges` decodes the splat maps and finds nearest vertices.
    `host` is how long Python takes to hand the step to the device. All are None where memory did not suffice.
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
    repeats: int | None = None,
    device: DeviceName = "auto",
    out: Path | None = None,
) -> None:
    """Train on random pictures: a whole step, and its parts.

    Args:
        presets: Of main.py; their batch sizes, pictures and losses count, too.
        stages: What is trained; `avatar` only makes avatars, of eight frames.
        operations: What runs by default, or plain PyTorch in everything but the rasterizer; "-" is too little memory.
        repeats: Timed steps of each case; by default 10 on a GPU and 2 on a CPU.
        device: Where.
        out: Write the numbers as JSON to this file, too.
    """
    where = pick_device(device)
    unknown = [name for name in presets if name not in PRESETS]
    if unknown:
        raise InputError(f"no preset is called {unknown[0]!r}; choose from {', '.join(PRESETS)}")
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
    """Time one stage of one preset by one kind of operations."""
    case = preset, stage, operations
    try:
        with reference_operations() if operations == "reference" else nullcontext():
            return _time_step(case, Job(options, stage, device), repeats)
    except torch.OutOfMemoryError:
        unknown = [None] * (len(fields(StepTiming)) - len(case) - 1)
        timing = StepTiming(*case, 1 if stage == "avatar" else options.batch_size, *unknown)
    gc.collect()  # the next case has all memory to itself
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
        # What stands between the U-Net and the graph ties Gaussians to vertices.
        model.graph.register_forward_pre_hook(lambda *_: self.mark("ties"))
        ends = {
            "U-Net": model.unet,
            "graph": model.graph,
            "head": model.head,
            "second look": model.color_sampling,
            "feedback": model.feedback,
        }
        for part, module in ends.items():
            if module is not None:
                module.register_forward_hook(lambda *_, part=part: self.mark(part))

    def _frame_losses(self, *args, **kwargs):
        self.mark("ties")
        return super()._frame_losses(*args, **kwargs)

    def _draw(self, *args):
        self.mark("posing")
        rendering = super()._draw(*args)
        self.mark("rasterizer")
        return rendering

    def _compare(self, *args):
        terms = super()._compare(*args)
        self.mark("losses")
        return terms


class PartClock:
    """Adds up the times between marks, by the device's own clock."""

    def __init__(self, device: torch.device):
        self.on_cuda = device.type == "cuda"
        self.moments = [("", self._now())]

    def mark(self, part: str) -> None:
        """What happened since the last mark was this part."""
        self.moments.append((part, self._now()))

    def read(self) -> dict[str, float]:
        """Milliseconds of each part."""
        if self.on_cuda:
            torch.cuda.synchronize()
        parts: dict[str, float] = {}
        for (_, begin), (part, end) in pairwise(self.moments):
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
    """One step that can be repeated. Losses, optimizer and mixed precision are those of training."""

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
        # Times do not depend on the weights, so random ones serve where the published ones are not.
        lpips = (load_lpips() or LPIPS()).to(device) if options.loss.lpips > 0 else None
        self.module = MarkedStep(model, options, lpips).train(stage != "avatar")
        if stage == "avatar":
            model.requires_grad_(False)  # as in inference
        self.optimizer = None if stage == "avatar" else make_optimizer(model, options)
        self.sample = make_sample(options, body, device)
        frames, views = self.sample.inputs.images.shape[1:3]
        self.shown = InputSubset(list(range(frames)), list(range(views)))

    def run(self, index: int = 0) -> None:
        """One step."""
        mark = self.module.mark
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            if self.stage == "avatar":
                with torch.no_grad():
                    self.module.model(self.sample.inputs)
                return
            loss, _ = self.module(self.sample, self.shown, use_lpips=True)
        loss.backward()
        mark("backward")
        finite_step(self.optimizer, self.options.clip)
        mark("optimizer")

    def parts(self) -> dict[str, float]:
        """Milliseconds of the parts of one step."""
        clock = PartClock(self.device)
        self.module.mark = clock.mark
        self.run()
        del self.module.mark
        return clock.read()

    def host_ms(self) -> float:
        """How long Python takes to hand one step to a device that has nothing else to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        self.run()
        return 1000 * (time.perf_counter() - start)


def make_sample(options: TrainOptions, body: BodyModel, device: torch.device) -> Sample:
    """Persons in random poses before a ring of cameras: random colours inside their true silhouettes, white around.

    As in training, the targets begin with the input frames and views; then come frames and views that no input shows.
    """
    data = options.data
    inputs, views = len(data.input_views), data.target_views
    moments = data.input_frames + data.novel_frames
    params = _random_poses(body, options.batch_size, moments, device)
    cameras = ring(max(inputs, views), data.image_size).to(device)
    spread = [i * len(cameras.viewmats) // inputs for i in range(inputs)]  # evenly around the person
    order = spread + [i for i in range(len(cameras.viewmats)) if i not in spread]
    pictures = _pictures(body, params, cameras[order])
    observed = data.observed_targets
    shown = [*range(observed), *range(data.input_frames, moments)]
    return Sample(
        inputs=pictures.select_frames(list(range(data.input_frames))).select_views(list(range(inputs))),
        targets=pictures.select_frames(shown).select_views(list(range(views))),
        names=["random"] * options.batch_size,
    )


@torch.no_grad()
def _pictures(body: BodyModel, params: BodyParams, cameras: Cameras) -> Frames:
    """Frames `[B, F, C]` of bodies whose skin is all Gaussians; the more of them there are, the sharper their edge."""
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


def _random_poses(body: BodyModel, persons: int, moments: int, device: torch.device) -> BodyParams:
    """Each person's shape in several poses, the pelvis at the origin."""
    generator = torch.Generator().manual_seed(0)
    rest = BodyParams.zeros(persons, moments)
    params = replace(
        rest,
        betas=0.5 * torch.randn(persons, 1, 10, generator=generator).expand(-1, moments, -1),
        global_orient=0.2 * torch.randn(persons, moments, 3, generator=generator),
        body_pose=0.15 * torch.randn(persons, moments, 69, generator=generator),
    ).to(device)
    return replace(params, transl=-body(params).joints[..., 0, :])
