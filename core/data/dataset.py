"""Captures as samples: what the model sees of a person, and what its avatar is compared with."""

import copy
from collections import OrderedDict
from dataclasses import replace
from itertools import pairwise, product
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch.utils.data import Dataset

from core.data.capture import Capture
from core.data.crops import Window, read_window, window_cameras
from core.data.fit_noise import noisy_fits
from core.data.human_list import HumanEntry
from core.data.subject_frame import to_subject_frame
from core.data.views import choose_input_views, common_frames
from core.options import DataOptions
from core.types.frames import Frames, Sample
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.types import BodyParams

OPEN_CAPTURES = 128
"""Captures whose file lists a worker keeps; some MB each at MVHumanNet's size."""
OPEN_READY_CAPTURES = 4096
"""The same for captures with ready crops; some 100 kB each, and no open file."""

Pictures = dict[tuple[int, str], tuple[np.ndarray, np.ndarray]]
"""RGB and alpha (uint8) by image id and camera name."""


def load_frames(
    capture: Capture,
    body: BodyModel,
    frame_ids: list[int],
    view_names: list[str],
    first_view: str,
    image_size: int,
    crop: Literal["center", "person"],
    pictures: Pictures | None = None,
) -> Frames:
    """Read moments of a capture, every one in its subject frame, as `read_frames` does, and unpack them."""
    return read_frames(capture, body, frame_ids, view_names, first_view, image_size, crop, pictures).unpack()


def read_frames(
    capture: Capture,
    body: BodyModel,
    frame_ids: list[int],
    view_names: list[str],
    first_view: str,
    image_size: int,
    crop: Literal["center", "person"],
    pictures: Pictures | None = None,
) -> Frames:
    """Read moments of a capture, every one in its subject frame.

    Args:
        capture: The subject.
        body: The body of the fits, on any device.
        frame_ids: The F image ids.
        view_names: The C cameras.
        first_view: The first input camera, which the subject frame is turned to; it need not be one of the C.
        image_size: Pixels of the square pictures.
        crop: `center` or `person`, as in `DataOptions`.
        pictures: Pictures read before with the same arguments, to be used again and added to.
    Returns:
        Packed frames [F, C] on the CPU.
    Raises:
        InputError: If a camera, frame, fit or file is missing or broken.
    """
    fits = BodyParams.stack([capture.fit(frame, body) for frame in frame_ids])
    cameras = capture.cameras(view_names)
    first_center = capture.cameras([first_view]).centers[0]
    if capture.ready is not None:
        windows, images, alphas = capture.ready.read(frame_ids, view_names, crop, image_size)
    else:
        windows = [capture.windows(frame, view_names, crop, body) for frame in frame_ids]
        pictures = {} if pictures is None else pictures
        images, alphas = _read_pictures(capture, frame_ids, view_names, windows, image_size, pictures)
    cropped = [window_cameras(cameras, row, image_size) for row in windows]
    stacked = replace(
        cropped[0],
        viewmats=torch.stack([c.viewmats for c in cropped]),
        Ks=torch.stack([c.Ks for c in cropped]),
    )
    params, in_subject = to_subject_frame(fits, stacked, first_center, body)
    return Frames(
        images=torch.from_numpy(images),
        alphas=torch.from_numpy(alphas),
        cameras=in_subject.to(torch.float32),
        body=params.to(torch.float32),
    )


def _read_pictures(
    capture: Capture,
    frame_ids: list[int],
    view_names: list[str],
    windows: list[list[Window]],
    image_size: int,
    pictures: Pictures,
) -> tuple[UInt8[np.ndarray, "F C 3 S S"], UInt8[np.ndarray, "F C 1 S S"]]:
    """Cut pictures and their alphas out of the capture's files, each once."""
    shape = len(frame_ids), len(view_names)
    images, alphas = (np.empty((*shape, channels, image_size, image_size), np.uint8) for channels in (3, 1))
    for (f, frame), (c, view) in product(enumerate(frame_ids), enumerate(view_names)):
        if (frame, view) not in pictures:
            pictures[frame, view] = read_window(*capture.files(view, frame), capture.size, windows[f][c], image_size)
        rgb, alphas[f, c, 0] = pictures[frame, view]
        images[f, c] = rgb.transpose(2, 0, 1)
    return images, alphas


class HumanDataset(Dataset[Sample]):
    """One sample per subject, drawn from it by (seed, epoch, index) and nothing else.

    Every sample shows all input views and frames; dropping some of them at random is left to the training loop, because
    a batch needs one number. A file that cannot be read raises, and no other sample takes its place.

    Args:
        options: Which frames, views and crop.
        subjects: Of this split.
        split: In `validation` every epoch draws the same, and input views are never random.
        seed: Of the drawing.
        body: The body of the fits; by default `options.body`, else the first subject's own.
    """

    def __init__(
        self,
        options: DataOptions,
        subjects: list[HumanEntry],
        split: Literal["train", "validation"] = "train",
        seed: int = 0,
        body: BodyModel | None = None,
    ):
        if not subjects:
            raise InputError(f"{options.root}: no subject for the split `{split}`; add captures or hold out fewer")
        if not 0 <= options.observed_targets <= options.input_frames:
            raise InputError(
                f"target_frames ({options.target_frames}) must be at least novel_frames ({options.novel_frames}), and "
                f"may exceed it by at most input_frames ({options.input_frames})"
            )
        if options.target_input_views is not None and options.target_input_views < 0:
            raise InputError(f"target_input_views must be at least 0, got {options.target_input_views}")
        self.options, self.subjects, self.split, self.seed = options, list(subjects), split, seed
        body = self._open(0).body(options.body) if body is None else body
        self.body = copy.deepcopy(body).cpu()  # the model's own copy may move to a GPU, where workers cannot follow
        self._captures: OrderedDict[int, Capture] = OrderedDict()
        self._moved: dict[int, list[str]] = {}

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, index: int) -> Sample:
        return self.sample(0, index).unpack()

    def sample(self, epoch: int, index: int) -> Sample:
        """The packed sample of an index in an epoch, an argument because workers may be ahead of the training."""
        epoch = epoch if self.split == "train" else 0
        generator = _generator(self.seed, epoch, index)
        options, entry, capture = self.options, self.subjects[index], self._capture(index)

        cameras, frames = self._usable(capture, entry)
        shown, novel = self._draw_frames(capture, frames, generator)
        input_views = self._draw_input_views(capture, cameras, shown[0], generator)
        others = _shuffled([name for name in cameras if name not in input_views], generator)
        seen = input_views
        if self.split == "train" and options.target_input_views is not None:
            seen = _shuffled(seen, _generator(self.seed, epoch, index, 2))[: options.target_input_views]
        target_views = (seen + others)[: options.target_views]
        if len(target_views) < options.target_views:
            raise InputError(
                f"{capture.path}: {options.target_views} target views are wanted, but only {len(seen)} input views and "
                f"{len(others)} others are usable; lower data.target_views, raise data.target_input_views or leave "
                "this subject out"
            )
        targets = shown[: options.observed_targets] + novel

        pictures: Pictures = {}
        shared = (input_views[0], options.image_size, options.crop, pictures)
        inputs = read_frames(capture, self.body, shown, input_views, *shared)
        if options.fit_noise > 0 and self.split == "train":
            noise = _generator(self.seed, epoch, index, 1)  # one of its own: nothing else is drawn differently
            inputs = replace(inputs, body=noisy_fits(inputs.body, options.fit_noise, self.body, noise))
        return Sample(
            inputs=inputs,
            targets=read_frames(capture, self.body, targets, target_views, *shared),
            names=[f"{entry.subject}/{','.join(f'{frame:04d}' for frame in shown)}"],
        )

    def _capture(self, index: int) -> Capture:
        """Open a subject, without the cameras that were moved after the calibration."""
        if index not in self._captures:
            capture = self._open(index)
            if capture.ready is not None:
                limit = OPEN_READY_CAPTURES
            else:
                limit = OPEN_CAPTURES
                if index in self._moved:
                    capture.leave_out(self._moved[index])
                elif self.options.verify:
                    self._moved[index] = capture.verify(self.body)
            self._captures[index] = capture
            if len(self._captures) > limit:
                self._captures.popitem(last=False)
        self._captures.move_to_end(index)
        return self._captures[index]

    def _open(self, index: int) -> Capture:
        return Capture(self.subjects[index].path, ready=(self.options.crop, self.options.image_size))

    def _usable(self, capture: Capture, entry: HumanEntry) -> tuple[list[str], list[int]]:
        """Cameras and frames to draw from: those of the human list, if it names any that are there."""
        wanted = self.options.input_views
        names = [name for name in capture.camera_names if entry.views is None or name in entry.views]
        names = names or capture.camera_names  # a list for the other rig
        cameras, frames = common_frames(capture, sorted(names, key=lambda name: name not in wanted))
        listed = [frame for frame in frames if entry.poses is None or frame in entry.poses]
        if not listed:
            raise InputError(
                f"{capture.path}: none of the poses of the human list has pictures and a fit; correct the list"
            )
        return cameras, listed

    def _draw_frames(
        self, capture: Capture, frames: list[int], generator: torch.Generator
    ) -> tuple[list[int], list[int]]:
        """Frames to show and novel ones: one at random from each of as many equal stretches of time, then shuffled."""
        count = self.options.input_frames + self.options.novel_frames
        if len(frames) < count:
            raise InputError(
                f"{capture.path}: {count} frames are wanted (input_frames + novel_frames), but only {len(frames)} have "
                "pictures and a fit; lower data.input_frames or leave this subject out"
            )
        bounds = np.linspace(0, len(frames), count + 1).round().astype(int).tolist()
        drawn = [frames[int(torch.randint(low, high, (), generator=generator))] for low, high in pairwise(bounds)]
        drawn = _shuffled(drawn, generator)
        return drawn[: self.options.input_frames], drawn[self.options.input_frames :]

    def _draw_input_views(
        self, capture: Capture, cameras: list[str], first_frame: int, generator: torch.Generator
    ) -> list[str]:
        options = self.options
        at_random = float(torch.rand((), generator=generator)) < options.random_input_views
        if at_random and self.split == "train" and len(cameras) >= len(options.input_views):
            return _shuffled(cameras, generator)[: len(options.input_views)]
        return choose_input_views(capture, options.input_views, cameras, first_frame, self.body)


def _generator(*key: int) -> torch.Generator:
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator().manual_seed(seed)


def _shuffled(items: list, generator: torch.Generator) -> list:
    return [items[i] for i in torch.randperm(len(items), generator=generator).tolist()]
