"""Common parts of all rows: test people, networks, metrics, and the measurement of avatars."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from core.avatar.avatar import Avatar
from core.checkpoint import Training
from core.inference.evaluation import LPIPS_BATCH, LPIPS_NETS, OURS, MetricSuite, RenderMethods, Scores, measure
from core.inference.options import InferenceOptions
from core.inference.refinement import RefineOptions
from core.inference.report import Metrics, summarise
from core.inference.session import FULL, Session, open_session
from core.inference.subject import make_avatar
from core.model.heads import unpose_gaussians
from core.types.frames import Frames
from core.utils.device import pick_device
from scripts.benchmarks.common import median_ms
from scripts.results.data_id import data_id
from scripts.results.options import ResultsOptions
from scripts.results.people import People

FRAMES_AT_ONCE = {"cpu": 1, "cuda": 5}
"""Frames that are rendered and measured at a time; 5 frames of 12 views take 190 MB at 512 px."""
LPIPS_BATCH_CUDA = 16
"""Images that LPIPS compares at once on a GPU: 6 GB at 512 px."""

MakeAvatar = Callable[[Session, Frames], Avatar]
"""A function from input frames [F, C] to an avatar."""


@dataclass(frozen=True)
class InputSubset:
    """Numbers of input views and input frames, out of all input views and observed frames."""

    views: int = 4
    frames: int = 8

    def select(self, inputs: Frames) -> Frames:
        """Evenly spread frames and views, the first always included: two views are front and back."""
        frames, views = (_spread(*pair) for pair in zip((self.frames, self.views), inputs.cameras.batch_shape))
        return inputs.select_frames(frames).select_views(views)


def _spread(count: int, available: int) -> list[int]:
    count = min(count, available)
    return [i * available // count for i in range(count)]


@dataclass(frozen=True)
class Measured:
    """Measurements of a row; None for values that a row does not have."""

    metrics: Metrics
    """`mean` and `subjects`, as in `metrics.json`."""
    gaussians: float | None = None
    """Gaussians that are not transparent, mean over people."""
    avatar_ms: float | None = None
    """Median time from images on the device to the avatar."""
    steps: int | None = None
    """Steps of the last training, or of the optimisation of avatars."""
    train_minutes: float | None = None
    """Duration of a training that was run for the row."""
    trainings: list[Training] | None = None
    """All trainings of a network that was not trained for the row, the oldest first."""


class Bench:
    """The data, networks and metrics of rows, each loaded once at its first use."""

    def __init__(self, options: ResultsOptions):
        self.options = options
        self.device = pick_device(options.device)
        self._metric_suites: dict[tuple[str, ...], MetricSuite] = {}

    @property
    def train(self) -> Path:
        """Folder of the captures that ablations are trained on: ready crops if `train.sh` has made them."""
        crops, captures = (self.options.root / name for name in ("crops/train", "train"))
        return self.options.train or (crops if crops.is_dir() else captures)

    @property
    def test(self) -> Path:
        """Folder of the test people."""
        return self.options.root / "test"

    @cached_property
    def people(self) -> People:
        return People(self.test, self.device)

    @cached_property
    def data(self) -> str:
        """Identification of the data (`scripts.results.data_id`)."""
        return data_id(self.train, self.test)

    @cached_property
    def headline(self) -> Session:
        """The network of the checkpoint, without refinement."""
        return self.open(self.options.checkpoint)

    @cached_property
    def refined(self) -> Session:
        """The network of the checkpoint, with refinement."""
        refiner = replace(self.headline.refiner, options=RefineOptions(steps=self.options.refine_steps))
        return replace(self.headline, refiner=refiner)

    def open(self, checkpoint: Path) -> Session:
        """Load a network as `infer.py` does, without refinement."""
        options = self.options
        how = {"protocol": "full", "device": options.device, "backend": options.backend, "refine": 0, "complete": False}
        return open_session(InferenceOptions(self.test, checkpoint=checkpoint, **how))

    def target_settings(self, size: int) -> dict:
        """Settings that identify the target images of a row."""
        return {"data": self.data, "image_size": size, "crop": FULL.crop}

    def metric_suite(self, metrics: tuple[str, ...] = tuple(LPIPS_NETS)) -> MetricSuite:
        """Metrics, with the named LPIPS metrics."""
        if metrics not in self._metric_suites:
            batch = LPIPS_BATCH_CUDA if self.device.type == "cuda" else LPIPS_BATCH
            self._metric_suites[metrics] = MetricSuite(self.device, metrics, batch)
        return self._metric_suites[metrics]

    def inputs(self, session: Session) -> list[Frames]:
        """All possible input frames of each person, packed [F, C]."""
        return self.people.inputs(session.input_size, session.input_crop)

    @torch.no_grad()
    def avatars(
        self, session: Session, subset: InputSubset, make: MakeAvatar = make_avatar, count: int | None = None
    ) -> list[Avatar]:
        """Avatars of all test people, or of the first `count`."""
        return [make(session, subset.select(inputs.unpack())) for inputs in self.inputs(session)[:count]]

    @torch.no_grad()
    def avatar_ms(self, session: Session, subset: InputSubset, make: MakeAvatar = make_avatar) -> float:
        """Median time in milliseconds from images on the device to the avatar."""
        inputs = [subset.select(frames.unpack()) for frames in self.inputs(session)]
        repeats = 3 * len(inputs) if self.device.type == "cuda" else len(inputs)
        # After two rounds, CUDA graphs of all input signatures have been captured.
        warm_up = 2 * len(inputs) + 1 if self.device.type == "cuda" else 1
        return median_ms(lambda i: make(session, inputs[i % len(inputs)]), repeats, self.device, warm_up)

    @torch.no_grad()
    def measure(
        self, renderer: Callable[[int], RenderMethods], size: int, metric_suite: MetricSuite, count: int | None = None
    ) -> Metrics:
        """Metrics of all test people, or of the first `count`.

        Args:
            renderer: Returns, for the index of a person, the function that renders its target frames as `ours`.
            size: Side of the target images in pixels.
            metric_suite: The metrics.
            count: Number of people.
        """
        names = self.people.names[:count]
        scores: dict[str, dict[str, Scores]] = {}
        for index, name in enumerate(names):
            targets = self.people.target_batches(index, size, FRAMES_AT_ONCE[self.device.type])
            scores[name] = measure([OURS], targets, renderer(index), metric_suite)[OURS]
        return summarise(scores)

    def measure_avatars(self, avatars: list[Avatar], session: Session, size: int, metric_suite: MetricSuite) -> Metrics:
        """Metrics of avatars of the first people, made by the session's network."""

        def renderer(index: int) -> RenderMethods:
            def render(target: Frames) -> dict:
                return {OURS: session.render(avatars[index][None], target.body[None], target.cameras[None])[0]}

            return render

        return self.measure(renderer, size, metric_suite, len(avatars))


def one_frame_avatar(session: Session, inputs: Frames) -> Avatar:
    """The paper's baseline without a graph: the Gaussians of the first frame, each assigned to its nearest vertex."""
    model = session.model
    inputs = Frames.stack([inputs[:1]])
    with session.autocast():
        frame = model.frame_gaussians(inputs)
    return unpose_gaussians(
        frame.gaussians[:, 0],
        frame.vertex_ids[:, 0],
        model.body.pose(inputs.body)[:, 0],
        betas=inputs.body.betas.mean(1),
        body=model.body.fingerprint,
    )[0]


def mean_gaussians(avatars: list[Avatar]) -> float:
    """Number of Gaussians that are not fully transparent, mean over avatars."""
    return sum(int((avatar.opacities > 0).sum()) for avatar in avatars) / len(avatars)
