"""The pipeline: images or videos of a person to a capture in the format of `capture.json`."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from core.capture.bodies import FitFunction, observations, turned_bodies, turned_cameras, upright_world
from core.capture.cameras import CameraSet, disagreement, set_up_cameras, to_metres
from core.capture.duration import (
    CHOICE,
    FITS,
    PAGES,
    READING,
    Further,
    describe_plan,
    measure_slowness,
    plan_stages,
)
from core.capture.estimates import read_estimate, starting_bodies
from core.capture.frame_choice import (
    NO_PERSON,
    ChosenFrame,
    FrameChoice,
    choose_frames,
    frame_stem,
    synchronised_keys,
)
from core.capture.importers import find_calibration, read_calibration_file
from core.capture.importers.rig import ImportedRig
from core.capture.mediapipe_reader import MediaPipeReader
from core.capture.networks import PoseReader, load_interpreter
from core.capture.observe import Views, observe
from core.capture.options import PrepareOptions
from core.capture.overlay import write_overlay_sheet
from core.capture.page import left_out_summary, write_page
from core.capture.quality import CaptureReport, capture_warnings, frame_reports, surface_seen, visible_faces
from core.capture.self_calibration import solve_cameras
from core.capture.sources import InputFiles, open_input
from core.capture.weights import fetch_models, missing_models, model_path
from core.data.capture_json import CameraRecord, CaptureRecord, FrameRecord, fit_record, write_capture_json
from core.utils.device import pick_device
from core.utils.ranges import check_ranges
from core.utils.time_estimate import TimeEstimate, log_revision
from smpl_renderer.body_files import STANDIN_BODY, load_body
from smpl_renderer.body_model import BodyModel
from smpl_renderer.bounded_files import load_json
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path
from smpl_renderer.fitting import FitOptions, FitResult, fit_bodies
from smpl_renderer.types import BodyParams

logger = logging.getLogger(__name__)

STAMP = "prepared.json"
CONTRADICTION = 0.04
"""Reprojection error of landmarks, relative to the person's size, from which a calibration is doubted."""
VERSION = 3
"""Changes whenever the same input gives another capture."""


def capture_of(
    path: Path,
    workspace: Path,
    options: PrepareOptions = PrepareOptions(),
    estimate: TimeEstimate | None = None,
    further: Further | None = None,
) -> Path:
    """The capture of an input, made in `<workspace>/<name>/capture/` or reused from there if nothing changed.

    Args:
        estimate, further: See `prepare_capture`.
    """
    path = Path(path)
    name = path.resolve().stem if path.is_file() else path.resolve().name
    return prepare_capture(path, workspace / name / "capture", options, estimate, further)


def prepare_capture(
    path: Path,
    out: Path,
    options: PrepareOptions = PrepareOptions(),
    estimate: TimeEstimate | None = None,
    further: Further | None = None,
    *,
    reader: PoseReader | None = None,
    fit: FitFunction = fit_bodies,
) -> Path:
    """Make a capture of an input in the folder `out`, whole or not at all, and return that folder.

    Args:
        path: A video, an image, a folder of images, or a folder with images or a video per camera.
        estimate: Expected duration of the run, which is corrected here; by default that of the capture.
        further: What follows, for the total that is logged at the start.
        reader: Finds people and landmarks; MediaPipe's networks by default.
        fit: Fits bodies, as `smpl_renderer.fitting.fit_bodies` does.
    Raises:
        InputError: If no usable frame remains (the message states what would help), or an option is out of range.
    """
    check_ranges(options)
    path, out = Path(path), Path(out)
    rig = _find_rig(path, options)
    files = open_input(path, one_frame=rig is not None and rig.per_image)
    stamp = options.digest(str(VERSION), str(path.resolve()), *[source.fingerprint() for source in files.sources])
    estimate = estimate or TimeEstimate()
    if (size := _current_size(out, stamp)) is not None:
        logger.info("%s: reused, as input and options are the same", out)
        if further is not None:
            if estimate.slowness is None:
                estimate.slowness = measure_slowness(load_body(options.body or STANDIN_BODY))
            estimate.plan(further(*size))
            logger.info("%s in all", estimate.state())
        return out
    if out.exists() and any(out.iterdir()) and not (out / STAMP).is_file():
        raise InputError(f"{out}: holds other files; name a new folder with --out")
    body = load_body(options.body or STANDIN_BODY)
    reader = reader or _open_reader(options)
    if estimate.slowness is None:
        estimate.slowness = measure_slowness(body)
    plan_stages(estimate, files, options, further)
    logger.info("%s: %s", path, describe_plan(files, rig, options, estimate))
    with estimate.stage(CHOICE):
        choice = choose_frames(files, reader, options)
    plan_stages(estimate, files, options, further, len(choice.frames))
    log_revision(estimate)
    with atomic_path(out) as folder:
        folder.mkdir()
        _Preparation(files, rig, choice, body, reader, options, folder, estimate, fit).run(path.name)
        (folder / STAMP).write_text(json.dumps({"stamp": stamp, "input": path.name}) + "\n")
    left = f"; {estimate.state()} left" if estimate.remaining else ""
    logger.info("wrote %s (%.0f s)%s", out, sum(estimate.seconds.values()), left)
    return out


def _find_rig(path: Path, options: PrepareOptions) -> ImportedRig | None:
    if options.calibration is not None:
        return read_calibration_file(options.calibration)
    return find_calibration(path)


def _current_size(out: Path, stamp: str) -> tuple[int, int] | None:
    """Numbers of frames and cameras of a capture of the same input and options; None if there is none."""
    try:
        if load_json(out / STAMP)["stamp"] != stamp:
            return None
        content = load_json(out / "capture.json")
        return len(content["frames"]), len(content["cameras"])
    except (InputError, KeyError, TypeError):
        return None


def _open_reader(options: PrepareOptions) -> PoseReader | None:
    """MediaPipe's networks, fetched at first use; None if keypoints and masks are given and LiteRT is not installed."""
    try:
        load_interpreter()
    except InputError:
        if options.keypoints is not None and options.masks is not None:
            return None
        raise
    if missing_models():
        fetch_models()
    heavy = model_path("pose_landmark_heavy").is_file()
    if options.landmarker == "heavy" and not heavy:
        raise InputError("the heavy landmark network is not there; run python scripts/get_pose_models.py --heavy")
    variant = "heavy" if options.landmarker == "heavy" or (options.landmarker == "auto" and heavy) else "full"
    return MediaPipeReader(variant=variant, hands=options.hands)


@dataclass
class _Preparation:
    """The stages after the choice of frames, into an empty folder."""

    files: InputFiles
    rig: ImportedRig | None
    choice: FrameChoice
    body: BodyModel
    reader: PoseReader | None
    options: PrepareOptions
    folder: Path
    estimate: TimeEstimate
    fit: FitFunction

    def run(self, name: str) -> None:
        frames = synchronised_keys(self.files, self.choice.frames)
        cameras = set_up_cameras(self.files, self.rig, self.options.size, self.options.focal)
        with self.estimate.stage(READING):
            views = observe(self.files, frames, cameras, self.reader, self.options, self.folder)
        log_revision(self.estimate)
        frames, views, left_out = self._with_person(frames, views)
        marks = [[view.landmarks for view in row] for row in views]
        notes = list(cameras.notes)
        if len(cameras.cameras) > 1 and not cameras.calibrated:
            known = self.options.focal is not None or all(source.focal for source in self.files.sources)
            cameras, note = solve_cameras(cameras, marks, known)
            notes.append(note)
        if len(cameras.cameras) > 1:
            cameras, _, note = to_metres(cameras, marks, self.options.height)
            notes += [] if note is None else [note]
        moving = self.choice.moving if self.options.moving_camera is None else self.options.moving_camera
        with self.estimate.stage(FITS):
            result = self._fit(frames, views, cameras, moving)
        faces = visible_faces(result.params.to(torch.device("cpu")), self.body, cameras.cameras)
        drawn = [[ids >= 0 for ids in row] for row in faces]
        ids, labels = [frame.id for frame in frames], [frame.label for frame in frames]
        reports = frame_reports(ids, labels, views, drawn, result.quality)
        if not any(report.used for report in reports):
            raise InputError(f"{self.files.path}: {_refusal(reports)}")
        warnings, coverage = capture_warnings(views, cameras.cameras, moving)
        error = disagreement(cameras.cameras, marks) if len(cameras.cameras) > 1 else None
        if self.rig is not None and error is not None and error > CONTRADICTION:
            warnings.append(
                f"the calibrated cameras contradict each other by {error:.0%} of the person's height: "
                "is the calibration of these images, and are they synchronised?"
            )
        seen, missing = surface_seen(faces, views, self.body)
        if missing:
            warnings.append(
                f"no image shows {', '.join(missing)}: colours there are guessed; more images from there help"
            )
        if self.choice.num_people > 1:
            notes.append(f"{self.choice.num_people} people in view; person {self.options.person} is taken (--person)")
        report = CaptureReport(
            tuple(reports),
            warnings=tuple(dict.fromkeys([*warnings, *result.warnings])),
            notes=tuple(notes),
            left_out=tuple(left_out),
            surface_seen=seen,
            turn_degrees=coverage,
            seconds={name: round(seconds, 2) for name, seconds in self.estimate.seconds.items()},
        )
        with self.estimate.stage(PAGES):
            self._write(name, frames, views, cameras, result, report)
            write_overlay_sheet(self.folder / "overlay.png", self.folder, views, drawn, reports)
            write_page(self.folder / "index.html", name, report)
        _log(report)

    def _with_person(
        self, frames: tuple[ChosenFrame, ...], views: Views
    ) -> tuple[tuple[ChosenFrame, ...], Views, list[tuple[str, str]]]:
        """Frames in which the person was found; the others' images are not stored."""
        left_out = list(self.choice.left_out)
        kept = []
        for f, row in enumerate(views):
            if any(view.landmarks is not None and view.mask is not None and (view.mask > 127).any() for view in row):
                kept.append(f)
                continue
            left_out.append((frames[f].label, "no person"))
            for view in row:
                (self.folder / view.image).unlink()
        if not kept:
            raise InputError(f"{self.files.path}: {NO_PERSON}")
        return tuple(frames[f] for f in kept), [views[f] for f in kept], left_out

    def _fit(self, frames: tuple[ChosenFrame, ...], views: Views, cameras: CameraSet, moving: bool) -> FitResult:
        device = pick_device(self.options.device)
        times = [frame.time for frame in frames]
        seen = observations(views, cameras, times, device)
        options = FitOptions(
            moving_camera=moving and len(cameras.cameras) == 1,
            height=self.options.height,
            fit_hands=self.options.hands,
            same_pose=1.0 if self.files.sources[0].is_video and len(cameras.cameras) == 1 else 0.0,
        )
        initial = self._start(frames, views, cameras)
        with tqdm(desc="fit bodies", unit="step") as bar:

            def on_step(done: int, total: int, terms: dict[str, float]) -> None:
                bar.total = total
                bar.update(done - bar.n)

            body = self.body.to(device)
            return self.fit(seen, body, options, on_step, None if initial is None else initial.to(device))

    def _start(self, frames: tuple[ChosenFrame, ...], views: Views, cameras: CameraSet) -> BodyParams | None:
        """Bodies by another estimator, with `--fits`."""
        if self.options.fits is None:
            return None
        estimate = read_estimate(self.options.fits, self.body, self.options.person)
        source = self.files.sources[0]
        numbers = [(frame_stem(source, frame.keys[0], 0)[1], frame.time) for frame in frames]
        marks = [[view.landmarks for view in row] for row in views]
        initial, covered = starting_bodies(estimate, numbers, marks, cameras.cameras, self.body)
        if not covered:
            raise InputError(
                f"{estimate.source}: its frames {estimate.frames[0]} to {estimate.frames[-1]} are none of the chosen "
                f"ones ({', '.join(str(number) for number, _ in numbers[:5])}, ...); is it of this input?"
            )
        logger.info("%s: poses of %d of %d frames", estimate.source, covered, len(frames))
        return initial

    def _write(
        self,
        name: str,
        frames: tuple[ChosenFrame, ...],
        views: Views,
        cameras: CameraSet,
        result: FitResult,
        report: CaptureReport,
    ) -> None:
        world = upright_world(result.up, cameras.up)
        self.body.to(torch.device("cpu"))
        params = turned_bodies(result.params, self.body, world.rotation)
        records = []
        for f, (frame, row) in enumerate(zip(frames, views)):
            if not report.frames[f].used:
                continue
            images, masks = {}, {}
            for camera, view in zip(cameras.cameras, row):
                if view.mask is None:
                    continue
                images[camera.name] = view.image
                masks[camera.name] = f"masks/{camera.name}/{frame.id:04d}.png"
                path = self.folder / masks[camera.name]
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(view.mask).save(path)
            fit = f"fits/{frame.id:04d}.json"
            (self.folder / "fits").mkdir(exist_ok=True)
            (self.folder / fit).write_text(json.dumps(fit_record(params[f])) + "\n")
            records.append(FrameRecord(frame.id, images, masks, fit, frame.time))
        used = {camera for record in records for camera in record.images}
        turned = turned_cameras(cameras.cameras, world)
        content = CaptureRecord(
            {c.name: CameraRecord(c.K, c.width, c.height, c.T_cam_world) for c in turned if c.name in used},
            records,
            up=world.up,
            body_fingerprint=self.body.fingerprint,
            body_name=self.body.name,
            source={"input": name, "notes": list(report.notes)},
        )
        write_capture_json(self.folder, content)
        self._write_landmarks(frames, views, cameras)
        (self.folder / "quality.json").write_text(json.dumps(report.to_json(), indent=1) + "\n")

    def _write_landmarks(self, frames: tuple[ChosenFrame, ...], views: Views, cameras: CameraSet) -> None:
        content = {
            str(frame.id): {
                camera.name: {
                    "points": _rounded(view.landmarks.points),
                    "visibility": _rounded(view.landmarks.visibility),
                }
                for camera, view in zip(cameras.cameras, row)
                if view.landmarks is not None
            }
            for frame, row in zip(frames, views)
        }
        (self.folder / "landmarks.json").write_text(json.dumps(content) + "\n")


def _rounded(values: np.ndarray) -> list:
    return np.round(values, 3).tolist()


def _refusal(reports: list) -> str:
    overlaps = [report.mask_iou for report in reports if report.mask_iou is not None]
    mean = f" (body and masks overlap by {100 * np.mean(overlaps):.0f} %)" if overlaps else ""
    return (
        f"no frame has a usable body fit{mean}; film the whole body, upright, in even light before a calm background, "
        "or give --masks and --keypoints made by other tools"
    )


def _log(report: CaptureReport) -> None:
    for note in report.notes:
        logger.info("note: %s", note)
    for warning in report.warnings:
        logger.warning("finding: %s", warning)
    if report.left_out:
        logger.info("left out: %s", left_out_summary(report.left_out))
    for frame in report.frames:
        if not frame.used:
            logger.warning("frame %d (%s) is left out: %s", frame.id, frame.label, "; ".join(frame.warnings))
