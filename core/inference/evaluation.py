"""Measure an avatar against photographs: views and poses that it was not made from."""

import hashlib
import logging

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from core.data.protocol import ResolvedProtocol
from core.data.types import Frames
from core.inference.baselines import paint, render_painted
from core.inference.report import SPLITS, mean_metrics
from core.inference.subject import Subject
from core.lpips import LPIPS, load_lpips
from core.metrics import psnr, psnr_in_box, quantize, ssim

logger = logging.getLogger(__name__)

OURS = "ours"
LPIPS_AT_ONCE = 4  # pictures: VGG's activations of one of 512 px take 0.4 GB

Scores = dict[str, float | None]
"""Metrics by name, means over pictures; None for what could not be measured."""


class Judge:
    """The metrics, with LPIPS where its weights are found."""

    def __init__(self, device: torch.device):
        self.lpips: dict[str, LPIPS | None] = {}
        for name, net in (("lpips", "vgg"), ("lpips_alex", "alex")):
            model = load_lpips(net)
            self.lpips[name] = None if model is None else model.to(device)

    def __call__(self, predicted: Float[Tensor, "n 3 H W"], target: Frames) -> list[Scores]:
        """Scores of each picture; `target` is one moment [C = n]."""
        predicted, images = quantize(predicted), target.images
        columns = {
            "psnr": psnr(predicted, images),
            "psnr_box": psnr_in_box(predicted, images, target.alphas),
            "ssim": ssim(predicted, images),
        }
        for name, model in self.lpips.items():
            if model is None:
                columns[name] = None
                continue
            pairs = zip(predicted.split(LPIPS_AT_ONCE), images.split(LPIPS_AT_ONCE))
            columns[name] = torch.cat([model(*pair) for pair in pairs])
        lists = {name: [None] * len(images) if c is None else c.tolist() for name, c in columns.items()}
        return [dict(zip(lists, row)) for row in zip(*lists.values())]


def evaluate(subject: Subject, judge: Judge) -> dict[str, dict[str, Scores]]:
    """Scores by method (`ours` and the baselines) and split.

    Novel views: the observed poses, from cameras that the model has not seen. Novel poses: held-out moments, from the
    same cameras. A split without frames has no scores, nor has any if no camera is left beside the input views.
    """
    session, plan = subject.session, subject.plan
    paints = paint(subject.inputs, session.body)
    scores: dict[str, dict[str, list[Scores]]] = {m: {s: [] for s in SPLITS} for m in (OURS, *paints)}
    moments = [(split, frame) for split, frames in zip(SPLITS, _frames(plan)) for frame in frames]
    if not plan.target_views:
        logger.warning("%s: nothing to measure, because all of its cameras are input views", subject.name)
        moments = []
    for split, frame in tqdm(moments, desc=f"{subject.name}: evaluate", unit="pose"):
        target = subject.frames([frame], plan.target_views, session.protocol.image_size, session.protocol.crop)[0]
        pictures = {OURS: subject.render(target.body, target.cameras)}
        pictures |= render_painted(paints, session.body, target.body, target.cameras)
        for method, predicted in pictures.items():
            scores[method][split] += judge(predicted, target)
    return {
        method: {split: mean_metrics(items) if items else {} for split, items in splits.items()}
        for method, splits in scores.items()
    }


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
