"""The test people of a benchmark, their pictures decoded once and kept, packed, on the device."""

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
from core.inference.report import SPLITS
from core.inference.session import FULL
from core.types.frames import Frames
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError


@dataclass(frozen=True)
class Person:
    """A capture, and which cameras and moments of it are shown and measured."""

    capture: Capture
    plan: ResolvedProtocol

    @property
    def name(self) -> str:
        return self.capture.subject


class People:
    """All test people.

    Args:
        root: Folder of their captures.
        device: Where pictures are kept: 13 MB a moment of 12 views at 512 px.
        protocol: What is shown and measured; by default what `infer.py --protocol full` does.
    Raises:
        InputError: If there is no capture, or one lacks something.
    """

    def __init__(self, root: Path, device: torch.device, protocol: Protocol = FULL):
        self.device, self.protocol = device, protocol
        paths = [entry.path for entry in find_subjects(root)]
        self.body: BodyModel = Capture(paths[0]).body()
        with _threads() as pool:
            self.persons: list[Person] = list(tqdm(pool.map(self._open, paths), "test people", len(paths)))
        if alone := [person.name for person in self.persons if not person.plan.target_views]:
            raise InputError(f"{root}: no camera of {', '.join(alone)} is left to measure, all are input views")
        self._kept: dict[tuple, list[Frames]] = {}

    @property
    def names(self) -> list[str]:
        return [person.name for person in self.persons]

    def inputs(self, size: int, crop: str) -> list[Frames]:
        """Of each person what the network may be shown, packed [F, C]."""
        return self._read("inputs", size, crop, [(p.plan.observed_frames, p.plan.input_views) for p in self.persons])

    def targets(self, size: int, crop: str | None = None) -> list[Frames]:
        """Of each person what is measured, packed [F, C]: the observed moments, then the novel ones.

        Args:
            crop: Instead of the protocol's, for pictures that are only looked at.
        """
        choices = [([*p.plan.observed_frames, *p.plan.novel_frames], p.plan.target_views) for p in self.persons]
        return self._read("targets", size, crop or self.protocol.crop, choices)

    def moments(self, index: int, size: int, at_once: int) -> Iterator[tuple[str, Frames]]:
        """The targets of one person [P, C], at most `at_once` moments at a time, with the name of their split."""
        targets, observed = self.targets(size)[index], len(self.persons[index].plan.observed_frames)
        for split, part in zip(SPLITS, (slice(0, observed), slice(observed, None))):
            moments = targets[part]
            for first in range(0, len(moments.images), at_once):
                yield split, moments[first : first + at_once].unpack()

    def _open(self, path: Path) -> Person:
        capture = Capture(path)
        capture.verify(self.body)
        return Person(capture, resolve(self.protocol, capture, self.body))

    def _read(self, kind: str, size: int, crop: str, choices: list[tuple[list[int], list[str]]]) -> list[Frames]:
        """Image ids and cameras of each person, read once, in threads: decoding runs outside of Python's lock."""
        key = (kind, size, crop)
        if key not in self._kept:
            jobs = [(p, frame, views) for p, (frames, views) in zip(self.persons, choices) for frame in frames]

            def read(job: tuple[Person, int, list[str]]) -> Frames:
                person, frame, views = job
                front = person.plan.input_views[0]
                return read_frames(person.capture, self.body, [frame], views, front, size, crop)[0]

            with _threads() as pool:
                title = f"read {kind}, {size} px"
                moments = iter(list(tqdm(pool.map(read, jobs), title, len(jobs), unit="moment")))
            self._kept[key] = [Frames.stack([next(moments) for _ in frames]).to(self.device) for frames, _ in choices]
        return self._kept[key]


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Threads that each compute on one core, or those of PyTorch would multiply with them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
