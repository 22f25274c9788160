"""Measure an avatar against photographs: views and poses that it was not made from."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from core.data.protocol import ResolvedProtocol
from core.inference.baselines import paint, render_painted
from core.inference.report import SPLITS, mean_metrics
from core.inference.subject import Subject
from core.losses.lpips import LPIPS, load_lpips
from core.losses.metrics import psnr, psnr_in_box, quantize
from core.losses.ssim import ssim
from core.types.frames import Frames

logger = logging.getLogger(__name__)

OURS = "ours"
LPIPS_NETS = {"lpips": "vgg", "lpips_alex": "alex"}
LPIPS_AT_ONCE = 4  # pictures: VGG's activations of one of 512 px take 0.4 GB

Scores = dict[str, float | None]
"""Metrics by name, means over pictures; None for what could not be measured."""

Moments = Iterable[tuple[str, Frames]]
"""Photographs to compare with, and the split they belong to: one moment [C], or several [P, C], at a time."""

Draw = Callable[[Frames], dict[str, Float[Tensor, "*moments C 3 H W"]]]
"""What each method makes of these moments from these cameras."""


class MetricSuite:
    """The metrics, with LPIPS where its weights are found.

    Args:
        metrics: Which kinds of LPIPS are wanted, names of `LPIPS_NETS`.
        at_once: Pictures that LPIPS takes in one go.
    """

    def __init__(self, device: torch.device, metrics: Iterable[str] = tuple(LPIPS_NETS), at_once: int = LPIPS_AT_ONCE):
        self.at_once = at_once
        self.lpips: dict[str, LPIPS | None] = dict.fromkeys(LPIPS_NETS)
        for name in metrics:
            model = load_lpips(LPIPS_NETS[name])
            self.lpips[name] = None if model is None else model.to(device)

    def __call__(self, predicted: Float[Tensor, "*moments C 3 H W"], target: Frames) -> list[Scores]:
        """Scores of each picture, moment by moment."""
        predicted, images, alphas = (x.flatten(0, -4) for x in (quantize(predicted), target.images, target.alphas))
        columns = {
            "psnr": psnr(predicted, images),
            "psnr_box": psnr_in_box(predicted, images, alphas),
            "ssim": ssim(predicted, images),
        }
        for name, model in self.lpips.items():
            if model is None:
                columns[name] = None
                continue
            pairs = zip(predicted.split(self.at_once), images.split(self.at_once))
            columns[name] = torch.cat([model(*pair) for pair in pairs])
        lists = {name: [None] * len(images) if c is None else c.tolist() for name, c in columns.items()}
        return [dict(zip(lists, row)) for row in zip(*lists.values())]


def measure(
    methods: Iterable[str], moments: Moments, draw: Draw, metric_suite: MetricSuite
) -> dict[str, dict[str, Scores]]:
    """Scores by method and split, means over pictures. A split without moments has no scores."""
    scores: dict[str, dict[str, list[Scores]]] = {method: {split: [] for split in SPLITS} for method in methods}
    for split, target in moments:
        for method, predicted in draw(target).items():
            scores[method][split] += metric_suite(predicted, target)
    return {
        method: {split: mean_metrics(items) if items else {} for split, items in splits.items()}
        for method, splits in scores.items()
    }


def evaluate(subject: Subject, metric_suite: MetricSuite) -> dict[str, dict[str, Scores]]:
    """Scores by method (`ours` and the baselines) and split.

    Novel views: the observed poses, from cameras that the model has not seen. Novel poses: held-out moments, from the
    same cameras. A split without frames has no scores, nor has any if no camera is left beside the input views.
    """
    body = subject.session.body
    paints = paint(subject.inputs, body)

    def draw(target: Frames) -> dict[str, Float[Tensor, "C 3 H W"]]:
        pictures = {OURS: subject.render(target.body, target.cameras)}
        return pictures | render_painted(paints, body, target.body, target.cameras)

    return measure((OURS, *paints), _moments(subject), draw, metric_suite)


def _moments(subject: Subject) -> Iterator[tuple[str, Frames]]:
    """The protocol's moments of a subject, read one by one."""
    plan, protocol = subject.plan, subject.session.protocol
    moments = [(split, frame) for split, frames in zip(SPLITS, _frames(plan)) for frame in frames]
    if not plan.target_views:
        logger.warning("%s: nothing to measure, because all of its cameras are input views", subject.name)
        moments = []
    for split, frame in tqdm(moments, desc=f"{subject.name}: evaluate", unit="pose"):
        yield split, subject.frames([frame], plan.target_views, protocol.image_size, protocol.crop)[0]


def protocol_record(subject: Subject) -> dict:
    """What must be equal for two evaluations of this subject to be compared; the pictures themselves by their hash."""
    plan = subject.plan
    digest = hashlib.sha256()
    for frame in (*plan.observed_frames, *plan.novel_frames):
        for view in plan.target_views:
            for path in subject.capture.files(view, frame):
                digest.update(path.read_bytes())
    return {
        "input_views": plan.input_views,
        "target_views": plan.target_views,
        "observed_frames": plan.observed_frames,
        "novel_frames": plan.novel_frames,
        "pictures": digest.hexdigest()[:16],
    }


def _frames(plan: ResolvedProtocol) -> tuple[list[int], list[int]]:
    """Image ids of each split, in the order of SPLITS."""
    return plan.observed_frames, plan.novel_frames
