"""Measure avatars of few images, without and with completion: python scripts/measure_completion.py CAPTURES

Captures must have more cameras than the inputs. `python scripts/make_benchmark.py --splits test` draws some.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import json
from dataclasses import dataclass, replace

import torch
import tyro
from tqdm import tqdm
from tyro.conf import Positional

from core.avatar.avatar import Avatar
from core.data.dataset import load_frames
from core.data.protocol import ResolvedProtocol, resolve
from core.data.readers import open_capture
from core.inference.evaluation import MetricSuite
from core.inference.options import SHIPPED_CHECKPOINT, InferenceOptions
from core.inference.report import format_table
from core.inference.session import Session, open_session
from core.inference.subject import make_avatar
from core.types.frames import Frames
from core.utils.cli import run
from core.utils.device import DeviceName
from core.utils.images import save_image
from core.utils.ranges import Count, CountOrZero, ImageSize, checked
from scripts.benchmarks.unseen import METRICS, measure_unseen
from scripts.results.bench import InputSubset
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path


@dataclass(frozen=True)
class Options:
    """Options of the measurement."""

    captures: Positional[Path]
    """Folder of captures."""
    inputs: tuple[str, ...] = ("1x1", "2x1", "1x8", "4x8")
    """Numbers of input views x frames. One view is the front, two are front and back."""
    subjects: CountOrZero = 0
    """Number of subjects; 0: all."""
    refine: CountOrZero = 0
    """Steps of the refinement of each avatar."""
    novel: Count = 1
    """Held-out frames beside the first observed one, in whose target views avatars are measured."""
    lpips: bool = False
    """Also measure LPIPS (VGG), which takes most of the time on a CPU."""
    size: ImageSize = 256
    """Side of the target images."""
    checkpoint: Path = SHIPPED_CHECKPOINT
    device: DeviceName = "auto"
    out: Path | None = None
    """Also write the numbers of each subject as JSON."""
    images: Path | None = None
    """Also write renderings of the first observed frame in this folder: target, without, and with completion."""


@torch.no_grad()
def main(options: Options) -> None:
    """Print the table; means over subjects."""
    subsets = {name: _subset(name) for name in options.inputs}
    how = {"checkpoint": options.checkpoint, "device": options.device, "refine": options.refine}
    session = open_session(InferenceOptions(options.captures, protocol="full", evaluate=True, **how))
    paths = session.subjects[: options.subjects or None]
    metric_suite = MetricSuite(session.device, ("lpips",) if options.lpips else ())
    records = []
    for path, (name, subset) in tqdm([(p, s) for p in paths for s in subsets.items()], unit="avatar"):
        records += _measure(session, path, name, subset, options, metric_suite)
    print(_table(records, options))
    if options.out is not None:
        with atomic_path(options.out) as temporary:
            temporary.write_text(json.dumps(records, indent=1))


def _subset(name: str) -> InputSubset:
    try:
        views, frames = (int(part) for part in name.split("x"))
    except ValueError:
        views, frames = 0, 0
    if not 1 <= views <= 4 or not 1 <= frames <= 8:
        raise InputError(f"--inputs {name!r}: expected views x frames as 1x8, at most 4 views and 8 frames")
    return InputSubset(views, frames)


def _measure(
    session: Session, path: Path, name: str, subset: InputSubset, options: Options, metric_suite: MetricSuite
) -> list[dict]:
    """Records of one subject and one choice of inputs, without and with completion."""
    capture = open_capture(path)
    plan: ResolvedProtocol = resolve(session.protocol, capture, session.body)
    views, front = plan.input_views, plan.input_views[0]
    arguments = (front, session.input_size, session.input_crop)
    everything = load_frames(capture, session.body, plan.observed_frames, views, *arguments).to(session.device)
    inputs = subset.select(everything)
    # The same target cameras for all choices of inputs, except those that are inputs.
    centers = inputs.cameras.centers[0]
    known = [v for i, v in enumerate(views) if bool((everything.cameras.centers[0, i] == centers).all(-1).any())]
    others = [view for view in (*views, *plan.target_views) if view not in known]
    frames = [plan.observed_frames[0], *plan.novel_frames[: options.novel]]
    targets = load_frames(capture, session.body, frames, others, front, options.size, session.protocol.crop)
    targets = targets.to(session.device)
    records, rows = [], [targets.images[0]]
    for complete in (False, True):
        chosen = replace(session, options=replace(session.options, complete=complete))
        rendered = _render(session, make_avatar(chosen, inputs), targets)
        scores = measure_unseen(rendered, targets, inputs, session.body, metric_suite)
        records.append({"subject": path.name, "inputs": name, "complete": complete, **scores})
        rows.append(rendered[0])
    if options.images is not None:
        options.images.mkdir(parents=True, exist_ok=True)
        save_image(options.images / f"{path.name}_{name}.png", torch.cat([torch.cat([*row], -1) for row in rows], -2))
    return records


def _render(session: Session, avatar: Avatar, targets: Frames):
    """Renderings [F, C, 3, H, W] of target frames, one frame at a time."""
    return torch.stack(
        [session.render(avatar, targets.body[i][None], targets.cameras[i][None])[0] for i in range(len(targets.images))]
    )


def _table(records: list[dict], options: Options) -> str:
    rows = []
    for name in options.inputs:
        for complete in (False, True):
            own = [r for r in records if r["inputs"] == name and r["complete"] == complete]
            values = []
            for metric in METRICS:
                there = [r[metric] for r in own if r[metric] == r[metric]]  # without NaN
                values.append(f"{sum(there) / len(there):.{_decimals(metric)}f}" if there else "-")
            rows.append([name, "completed" if complete else "network", *values])
    return format_table(["inputs", "", *METRICS], rows)


def _decimals(metric: str) -> int:
    return 3 if metric.endswith(("SSIM", "LPIPS")) else 1 if metric in ("unseen", "mean color", "hue") else 2


if __name__ == "__main__":
    run(lambda: checked(main)(tyro.cli(Options)))
