"""Make synthetic captures: python scripts/make_synthetic.py --out synthetic --subjects 12

The same seed gives the same people. An interrupted run resumes: complete captures are kept.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import os
from typing import Annotated, Literal

import torch
import tyro

from core.utils.cli import run
from core.utils.device import DeviceName, pick_device
from core.utils.ranges import Count, CountOrZero, ImageSize, Percentage, Range, Seed, Share, Workers, checked
from scripts.synthetic import FIRST_SUBJECT, CaptureOptions, default_frames, default_workers, shard, write_dataset
from scripts.synthetic.contact_sheet import check_sheet_path, write_contact_sheet
from scripts.synthetic.drawing import MeshRasterizer, pick_mesh_rasterizer
from smpl_renderer.body_files import STANDIN_BODY
from smpl_renderer.errors import InputError

DEFAULTS = {"24": (612, 512, "studio"), "phone": (720, 1280, "clutter")}
"""Width, height and background by rig; those of `24` for all others."""


def main(
    out: Path = Path("synthetic"),
    subjects: Count = 12,
    first_subject: CountOrZero = FIRST_SUBJECT + 1,
    part: str = "0/1",
    seed: Seed = 0,
    split: str = "train",
    rig: Literal["24", "48", "phone"] = "24",
    poses: Count = 10,
    frames: tuple[Count, ...] = (),
    cameras: Count = 16,
    width: ImageSize | None = None,
    height: ImageSize | None = None,
    background: Literal["studio", "black", "plain", "clutter"] | None = None,
    samples: Annotated[int, Range(1, 16)] = 2,
    quality: Percentage = 92,
    compact: bool = False,
    camera_noise: bool = True,
    soft_masks: bool = True,
    fit_noise: Share = 0.0,
    smpl_param: bool = True,
    points: bool = False,
    holes: bool = False,
    format: Literal["mvhumannet", "capture"] = "mvhumannet",
    human_keys: Literal["list", "short"] = "list",
    body: Path = STANDIN_BODY,
    device: DeviceName = "auto",
    mesh_rasterizer: MeshRasterizer = "torch",
    workers: Workers = -1,
    contact_sheet: Path | None = None,
) -> None:
    """Write captures of synthetic people.

    Args:
        out: Folder of the set: one folder per person, and `human.json`.
        subjects: Number of people.
        first_subject: Id of the first person. Ids also select the people, so that a set can be made in parts.
        part: A share `i/n` of the work: every n-th person from the i-th on (0/2 on one machine, 1/2 on another).
        seed: Seed of the people.
        split: Name of the split. People of different splits have nothing in common, and those of `test` wear clothes
            that occur in no other split.
        rig: MVHumanNet's ring of 16 cameras, its three rings of 16, or one camera in front of which people turn once.
        poses: Frames of each person. In rings, ten are those of the paper's protocol, others come every 50 ids from
            0005 on; with `phone` they are spread over one turn.
        frames: Frame ids (multiples of 5), instead of `poses`.
        cameras: Number of cameras, the four input views first.
        width: Width of the image files in pixels: by default 612, or 720 with `phone`.
        height: Height of the image files in pixels: by default 512, or 1280 with `phone`.
        background: Behind people: `studio` (a wall, black farther away; the default of rings), `black`, `plain` (an
            empty room) or `clutter` (a furnished room; the default of `phone`).
        samples: Samples along each side of a pixel.
        quality: JPEG quality.
        compact: Smaller files, which take longer to write.
        camera_noise: Colour response, blur and noise of each camera; otherwise all cameras are ideal.
        soft_masks: Masks with edges like those of matting; otherwise they are exact.
        fit_noise: Noise on the stored fits, in radians (0.02 is visible); 0 stores the truth.
        smpl_param: Also write `smpl_param/*.pkl`, with the fits and vertices of `optimized_smpl_points/`.
        points: Also write `optimized_smpl_points/*.ply`.
        holes: Leave out and damage files as in real captures, to test a reader.
        format: MVHumanNet's layout, or our own format, `capture.json` (docs/data.md), without the files of `smpl_param`
            and `points`.
        human_keys: Keys of `human.json`: `view_id_list`, `pose_id_list`; or `view_id`, `pose_id`.
        body: Body model; the shipped stand-in by default.
        device: Device that draws the images; several workers use all GPUs.
        mesh_rasterizer: Finds the visible faces: `torch`; `nvdiffrast`, where it is installed, on a GPU (edges of faces
            differ by up to 1/16 pixel); `auto`: nvdiffrast where it can run, else torch.
        workers: Number of processes that write one person each; 0 uses this process, -1 as many as the machine allows.
        contact_sheet: Also write an image with the people, at most 48 of them.
    """
    if contact_sheet is not None:
        check_sheet_path(contact_sheet)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; give a folder")
    default_width, default_height, default_background = DEFAULTS.get(rig, DEFAULTS["24"])
    options = CaptureOptions(
        seed=seed,
        split=split,
        rig=rig,
        cameras=cameras,
        frames=tuple(frames) or default_frames(poses, rig),
        width=default_width if width is None else width,
        height=default_height if height is None else height,
        background=background or default_background,
        samples=samples,
        quality=quality,
        compact=compact,
        camera_noise=camera_noise,
        soft_masks=soft_masks,
        fit_noise=fit_noise,
        smpl_param=smpl_param,
        points=points,
        holes=holes,
        format=format,
    )
    chosen = pick_device(device)
    rasterizer = pick_mesh_rasterizer(mesh_rasterizer, chosen)
    names = {str(first_subject + i): first_subject - FIRST_SUBJECT + i for i in range(subjects)}
    names = shard(names, part)
    if workers < 0:
        workers = default_workers(len(names), str(chosen))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // max(workers, 1)))
    how = {"device": str(chosen), "mesh_rasterizer": rasterizer, "workers": workers}
    write_dataset(out, names, options, body_file=body, spelling=human_keys, **how)
    if contact_sheet is not None:
        write_contact_sheet(contact_sheet, [out / name for name in names])


if __name__ == "__main__":
    run(lambda: tyro.cli(checked(main)))
