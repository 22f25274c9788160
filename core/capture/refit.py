"""Bodies fitted to a capture in MVHumanNet's layout, from its fits, those of other frames, or landmarks, and masks."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch

from core.capture.bodies import with_hands
from core.capture.keypoints import KeypointFolder
from core.capture.landmarks import NUM_LANDMARKS, Landmarks
from core.capture.mediapipe_reader import MediaPipeReader
from core.capture.networks import PoseReader
from core.capture.weights import missing_models
from core.data.calibration import CalibratedCamera
from core.data.capture import Capture
from core.data.mvhumannet import MVHumanNetCapture
from core.data.readers import open_capture
from core.data.refit_files import refit_path, write_refit
from core.data.up_axis import RAW_UP
from core.utils.device import DeviceName, pick_device
from core.utils.ranges import Count, Positive, Range
from smpl_renderer.body_files import load_body
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.fitting import FitOptions, FitResult, Observations, Silhouettes, fit_bodies
from smpl_renderer.types import BodyParams

logger = logging.getLogger(__name__)

KEYPOINT_FOLDER = "openpose"
UP = (0.0, 0.0, -1.0)
"""Against gravity in the raw world."""


@dataclass(frozen=True)
class RefitOptions:
    """How the frames of captures are fitted."""

    frames: tuple[int, ...] = ()
    """Frame ids; by default all."""
    every: Count = 1
    """Fit every n-th frame."""
    cameras: Count = 8
    """Number of cameras used, spread around the subject."""
    landmarks: Literal["auto", "keypoints", "network", "none"] = "auto"
    """OpenPose files of the capture (`openpose/<camera>/`), MediaPipe's networks, or masks alone. auto takes the files
    if they are there, and the networks only where a frame has no body to start from."""
    batch: Annotated[int, Range(1, 512)] = 12
    """Frames fitted at a time."""
    shape_frames: Count = 8
    """Frames from which shape and scale are estimated; all others keep them."""
    steps: Positive = 1.0
    """Factor on the number of optimisation steps."""
    body: Path | None = None
    """Body model file; by default the one that the capture names (SMPL if it names none)."""
    points: bool = True
    """Also write the posed vertices (`.ply`)."""
    redo: bool = False
    """Refine frames that have a refit already, instead of skipping them."""
    device: DeviceName = "auto"


@dataclass
class FrameReport:
    """What became of the frames of one subject."""

    written: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    """Frames that had a fit of this kind."""
    failed: dict[int, str] = field(default_factory=dict)
    """Frames without a usable fit, and why."""


@dataclass
class RefitReport(FrameReport):
    """What became of the frames of one subject whose bodies were fitted to images."""

    ious: list[float] = field(default_factory=list)
    """Overlap of body and mask of each written frame."""


def refit_subject(
    path: Path,
    options: RefitOptions = RefitOptions(),
    reader: PoseReader | None = None,
    on_frames: Callable[[int], None] | None = None,
) -> RefitReport:
    """Fit bodies to the frames of a capture and write them; an interrupted run resumes.

    Args:
        path: Folder of the capture.
        reader: Finds landmarks, where a frame has no body to start from; MediaPipe's networks by default.
        on_frames: Called with the number of frames done.
    Raises:
        InputError: If it is no capture in MVHumanNet's layout, or has no frame with masks.
    """
    capture = open_capture(path)
    if not isinstance(capture, MVHumanNetCapture):
        raise InputError(
            f"{path}: fits of capture.json are made by scripts/prepare_capture.py; name MVHumanNet's layout"
        )
    if capture.up != RAW_UP:
        raise InputError(f"{path}: its world must be z-down, as MVHumanNet's; found up axis {capture.up}")
    return _Refit(capture, options, reader, on_frames).run()


class _Refit:
    def __init__(
        self,
        capture: MVHumanNetCapture,
        options: RefitOptions,
        reader: PoseReader | None,
        on_frames: Callable[[int], None] | None,
    ):
        self.capture, self.options, self.reader, self.on_frames = capture, options, reader, on_frames
        self.device = pick_device(options.device)
        self.body = capture.body() if options.body is None else load_body(options.body)
        if capture.body_fingerprint not in (None, self.body.fingerprint):
            raise InputError(f"{capture.path}: body.json names another body than --body; leave --body out")
        self.cameras = spread_cameras(capture, options.cameras)
        keypoints = capture.path / KEYPOINT_FOLDER
        self.keypoints = None
        if options.landmarks in ("auto", "keypoints") and keypoints.is_dir():
            self.keypoints = KeypointFolder(keypoints)
        elif options.landmarks == "keypoints":
            raise InputError(f"{keypoints}: no such folder; choose other --landmarks")
        self.report = RefitReport()
        self.known = self._readable_fits()

    def run(self) -> RefitReport:
        frames = self._frames()
        todo = []
        for frame in frames:
            done = not self.options.redo and refit_path(self.capture.path, frame).is_file()
            (self.report.skipped if done else todo).append(frame)
        self._done(len(frames) - len(todo))
        if not todo:
            return self.report
        shape = self._shape(todo)
        for first in range(0, len(todo), self.options.batch):
            chunk = todo[first : first + self.options.batch]
            # Frames with a start and without are fitted apart: a fit starts from bodies or from landmarks.
            near = [frame for frame in chunk if self._start(frame) is not None]
            for group in (near, [frame for frame in chunk if frame not in near]):
                if group:
                    self._fit_group(group, shape)
            self._done(len(chunk))
        return self.report

    def _done(self, count: int) -> None:
        if self.on_frames is not None and count:
            self.on_frames(count)

    def _frames(self) -> list[int]:
        usable = {frame for name in self.cameras for frame in self.capture.frames_of(name)}
        if not usable:
            raise InputError(f"{self.capture.path}: {self.capture.nothing_usable()}")
        if self.options.frames:
            if missing := sorted(set(self.options.frames) - usable):
                raise InputError(f"{self.capture.path}: no camera has an image and a mask of frame {missing[0]:04d}")
            return sorted(self.options.frames)[:: self.options.every]
        return sorted(usable)[:: self.options.every]

    def _readable_fits(self) -> dict[int, BodyParams]:
        """Bodies that are there already; those of other bodies, or broken, do not count."""
        known = {}
        for frame in sorted(self.capture.fits):
            try:
                known[frame] = self.capture.fit(frame, self.body).to(torch.float32)
            except InputError as error:
                logger.info("%s", error)
        return known

    def _start(self, frame: int) -> BodyParams | None:
        """The body of a frame, or with none of its own that of the nearest frame."""
        if not self.known:
            return None
        return self.known[min(self.known, key=lambda other: (abs(other - frame), other))]

    def _shape(self, todo: list[int]) -> BodyParams:
        """Shape and scale of the subject (its pose does not matter): those of refits, or of a fit of some frames."""
        refits = [frame for frame in self.report.skipped if frame in self.known]
        if refits:
            return self.known[refits[len(refits) // 2]]
        count = min(self.options.shape_frames, len(todo))
        chosen = [todo[round(i)] for i in np.linspace(0, len(todo) - 1, count)]
        starts = [self._start(frame) for frame in chosen]
        initial = None if starts[0] is None else BodyParams.stack(starts)
        return self._fit(chosen, initial, FitOptions(steps=self.options.steps)).params[0]

    def _fit_group(self, frames: list[int], shape: BodyParams) -> None:
        options = FitOptions(steps=self.options.steps, fit_shape=False, scale=float(shape.scale), same_pose=0.0)
        starts = [self._start(frame) for frame in frames]
        if starts[0] is None:
            free = self._fit(frames, None, replace(options, steps=0.5 * options.steps, fit_shape=True, scale=None))
            starts = [free.params[i] for i in range(len(frames))]
        shaped = [_with_shape(start, shape, self.body) for start in starts]
        result = self._fit(frames, BodyParams.stack(shaped), options)
        with torch.no_grad():
            vertices = self.body(result.params).vertices
        for i, (frame, quality) in enumerate(zip(frames, result.quality)):
            if not quality.usable:
                self.report.failed[frame] = "; ".join(quality.warnings)
                continue
            write_refit(self.capture.path, frame, result.params[i], vertices[i] if self.options.points else None)
            self.known[frame] = result.params[i]
            self.report.written.append(frame)
            if quality.mask_iou is not None:
                self.report.ious.append(quality.mask_iou)

    def _fit(self, frames: list[int], initial: BodyParams | None, options: FitOptions) -> FitResult:
        seen = self._observations(frames, need_landmarks=initial is None)
        self.body.to(self.device)
        moved = None if initial is None else initial.to(self.device)
        result = fit_bodies(seen.to(self.device), self.body, options, initial=moved)
        self.body.to(torch.device("cpu"))
        return result.to(torch.device("cpu"))

    def _observations(self, frames: list[int], need_landmarks: bool) -> Observations:
        cameras = [self.capture.camera(name) for name in self.cameras]
        rows, masks = [], []
        for frame in frames:
            row, mask_row = [], []
            for name, camera in zip(self.cameras, cameras):
                there = frame in self.capture.frames_of(name)
                mask_row.append(self.capture.mask(name, frame) if there else None)
                row.append(self._landmarks(name, camera, frame, need_landmarks) if there else None)
            rows.append(row)
            masks.append(mask_row)
        points = np.zeros((len(frames), len(cameras), NUM_LANDMARKS, 2), np.float32)
        visibility = np.zeros(points.shape[:3], np.float32)
        world = np.zeros((*points.shape[:3], 3), np.float32)
        for f, row in enumerate(rows):
            for c, marks in enumerate(row):
                if marks is not None:
                    points[f, c], visibility[f, c] = marks.points, marks.visibility
                    world[f, c] = 0 if marks.world is None else marks.world
        silhouettes = _scaled_to(Silhouettes.from_masks(masks), masks, cameras)
        if need_landmarks and not visibility.any():
            raise InputError(
                f"{self.capture.path}: no fit to start from and no landmarks; fetch the networks "
                "(scripts/get_pose_models.py), or add OpenPose's files in openpose/<camera>/"
            )
        some = bool(visibility.any())
        return Observations(
            Ks=torch.stack([camera.K for camera in cameras]).float(),
            viewmats=torch.stack([camera.viewmat for camera in cameras]).float(),
            image_sizes=torch.tensor([camera.size for camera in cameras]).float(),
            landmarks=torch.from_numpy(points) if some else None,
            visibility=torch.from_numpy(visibility) if some else None,
            world_landmarks=torch.from_numpy(world) if world.any() else None,
            silhouettes=silhouettes,
            up=torch.tensor(UP),
        )

    def _landmarks(self, name: str, camera: CalibratedCamera, frame: int, needed: bool) -> Landmarks | None:
        """Landmarks in pixels of the calibrated image."""
        if self.keypoints is not None:
            people = self.keypoints.people(name, f"{frame:04d}_img", -1)
            return people[0] if people else None
        if self.options.landmarks == "none" or (self.options.landmarks == "auto" and not needed):
            return None
        if self.reader is None:
            if missing_models():
                return None
            self.reader = MediaPipeReader()
        image = self.capture.image(name, frame)
        people = self.reader.people(image)
        return with_hands(people[0].landmarks).shifted(camera.width / image.shape[1], (0, 0)) if people else None


def _scaled_to(
    silhouettes: Silhouettes, masks: list[list[np.ndarray | None]], cameras: list[CalibratedCamera]
) -> Silhouettes:
    """Windows in pixels of the calibrated images, whose files may be smaller."""
    factors = [[1.0 if m is None else c.width / m.shape[1] for m, c in zip(row, cameras)] for row in masks]
    return replace(silhouettes, windows=silhouettes.windows * torch.tensor(factors)[..., None])


def _with_shape(params: BodyParams, shape: BodyParams, body: BodyModel) -> BodyParams:
    """The pose of one body with shape and scale of another; the pelvis stays."""
    with torch.no_grad():
        moved = replace(params, betas=shape.betas, scale=shape.scale)
        return replace(moved, transl=params.transl + body(params).joints[0] - body(moved).joints[0])


def spread_cameras(capture: Capture, count: int) -> list[str]:
    """At most `count` cameras, spread evenly over the directions from which they see the subject."""
    names = capture.camera_names
    viewmats = torch.stack([capture.camera(name).viewmat for name in names])
    centers = -(viewmats[:, :3, :3].mT @ viewmats[:, :3, 3:])[..., 0]
    offsets = centers - centers.mean(0)
    order = torch.atan2(offsets[:, 1], offsets[:, 0]).argsort().tolist()
    kept = np.linspace(0, len(order), min(count, len(order)), endpoint=False).astype(int)
    return [names[order[i]] for i in kept]
