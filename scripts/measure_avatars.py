"""Measure what body fits cost an avatar, without and with alignment: python scripts/measure_avatars.py --subjects 5

Synthetic people are drawn, fitted and stored at first use. Avatars are made from true fits, from the fits, and from the
aligned fits, and compared with images of four other cameras.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import json
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from tqdm import tqdm

from core.inference.alignment import AlignOptions
from core.inference.evaluation import MetricSuite
from core.inference.options import SHIPPED_CHECKPOINT, InferenceOptions
from core.inference.report import format_table, mean_metrics
from core.inference.session import open_session
from core.utils.cli import run
from core.utils.device import DeviceName
from core.utils.ranges import Count, CountOrZero, Seed, checked
from scripts.benchmarks.fit_avatars import load_avatar_scene, measure_subject
from smpl_renderer.body_files import STANDIN_BODY, load_body
from smpl_renderer.files import atomic_path


@dataclass(frozen=True)
class Options:
    """Options of the measurement."""

    kinds: tuple[Literal["phone", "rig4", "noise4"], ...] = ("phone", "rig4", "noise4")
    """phone: own fits of one still camera, the subject turns around, 8 frames. rig4: own fits of 4 calibrated cameras,
    4 frames. noise4: true fits with noise of 0.02 rad, 4 cameras, 8 frames."""
    subjects: Count = 5
    first: CountOrZero = 0
    """Index of the first subject."""
    refine: CountOrZero = 0
    """Steps of the refinement of each avatar."""
    align: Count = AlignOptions.steps
    """Steps of the alignment."""
    checkpoint: Path = SHIPPED_CHECKPOINT
    lpips: bool = False
    """Also measure LPIPS (VGG)."""
    device: DeviceName = "auto"
    folder: Path = Path("workspace/avatar_scenes")
    """Folder of captures, fits and target images."""
    scenes: Path = Path("workspace/fit_scenes")
    """Folder of the scenes of measure_fits.py."""
    seed: Seed = 0
    out: Path | None = None
    """Also write all numbers as JSON."""


def main(options: Options) -> None:
    """Print the table; means over subjects."""
    rows: list[dict] = []
    session, body = None, load_body(STANDIN_BODY)
    jobs = [(kind, options.first + i) for kind in options.kinds for i in range(options.subjects)]
    for kind, index in tqdm(jobs, desc="avatars", unit="subject"):
        options.folder.mkdir(parents=True, exist_ok=True)
        scene = load_avatar_scene(kind, index, body, options.folder, options.scenes, options.seed)
        if session is None:
            session = open_session(
                InferenceOptions(
                    captures=scene.folder,
                    checkpoint=options.checkpoint,
                    device=options.device,
                    refine=options.refine,
                    align=options.align,
                )
            )
            suite = MetricSuite(session.device, ("lpips",) if options.lpips else ())
        with torch.no_grad():
            for variant, made, scores in measure_subject(session, scene, suite):
                numbers = {"kind": kind, "subject": index, "variant": variant, "seconds": made.seconds}
                rows.append(numbers | {"scores": scores, "report": made.report})
    sys.stdout.write(table(rows) + "\n")
    if options.out is not None:
        with atomic_path(options.out) as path:
            path.write_text(json.dumps(rows, indent=1))


def table(rows: list[dict]) -> str:
    """One line for each kind and variant; PSNR in the person's box, and of the whole image."""
    header = ["", "subjects", "psnr_box, true pose", "psnr", "lpips", "psnr_box, own pose", "psnr", "lpips"]
    header += ["mm of the fits", "seconds"]
    lines = []
    for kind, variant in dict.fromkeys((row["kind"], row["variant"]) for row in rows):
        own = [row for row in rows if (row["kind"], row["variant"]) == (kind, variant)]
        line = [f"{kind}, {variant}", str(len(own))]
        for drive in ("true", "own"):
            mean = mean_metrics([row["scores"][drive] for row in own])
            line += [mean["psnr_box"], mean["psnr"], mean["lpips"]]
        millimetres = sum(row["scores"]["fit"]["mm"] for row in own) / len(own)
        line += [f"{millimetres:.1f}", f"{sum(row['seconds'] for row in own) / len(own):.1f}"]
        lines.append(line)
    return format_table(header, lines)


if __name__ == "__main__":
    run(lambda: checked(main)(tyro.cli(Options)))
