"""What the rows share: the test people, the networks, the metrics; and measuring avatars by them."""

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

MOMENTS_AT_ONCE = {"cpu": 1, "cuda": 5}
"""That are drawn and measured in one go; 12 views of 5 are 190 MB at 512 px."""
LPIPS_ON_CUDA = 16
"""Pictures that LPIPS takes in one go there: 6 GB at 512 px."""

Make = Callable[[Session, Frames], Avatar]
"""From what a network is shown [F, C] to an avatar."""


@dataclass(frozen=True)
class InputSubset:
    """How much of the observed moments and input views the network is shown."""

    views: int = 4
    frames: int = 8

    def of(self, inputs: Frames) -> Frames:
        """Evenly spread, the first of each always among them: two of front, left, back, right are front and back."""
        moments, views = (_spread(*pair) for pair in zip((self.frames, self.views), inputs.cameras.batch_shape))
        return inputs.select_frames(moments).select_views(views)


def _spread(count: int, available: int) -> list[int]:
    count = min(count, available)
    return [i * available // count for i in range(count)]


@dataclass(frozen=True)
class Measured:
    """What a row's record holds besides where it comes from; times are None where nothing is timed."""

    metrics: Metrics
    """`mean` and `subjects`, as in `metrics.json`."""
    gaussians: float | None = None
    """That are not transparent, mean over people."""
    avatar_ms: float | None = None
    steps: int | None = None
    """Of the last training, or of what else was optimised."""
    train_minutes: float | None = None
    trainings: list[Training] | None = None
    """Of a network that was not trained for the row: all runs behind it, the oldest first."""


class Bench:
    """Opens what rows ask for, once."""

    def __init__(self, options: ResultsOptions):
        self.options = options
        self.device = pick_device(options.device)
        self._judges: dict[tuple[str, ...], MetricSuite] = {}

    @property
    def train(self) -> Path:
        """Folder of the captures that ablations are trained on: ready crops, where `train.sh` has put them."""
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
        """Which data this is (`scripts.results.data_id`)."""
        return data_id(self.train, self.test)

    @cached_property
    def headline(self) -> Session:
        return self.open(self.options.checkpoint)

    @cached_property
    def refined(self) -> Session:
        """The same with refinement."""
        refiner = replace(self.headline.refiner, options=RefineOptions(steps=self.options.refine_steps))
        return replace(self.headline, refiner=refiner)

    def open(self, checkpoint: Path) -> Session:
        """A network as `infer.py` has it, without refinement."""
        options = self.options
        how = {"protocol": "full", "device": options.device, "backend": options.backend, "refine": 0}
        return open_session(InferenceOptions(self.test, checkpoint=checkpoint, **how))

    def judged_by(self, size: int) -> dict:
        """The pictures that a row is measured by, for its settings."""
        return {"data": self.data, "image_size": size, "crop": FULL.crop}

    def metric_suite(self, metrics: tuple[str, ...] = tuple(LPIPS_NETS)) -> MetricSuite:
        """The metrics, those of LPIPS that are named."""
        if metrics not in self._judges:
            at_once = LPIPS_ON_CUDA if self.device.type == "cuda" else LPIPS_BATCH
            self._judges[metrics] = MetricSuite(self.device, metrics, at_once)
        return self._judges[metrics]

    def inputs(self, session: Session) -> list[Frames]:
        """What a network may be shown of each person, packed."""
        return self.people.inputs(session.input_size, session.input_crop)

    @torch.no_grad()
    def avatars(
        self, session: Session, shown: InputSubset, make: Make = make_avatar, persons: int | None = None
    ) -> list[Avatar]:
        """One avatar of each person, or of the first `persons`."""
        return [make(session, shown.of(inputs.unpack())) for inputs in self.inputs(session)[:persons]]

    @torch.no_grad()
    def avatar_ms(self, session: Session, shown: InputSubset, make: Make = make_avatar) -> float:
        """Median time from the pictures, on the device, to the avatar."""
        inputs = [shown.of(frames.unpack()) for frames in self.inputs(session)]
        repeats = 3 * len(inputs) if self.device.type == "cuda" else len(inputs)
        # Once more than there are people: every kind of input has come twice, and is recorded, when the clock starts.
        warm_up = 2 * len(inputs) + 1 if self.device.type == "cuda" else 1
        return median_ms(lambda i: make(session, inputs[i % len(inputs)]), repeats, self.device, warm_up)

    @torch.no_grad()
    def measure(
        self, draw: Callable[[int], RenderMethods], size: int, metric_suite: MetricSuite, persons: int | None = None
    ) -> Metrics:
        """Metrics of what `draw(index)` draws of each person under the name `ours`, or of the first `persons`."""
        names = self.people.names[:persons]
        scores: dict[str, dict[str, Scores]] = {}
        for index, name in enumerate(names):
            moments = self.people.moments(index, size, MOMENTS_AT_ONCE[self.device.type])
            scores[name] = measure([OURS], moments, draw(index), metric_suite)[OURS]
        return summarise(scores)

    def measure_avatars(self, avatars: list[Avatar], session: Session, size: int, metric_suite: MetricSuite) -> Metrics:
        """Metrics of avatars of the session's network, one of each of the first people."""

        def draw_person(index: int) -> RenderMethods:
            def draw(target: Frames) -> dict:
                return {OURS: session.render(avatars[index][None], target.body[None], target.cameras[None])[0]}

            return draw

        return self.measure(draw_person, size, metric_suite, len(avatars))


def bind_one_frame(session: Session, inputs: Frames) -> Avatar:
    """The paper's baseline: the Gaussians of the first moment alone, each tied to its nearest vertex; no graph."""
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
    """How many Gaussians of an avatar are not fully transparent."""
    return sum(int((avatar.opacities > 0).sum()) for avatar in avatars) / len(avatars)
