"""Make the synthetic benchmark, 430 people in three splits: python scripts/make_benchmark.py --out benchmark

configs/benchmark.json defines the people, which are equal on all machines. An interrupted run resumes: complete
captures are kept.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import dataclasses
import logging
import os

import torch
import tyro

from core.utils.cli import run
from core.utils.device import DeviceName, pick_device
from core.utils.ranges import Workers, checked
from scripts.synthetic import default_workers, shard, write_datasets
from scripts.synthetic.benchmark import check_images, check_parameters, read_benchmark, updated, write_benchmark
from scripts.synthetic.contact_sheet import write_contact_sheet
from scripts.synthetic.drawing import MeshRasterizer, pick_mesh_rasterizer
from smpl_renderer.body_files import STANDIN_BODY, load_body
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY

logger = logging.getLogger("make_benchmark")
CONFIG = REPOSITORY / "configs" / "benchmark.json"


def main(
    out: Path = Path("benchmark"),
    splits: tuple[str, ...] = (),
    part: str = "0/1",
    config: Path = CONFIG,
    device: DeviceName = "auto",
    mesh_rasterizer: MeshRasterizer = "torch",
    workers: Workers = -1,
    contact_sheet: bool = False,
    check: bool = False,
    update: bool = False,
) -> None:
    """Write the benchmark's captures, one folder with `human.json` per split, and check them.

    Args:
        out: Folder of the benchmark.
        splits: Splits to write (`train`, `val`, `test`); all by default.
        part: A share `i/n` of the work: every n-th person from the i-th on (0/2 on one machine, 1/2 on another).
        config: Definition of the benchmark.
        device: Device that draws the images; several workers use all GPUs.
        mesh_rasterizer: Finds the visible faces: `torch`; `nvdiffrast`, where it is installed, on a GPU (edges of faces
            differ by up to 1/16 pixel); `auto`: nvdiffrast where it can run, else torch.
        workers: Number of processes that write one person each; 0 uses this process, -1 as many as the machine allows.
        contact_sheet: Also write `<split>.png` with some of the people.
        check: Draw nothing: check people and cameras, and the images that exist, against the benchmark.
        update: Draw no captures: write checksums and means of this version of the program into the config.
    """
    if check and update:
        raise InputError("--check and --update exclude each other: one compares with the file, the other changes it")
    benchmark = read_benchmark(config)
    chosen = list(splits or benchmark.splits)
    unknown = [name for name in chosen if name not in benchmark.splits]
    if unknown:
        raise InputError(f"--splits {' '.join(unknown)}: must be among {' '.join(benchmark.splits)}")
    body, drawn_on = load_body(STANDIN_BODY), str(pick_device(device))
    rasterizer = pick_mesh_rasterizer(mesh_rasterizer, torch.device(drawn_on))
    if update:
        write_benchmark(config, updated(benchmark, body, drawn_on))
        logger.info("%s holds the benchmark of this version", config)
        return
    check_parameters(benchmark, chosen, body)
    sets = [dataclasses.replace(s, subjects=shard(s.subjects, part)) for s in benchmark.sets(out, chosen)]
    if not check:
        if workers < 0:
            workers = default_workers(sum(len(s.subjects) for s in sets), drawn_on)
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // max(workers, 1)))
        write_datasets(sets, device=drawn_on, workers=workers, mesh_rasterizer=rasterizer)
    logger.info("people, cameras and %d images are the benchmark's", check_images(benchmark, chosen, out))
    if contact_sheet:
        for s in sets:
            write_contact_sheet(out / f"{s.options.split}.png", [s.root / name for name in s.subjects])


if __name__ == "__main__":
    run(lambda: tyro.cli(checked(main)))
