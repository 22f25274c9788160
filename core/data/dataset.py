"""Captures as training samples: input frames of a subject, and the target frames that its avatar is compared with."""

import copy
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch.utils.data import Dataset

from core.data.capture import Capture, Findings
from core.data.crops import Window, read_window, window_cameras
from core.data.fit_noise import biased_fits, noisy_fits
from core.data.human_list import HumanEntry
from core.data.readers import open_capture
from core.data.subject_frame import to_subject_frame
from core.data.verification import FaultyImages, check_crops, read_fits, verify
from core.data.views import choose_input_views, common_frames
from core.options import DataOptions
from core.types.frames import Frames, Sample
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError

OPEN_CAPTURES = 128
"""Maximum number of captures that a worker keeps open; their file lists take some MB each at MVHumanNet's size."""
OPEN_READY_CAPTURES = 4096
"""Maximum number of open captures with ready crops; some 100 kB each, and no open file."""
MAX_REPLACEMENTS = 16
"""Rounds in which faulty frames of a sample are replaced before the subject is refused."""

ImageCache = dict[tuple[int, str], tuple[np.ndarray, np.ndarray]]
"""RGB and alpha (uint8) by frame and camera name."""


def load_frames(
    capture: Capture,
    body: BodyModel,
    frame_ids: list[int],
    view_names: list[str],
    first_view: str,
    image_size: int,
    crop: Literal["center", "person"],
    cache: ImageCache | None = None,
    check: bool = True,
) -> Frames:
    """Read frames of a capture as `read_frames` does, and unpack them."""
    return read_frames(capture, body, frame_ids, view_names, first_view, image_size, crop, cache, check).unpack()


def read_frames(
    capture: Capture,
    body: BodyModel,
    frame_ids: list[int],
    view_names: list[str],
    first_view: str,
    image_size: int,
    crop: Literal["center", "person"],
    cache: ImageCache | None = None,
    check: bool = True,
) -> Frames:
    """Read frames of a capture, each in its own subject frame.

    Args:
        capture: The subject.
        body: Body of the fits, on any device.
        frame_ids: The F frames.
        view_names: The C cameras.
        first_view: The first input camera, which the subject frame is rotated to; it need not be one of the C.
        image_size: Side of the square images, in pixels.
        crop: `center` or `person`, as in `DataOptions`.
        cache: Images read before with the same arguments; used and extended.
        check: Refuse images whose masks do not fit (`core.data.verification`).
    Returns:
        Packed frames [F, C] on the CPU.
    Raises:
        InputError: If a camera, frame, fit or file is missing or broken; `FaultyImages` if masks do not fit.
    """
    fits = read_fits(capture, frame_ids, view_names, body)
    cameras = capture.cameras(view_names)
    first_center = capture.cameras([first_view]).centers[0]
    if capture.ready is not None:
        windows, images, alphas = capture.ready.read(frame_ids, view_names, crop, image_size)
    else:
        windows = [capture.windows(frame, view_names, crop, body) for frame in frame_ids]
        cache = {} if cache is None else cache
        images, alphas = _read_images(capture, frame_ids, view_names, windows, image_size, cache)
    cropped = [window_cameras(cameras, row, image_size) for row in windows]
    stacked = replace(
        cropped[0],
        viewmats=torch.stack([c.viewmats for c in cropped]),
        Ks=torch.stack([c.Ks for c in cropped]),
    )
    if check and capture.ready is None and not capture.is_checked:
        check_crops(capture, body, fits, frame_ids, view_names, stacked, alphas)
    params, in_subject = to_subject_frame(fits, stacked, first_center, body)
    return Frames(
        images=torch.from_numpy(images),
        alphas=torch.from_numpy(alphas),
        cameras=in_subject.to(torch.float32),
        body=params.to(torch.float32),
    )


def _read_images(
    capture: Capture,
    frame_ids: list[int],
    view_names: list[str],
    windows: list[list[Window]],
    image_size: int,
    cache: ImageCache,
) -> tuple[UInt8[np.ndarray, "F C 3 S S"], UInt8[np.ndarray, "F C 1 S S"]]:
    """Crop images and alphas from the capture's files, each once."""
    shape = len(frame_ids), len(view_names)
    images, alphas = (np.empty((*shape, channels, image_size, image_size), np.uint8) for channels in (3, 1))
    for (f, frame), (c, view) in product(enumerate(frame_ids), enumerate(view_names)):
        if (frame, view) not in cache:
            files, camera = capture.files(view, frame), capture.camera(view)
            cache[frame, view] = read_window(files, camera, windows[f][c], image_size)
        rgb, alphas[f, c, 0] = cache[frame, view]
        images[f, c] = rgb.transpose(2, 0, 1)
    return images, alphas


@dataclass(frozen=True)
class _Draw:
    """Frames and views of one sample."""

    input_frames: list[int]
    novel_frames: list[int]
    input_views: list[str]
    target_views: list[str]

    def without(self, faulty: Iterable[int], usable: list[int]) -> "_Draw | None":
        """Replace faulty frames by the nearest usable ones; None if there are not enough.

        The result depends on the files and the draw only, not on what was read before.
        """
        faulty = set(faulty)
        drawn = [*self.input_frames, *self.novel_frames]
        for i, frame in enumerate(drawn):
            if frame in faulty:
                free = [other for other in usable if other not in faulty and other not in drawn]
                if not free:
                    return None
                drawn[i] = min(free, key=lambda other: (abs(other - frame), other))
        count = len(self.input_frames)
        return replace(self, input_frames=drawn[:count], novel_frames=drawn[count:])


class HumanDataset(Dataset[Sample]):
    """One sample per subject, drawn by (seed, epoch, index) and nothing else.

    Every sample has all input views and frames. The training loop drops some of them at random, since all samples of a
    batch need the same number. A file that cannot be read raises an error. A frame whose mask does not fit is replaced
    by its nearest neighbour, with a warning.

    Args:
        options: Frames, views and crop.
        subjects: Subjects of this split.
        split: In `validation` every epoch draws the same sample, and input views are never random.
        seed: Seed of the drawing.
        body: Body of the fits; by default `options.body`, else the one that the first subject names.
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
        self._findings: dict[int, Findings] = {}
        body = self._open(0).body(options.body) if body is None else body
        self.body = copy.deepcopy(body).cpu()  # the model's own copy may move to a GPU, where workers cannot follow
        self._captures: OrderedDict[int, Capture] = OrderedDict()

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, index: int) -> Sample:
        return self.sample(0, index).unpack()

    def sample(self, epoch: int, index: int) -> Sample:
        """Packed sample of an index in an epoch, which is an argument because workers run ahead of the training."""
        epoch = epoch if self.split == "train" else 0
        capture = self._capture(index)
        cameras, frames = self._usable(capture, self.subjects[index])
        draw: _Draw | None = None
        faulty: set[int] = set()
        for _ in range(MAX_REPLACEMENTS):
            try:
                if draw is None:
                    usable = [frame for frame in frames if frame not in faulty]
                    draw = self._draw(capture, cameras, usable, epoch, index)
                return self._read(capture, draw, epoch, index)
            except FaultyImages as error:
                faulty |= error.frames
                draw = None if draw is None else draw.without(faulty, frames)
                if draw is None and len(frames) - len(faulty) < self._num_frames:
                    raise
        raise InputError(
            f"{capture.path}: the masks of many frames do not fit ({', '.join(f'{f:04d}' for f in sorted(faulty)[:8])} "
            "..., for the reasons logged above); correct them, or leave this subject out"
        )

    @property
    def _num_frames(self) -> int:
        """Different frames of a sample."""
        return self.options.input_frames + self.options.novel_frames

    def _draw(self, capture: Capture, cameras: list[str], frames: list[int], epoch: int, index: int) -> _Draw:
        """Draw the frames and views of a sample."""
        generator = _generator(self.seed, epoch, index)
        options = self.options
        input_frames, novel_frames = self._draw_frames(capture, frames, generator)
        input_views = self._draw_input_views(capture, cameras, input_frames[0], generator)
        others = _shuffled([name for name in cameras if name not in input_views], generator)
        supervising = input_views
        if self.split == "train" and options.target_input_views is not None:
            supervising = _shuffled(supervising, _generator(self.seed, epoch, index, 2))[: options.target_input_views]
        target_views = (supervising + others)[: options.target_views]
        if len(target_views) < options.target_views:
            raise InputError(
                f"{capture.path}: {options.target_views} target views are wanted, but only {len(supervising)} input "
                f"views and {len(others)} others are usable; lower data.target_views, raise data.target_input_views or "
                "leave this subject out"
            )
        return _Draw(input_frames, novel_frames, input_views, target_views)

    def _read(self, capture: Capture, draw: _Draw, epoch: int, index: int) -> Sample:
        """Read the images of a sample."""
        options = self.options
        cache: ImageCache = {}
        shared = (draw.input_views[0], options.image_size, options.crop, cache, options.verify)
        inputs = read_frames(capture, self.body, draw.input_frames, draw.input_views, *shared)
        if options.fit_noise > 0 and self.split == "train":
            noise = _generator(
                self.seed, epoch, index, 1
            )  # its own generator, so that nothing else is drawn differently
            inputs = replace(inputs, body=noisy_fits(inputs.body, options.fit_noise, self.body, noise))
        if options.fit_bias > 0 and self.split == "train":
            bias = _generator(self.seed, epoch, index, 3)
            inputs = replace(inputs, body=biased_fits(inputs.body, options.fit_bias, self.body, bias))
        targets = draw.input_frames[: options.observed_targets] + draw.novel_frames
        frames = ",".join(f"{frame:04d}" for frame in draw.input_frames)
        return Sample(
            inputs=inputs,
            targets=read_frames(capture, self.body, targets, draw.target_views, *shared),
            names=[f"{self.subjects[index].subject}/{frames}"],
        )

    def _capture(self, index: int) -> Capture:
        """Open a subject, without the cameras that were moved after the calibration; keep it for later samples."""
        if index not in self._captures:
            capture = self._open(index)
            is_sound = capture.ready is not None or capture.is_checked or capture.findings.is_verified
            if self.options.verify and not is_sound:
                verify(capture, self.body)
            self._captures[index] = capture
            if len(self._captures) > (OPEN_CAPTURES if capture.ready is None else OPEN_READY_CAPTURES):
                self._captures.popitem(last=False)
        self._captures.move_to_end(index)
        return self._captures[index]

    def _open(self, index: int) -> Capture:
        findings = self._findings.setdefault(index, Findings())
        return open_capture(self.subjects[index].path, (self.options.crop, self.options.image_size), findings)

    def _usable(self, capture: Capture, entry: HumanEntry) -> tuple[list[str], list[int]]:
        """Cameras and frames to draw from: those of the human list, if it names any that exist."""
        wanted = self.options.input_views
        names = [name for name in capture.camera_names if entry.views is None or name in entry.views]
        names = names or capture.camera_names  # a list for the other rig
        cameras, frames = common_frames(capture, sorted(names, key=lambda name: name not in wanted))
        listed = [frame for frame in frames if entry.poses is None or frame in entry.poses]
        if not listed:
            raise InputError(
                f"{capture.path}: none of the poses of the human list has images and a fit; correct the list"
            )
        return cameras, listed

    def _draw_frames(
        self, capture: Capture, frames: list[int], generator: torch.Generator
    ) -> tuple[list[int], list[int]]:
        """Draw input and novel frames: one from each of as many equal intervals of time, shuffled."""
        count = self._num_frames
        if len(frames) < count:
            raise InputError(
                f"{capture.path}: {count} frames are wanted (input_frames + novel_frames), but only {len(frames)} have "
                "images and a fit; lower data.input_frames or leave this subject out"
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
