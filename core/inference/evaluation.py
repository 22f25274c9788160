"""Evaluation of avatars against images that they were not made from: novel views and novel poses."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from core.inference.baselines import baseline_colors, render_baselines
from core.inference.report import SPLITS, mean_metrics
from core.inference.subject import Subject
from core.losses.lpips import LPIPS, load_lpips
from core.losses.metrics import psnr, psnr_in_box, quantize
from core.losses.ssim import ssim
from core.types.frames import Frames

logger = logging.getLogger(__name__)

OURS = "ours"
"""Name of the network among the methods."""
LPIPS_NETS = {"lpips": "vgg", "lpips_alex": "alex"}
"""Metrics that are LPIPS, and their networks."""
LPIPS_BATCH = 4
"""Images that LPIPS compares at once; VGG's activations of one image of 512 px take 0.4 GB."""

Scores = dict[str, float | None]
"""Metrics by name, means over images; None for metrics that were not measured."""

Targets = Iterable[tuple[str, Frames]]
"""Splits and target frames, a frame [C] or several [F, C] at a time."""

RenderMethods = Callable[[Frames], dict[str, Float[Tensor, "*frames C 3 H W"]]]
"""A function that renders target frames by each method."""


class MetricSuite:
    """The metrics, with LPIPS if its weights are available.

    Args:
        device: Device of the images.
        metrics: Names of the LPIPS metrics to compute, of `LPIPS_NETS`.
        lpips_batch: Images that LPIPS compares at once.
    """

    def __init__(
        self, device: torch.device, metrics: Iterable[str] = tuple(LPIPS_NETS), lpips_batch: int = LPIPS_BATCH
    ):
        self.lpips_batch = lpips_batch
        self.lpips: dict[str, LPIPS | None] = dict.fromkeys(LPIPS_NETS)
        for name in metrics:
            model = load_lpips(LPIPS_NETS[name])
            self.lpips[name] = None if model is None else model.to(device)

    def __call__(self, predicted: Float[Tensor, "*frames C 3 H W"], target: Frames) -> list[Scores]:
        """Scores of each image, frame by frame."""
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
            pairs = zip(predicted.split(self.lpips_batch), images.split(self.lpips_batch))
            columns[name] = torch.cat([model(*pair) for pair in pairs])
        lists = {name: [None] * len(images) if c is None else c.tolist() for name, c in columns.items()}
        return [dict(zip(lists, row)) for row in zip(*lists.values())]


def measure(
    methods: Iterable[str], targets: Targets, render: RenderMethods, metric_suite: MetricSuite
) -> dict[str, dict[str, Scores]]:
    """Scores by method and split, means over images. A split without targets has no scores."""
    scores: dict[str, dict[str, list[Scores]]] = {method: {split: [] for split in SPLITS} for method in methods}
    for split, target in targets:
        for method, predicted in render(target).items():
            scores[method][split] += metric_suite(predicted, target)
    return {
        method: {split: mean_metrics(items) if items else {} for split, items in splits.items()}
        for method, splits in scores.items()
    }


def evaluate(subject: Subject, metric_suite: MetricSuite) -> dict[str, dict[str, Scores]]:
    """Scores by method (`ours` and the baselines) and split.

    Novel views are the observed frames in cameras that are not input views. Novel poses are the held-out frames in the
    same cameras or, if there are none, in the input views. A split without images has no scores.
    """
    body = subject.session.body
    colors = baseline_colors(subject.inputs, body)

    def render(target: Frames) -> dict[str, Float[Tensor, "C 3 H W"]]:
        images = {OURS: subject.render(target.body, target.cameras)}
        return images | render_baselines(colors, body, target.body, target.cameras)

    return measure((OURS, *colors), _targets(subject), render, metric_suite)


def target_images(subject: Subject) -> list[tuple[str, int, list[str]]]:
    """Images that a subject is measured against: split, image id and cameras of each frame."""
    plan = subject.plan
    novel_views = [(SPLITS[0], frame, plan.target_views) for frame in plan.observed_frames if plan.target_views]
    return novel_views + [(SPLITS[1], frame, subject.novel_pose_views) for frame in plan.novel_frames]


def _targets(subject: Subject) -> Iterator[tuple[str, Frames]]:
    """The target frames of a subject, read one by one."""
    protocol, name = subject.session.protocol, subject.name
    selected = target_images(subject)
    if not selected:
        logger.warning("%s: nothing to measure: all cameras are input views and no frame is held out", name)
    elif not subject.plan.target_views:
        logger.warning("%s: no novel views: all cameras are input views, in which novel poses are measured", name)
    elif not subject.plan.novel_frames:
        logger.warning("%s: no novel poses, because no frame is held out", name)
    for split, frame, views in tqdm(selected, desc=f"{name}: evaluate", unit="pose"):
        yield split, subject.frames([frame], views, protocol.image_size, protocol.crop)[0]


def protocol_record(subject: Subject) -> dict:
    """Settings that comparable evaluations of this subject have in common, with a hash of the target images."""
    plan = subject.plan
    digest = hashlib.sha256()
    for _, frame, views in target_images(subject):
        for view in views:
            for path in subject.capture.files(view, frame):
                digest.update(path.read_bytes())
    return {
        "input_views": plan.input_views,
        "target_views": plan.target_views,
        "observed_frames": plan.observed_frames,
        "novel_frames": plan.novel_frames,
        "images": digest.hexdigest()[:16],
    }
