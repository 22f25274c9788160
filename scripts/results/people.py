"""The test people of a benchmark; their images are decoded once and kept on the device, packed."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from core.data.capture import Capture
from core.data.dataset import read_frames
from core.data.human_list import find_subjects
from core.data.protocol import Protocol, ResolvedProtocol, resolve
from core.data.readers import open_capture
from core.data.verification import verify
from core.inference.report import SPLITS
from core.inference.session import FULL
from core.types.frames import Frames
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError


@dataclass(frozen=True)
class Person:
    """A capture with its input and target cameras and frames."""

    capture: Capture
    plan: ResolvedProtocol

    @property
    def name(self) -> str:
        return self.capture.subject


class People:
    """All test people.

    Args:
        root: Folder of their captures.
        device: Device of the images, which take 13 MB per frame of 12 views at 512 px.
        protocol: Protocol that selects cameras and frames; by default that of `infer.py --protocol full`.
    Raises:
        InputError: If there is no capture, or a capture is incomplete.
    """

    def __init__(self, root: Path, device: torch.device, protocol: Protocol = FULL):
        self.device, self.protocol = device, protocol
        paths = [entry.path for entry in find_subjects(root)]
        self.body: BodyModel = open_capture(paths[0]).body()
        with _threads() as pool:
            self.subjects: list[Person] = list(tqdm(pool.map(self._open, paths), "test people", len(paths)))
        if alone := [person.name for person in self.subjects if not person.plan.target_views]:
            raise InputError(f"{root}: {', '.join(alone)} have no target cameras, because all are input views")
        self._kept: dict[tuple, list[Frames]] = {}

    @property
    def names(self) -> list[str]:
        return [person.name for person in self.subjects]

    def inputs(self, size: int, crop: str) -> list[Frames]:
        """Input frames of each person, packed [F, C]."""
        return self._read("inputs", size, crop, [(p.plan.observed_frames, p.plan.input_views) for p in self.subjects])

    def targets(self, size: int, crop: str | None = None) -> list[Frames]:
        """Target frames of each person, packed [F, C]: the observed frames, then the novel ones.

        Args:
            size: Side of the images in pixels.
            crop: Another crop than the protocol's, for images that are not measured.
        """
        choices = [([*p.plan.observed_frames, *p.plan.novel_frames], p.plan.target_views) for p in self.subjects]
        return self._read("targets", size, crop or self.protocol.crop, choices)

    def target_batches(self, index: int, size: int, batch: int) -> Iterator[tuple[str, Frames]]:
        """Target frames of one person [F, C], at most `batch` at a time, with the name of their split."""
        targets, observed = self.targets(size)[index], len(self.subjects[index].plan.observed_frames)
        for split, part in zip(SPLITS, (slice(0, observed), slice(observed, None))):
            frames = targets[part]
            for first in range(0, len(frames.images), batch):
                yield split, frames[first : first + batch].unpack()

    def _open(self, path: Path) -> Person:
        capture = open_capture(path)
        verify(capture, self.body)
        return Person(capture, resolve(self.protocol, capture, self.body))

    def _read(self, kind: str, size: int, crop: str, choices: list[tuple[list[int], list[str]]]) -> list[Frames]:
        """Read frames of all people, once. Uses threads, because decoding releases the interpreter lock."""
        key = (kind, size, crop)
        if key not in self._kept:
            jobs = [(p, frame, views) for p, (ids, views) in zip(self.subjects, choices) for frame in ids]

            def read(job: tuple[Person, int, list[str]]) -> Frames:
                person, frame, views = job
                front = person.plan.input_views[0]
                return read_frames(person.capture, self.body, [frame], views, front, size, crop)[0]

            with _threads() as pool:
                title = f"read {kind}, {size} px"
                frames = iter(list(tqdm(pool.map(read, jobs), title, len(jobs), unit="frame")))
            self._kept[key] = [Frames.stack([next(frames) for _ in ids]).to(self.device) for ids, _ in choices]
        return self._kept[key]


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """A thread pool, with PyTorch limited to one thread in each of its threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
