"""Training samples per second from captures: by a plain loader, by ours, and by ours from packed copies."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from core.data.crops import center_window
from core.data.dataset import HumanDataset
from core.data.human_list import HumanEntry, find_subjects
from core.data.packing import pack_crops, pack_dataset
from core.data.readers import open_capture
from core.options import DataOptions, TrainOptions
from core.training.loading import EndlessBatches, SampleKey, training_batches
from core.utils.ranges import Count, CountOrZero, ImageSize, Positive
from scripts.benchmarks.common import report
from scripts.benchmarks.people import captures

Loader = Literal["plain", "ours", "packed", "ready"]


@dataclass(frozen=True)
class DataTiming:
    """Samples per second, each of `images` images with their masks, and `kilobytes` of files per sample."""

    loader: Loader
    workers: int
    images: int
    kilobytes: float
    samples_per_second: float


class PlainImages(Dataset):
    """The images of a training sample, read in the simplest way: whole files with PIL, converted to floats.

    No cameras, no fits, no verification; each image once, though some are inputs and targets.
    """

    def __init__(self, subjects: list[HumanEntry], options: DataOptions):
        self.options = options
        self.captures = [open_capture(entry.path) for entry in subjects]

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, Tensor]:
        epoch, index = key
        capture, options = self.captures[index], self.options
        views = capture.camera_names[: options.target_views]
        frames = np.random.default_rng(epoch).permutation(capture.frame_ids)[: options.target_frames]
        pairs = [[self._read(*capture.files(view, int(frame))) for view in views] for frame in frames]
        return tuple(torch.stack([torch.stack([pair[i] for pair in row]) for row in pairs]) for i in (0, 1))

    def _read(self, image_path: Path, mask_path: Path) -> tuple[Tensor, Tensor]:
        size = (self.options.image_size, self.options.image_size)
        with Image.open(image_path) as image, Image.open(mask_path) as mask:
            window = center_window(*image.size)
            box = (window.left, window.top, window.left + window.side, window.top + window.side)
            pixels = (
                np.asarray(image.convert("RGB").crop(box).resize(size, Image.Resampling.BILINEAR), np.float32) / 255
            )
            alpha = np.asarray(mask.convert("L").crop(box).resize(size, Image.Resampling.BILINEAR), np.float32) / 255
        pixels = alpha[..., None] * pixels + (1 - alpha[..., None])
        return torch.from_numpy(pixels).movedim(-1, 0).contiguous(), torch.from_numpy(alpha)[None]


def data(
    root: Path | None = None,
    workers: tuple[CountOrZero, ...] = (0, 2, 8),
    crop: Literal["center", "person"] = "center",
    image_size: ImageSize = 512,
    width: ImageSize = 1224,
    height: ImageSize = 1024,
    people: Count = 4,
    seconds: Positive = 5.0,
    out: Path | None = None,
) -> None:
    """Read samples of 4 input views and 8 target views of 4 frames, as preset `big` does.

    Args:
        root: Captures to read; by default synthetic people are written to a temporary folder.
        workers: Numbers of loading processes; 0 loads in the main process.
        crop: Crop of our loader and of the ready crops; the plain loader supports `center` only.
        image_size: Side of the square images in pixels.
        width: Width of the synthetic image files in pixels.
        height: Height of the synthetic image files in pixels; packed copies have half of it.
        people: Number of synthetic people, or of subjects taken from `root`. They are packed in a temporary folder.
        seconds: Duration of each case.
        out: Also write the timings to this JSON file.
    """
    timings = []
    with ExitStack() as stack:
        root = stack.enter_context(captures(root, people, width, height))
        copies = Path(stack.enter_context(TemporaryDirectory(prefix="packed-")))
        folders: dict[Loader, Path] = {
            "plain": root,
            "ours": root,
            "packed": copies / "packed",
            "ready": copies / "ready",
        }
        processes = min(8, people)
        subjects = find_subjects(root)[:people]  # copies of thousands would fill the disk
        pack_dataset(subjects, folders["packed"], height=height // 2, workers=processes)
        pack_crops(subjects, folders["ready"], crop, image_size, workers=processes)
        options = DataOptions(root=root, crop=crop, image_size=image_size, verify=False)
        cases = [(loader, count) for loader in folders for count in workers]
        for loader, count in tqdm(cases, desc="data", unit="case"):
            case = replace(options, root=folders[loader], num_workers=count)
            images = case.target_frames * case.target_views
            rate = samples_per_second(batches(loader, case, people), count, seconds)
            kilobytes = 4 * image_size**2 / 1000 if loader == "ready" else _kilobytes(case.root)
            timings.append(DataTiming(loader, count, images, images * kilobytes, rate))
    print(
        report("data", ["loader", "workers", "images", "kB per sample", "samples/s"], timings, torch.device("cpu"), out)
    )


def batches(loader: Loader, options: DataOptions, people: int) -> Iterator:
    """Endless batches of one sample each, from the first `people` subjects of `options.root`."""
    subjects = find_subjects(options.root)[:people]
    if loader != "plain":
        dataset = HumanDataset(options, subjects)
        return training_batches(dataset, TrainOptions(data=options), 0, 1, start=0, pin_memory=False)
    images = PlainImages(subjects, options)
    order = EndlessBatches(len(images.captures), batch_size=1, seed=0)
    return iter(DataLoader(images, batch_sampler=order, num_workers=options.num_workers))


def samples_per_second(samples: Iterator, workers: int, seconds: float) -> float:
    """Rate of samples after the workers have opened their files and filled their queues."""
    for _ in islice(samples, 2 + 3 * workers):
        pass
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        next(samples)
        count += 1
    return count / (time.perf_counter() - start)


def _kilobytes(root: Path) -> float:
    """Mean file size of an image with its mask."""
    capture = open_capture(find_subjects(root)[0].path)
    files = [capture.files(name, capture.frames_of(name)[0]) for name in capture.camera_names]
    return sum(path.stat().st_size for pair in files for path in pair) / len(files) / 1000
