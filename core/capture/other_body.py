"""Captures whose fits are of another body (SMPL), copied as captures of the stand-in body.

The fits' posed vertices suffice; the other body's file does not have to be there. A copy has links to images, masks and
cameras, fits of its own, and `body.json`. The original is only read.
"""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch

from core.capture.refit import FrameReport, RefitOptions
from core.data.capture import Capture
from core.data.fits import FIT_FOLDER, REFIT_FOLDER, PosedRecord, fit_files, read_posed_record
from core.data.input_files import read_json
from core.data.mvhumannet import BODY_FILE, MVHumanNetCapture
from core.data.readers import open_capture
from core.data.ready_crops import CROPS_FOLDER
from core.data.refit_files import refit_path, write_refit
from core.utils.device import pick_device
from smpl_renderer.body_files import STANDIN_BODY, load_body
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path
from smpl_renderer.fitting.posed_vertices import Skin, VertexTargets, fit_poses, fit_skin

logger = logging.getLogger(__name__)

LEFT_OUT = (BODY_FILE, FIT_FOLDER, REFIT_FOLDER, CROPS_FOLDER, "smplx")
"""What a copy does not share: it belongs to the other body, as the windows of ready crops do."""
LISTS = ("human.json", "human_debug.json", "packing.json")
MAX_ERROR = 0.03
"""Mean distance in metres above which a frame has no usable fit."""


@dataclass
class CopyReport(FrameReport):
    """What became of the frames of one subject whose fits were copied to the stand-in."""

    errors: list[float] = field(default_factory=list)
    """Mean distance in metres between the vertices and the surface of each written frame."""


def default_copy(root: Path) -> Path:
    """Folder of the copies beside a capture or a folder of captures."""
    whole = Path(root).resolve()
    return whole.with_name(f"{whole.name}_standin")


def link_lists(root: Path, out: Path) -> None:
    """Link the lists beside the subjects of a folder of captures into the folder of the copies."""
    out.mkdir(parents=True, exist_ok=True)
    for name in LISTS:
        if (root / name).is_file():
            _link(root / name, out / name)


def copy_to_standin(path: Path, out: Path, options: RefitOptions = RefitOptions()) -> CopyReport:
    """Fit the stand-in to the vertices of a capture's fits, in a copy with links; an interrupted run resumes.

    Args:
        path: Folder of a capture in MVHumanNet's layout.
        out: Folder of the copy; created.
        options: `frames`, `every`, `batch`, `shape_frames`, `points`, `redo` and `device` count.
    Raises:
        InputError: If it is no such capture, no fit has vertices, or `out` holds something else.
    """
    capture = open_capture(path)
    if not isinstance(capture, MVHumanNetCapture):
        raise InputError(f"{path}: only captures in MVHumanNet's layout can be copied to the stand-in body")
    body = load_body(STANDIN_BODY)
    if capture.body_fingerprint == body.fingerprint:
        raise InputError(f"{path}: its fits are of the stand-in body already ({BODY_FILE}); use it as it is")
    frames = _frames(capture, options)
    _make_copy(capture.path, Path(out), body)
    report = CopyReport()
    todo = []
    for frame in frames:
        done = not options.redo and refit_path(out, frame).is_file()
        (report.skipped if done else todo).append(frame)
    if todo:
        _fit(capture, Path(out), body.to(pick_device(options.device)), todo, options, report)
    if not report.written and not report.skipped:
        raise InputError(next(iter(report.failed.values())))
    return report


def _frames(capture: Capture, options: RefitOptions) -> list[int]:
    usable = {frame for name in capture.camera_names for frame in capture.frames_of(name)} & set(capture.fits)
    if not usable:
        raise InputError(f"{capture.path}: {capture.nothing_usable()}")
    if missing := sorted(set(options.frames) - usable):
        raise InputError(f"{capture.path}: frame {missing[0]:04d} has no fit, or no image with a mask in any camera")
    return sorted(options.frames or usable)[:: options.every]


def _make_copy(path: Path, out: Path, body: BodyModel) -> None:
    """Folder with links to all but the fits, and the record of the stand-in body."""
    if out.resolve() == path.resolve() or out.resolve().is_relative_to(path.resolve()):
        raise InputError(f"{out}: is the capture itself, or inside it; give another folder by --out")
    record = out / BODY_FILE
    if not record.exists() and out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: exists and is no copy of a capture (no {BODY_FILE}); give another folder by --out")
    out.mkdir(parents=True, exist_ok=True)
    if not record.exists():
        with atomic_path(record) as temporary:
            temporary.write_text(json.dumps({"fingerprint": body.fingerprint, "name": body.name}), encoding="utf-8")
    elif not isinstance(content := read_json(record), dict) or content.get("fingerprint") != body.fingerprint:
        raise InputError(f"{record}: names another body than the stand-in; give another folder by --out")
    for entry in sorted(path.iterdir()):
        if entry.name not in LEFT_OUT and not entry.name.startswith("."):
            _link(entry, out / entry.name)


def _link(source: Path, link: Path) -> None:
    if link.is_symlink() and link.resolve() == source.resolve():
        return
    if link.exists() or link.is_symlink():
        raise InputError(f"{link}: exists and is no link to {source}; give another folder by --out")
    try:
        link.symlink_to(source.resolve(), target_is_directory=source.is_dir())
    except OSError as error:
        raise InputError(f"{link}: no link to {source} can be made ({error.strerror}); give --out elsewhere") from error


def _fit(
    capture: MVHumanNetCapture, out: Path, body: BodyModel, todo: list[int], options: RefitOptions, report: CopyReport
) -> None:
    files = fit_files(capture.path)
    skin = _skin(capture, files, body, options)
    for first in range(0, len(todo), options.batch):
        records = {}
        for frame in todo[first : first + options.batch]:
            try:
                records[frame] = _checked(read_posed_record(files[frame]), len(skin.pairs.distances), files[frame][0])
            except InputError as error:
                report.failed[frame] = str(error)
        # Frames with joints and without are fitted apart.
        for has_joints in (True, False):
            group = {frame: record for frame, record in records.items() if (record.joints is not None) == has_joints}
            if group:
                _fit_group(group, out, body, skin, options, report)


def _fit_group(
    group: dict[int, PosedRecord], out: Path, body: BodyModel, skin: Skin, options: RefitOptions, report: CopyReport
) -> None:
    fit = fit_poses(_targets(list(group.values()), body), body, skin)
    with torch.no_grad():
        vertices = body(fit.params).vertices.cpu() if options.points else None
    for i, (frame, error) in enumerate(zip(group, fit.errors.tolist())):
        if not error < MAX_ERROR:
            report.failed[frame] = f"the body stays {1000 * error:.0f} mm away from the vertices"
            continue
        write_refit(out, frame, fit.params[i].to("cpu"), None if vertices is None else vertices[i])
        report.written.append(frame)
        report.errors.append(error)


def _skin(capture: MVHumanNetCapture, files: dict[int, list[Path]], body: BodyModel, options: RefitOptions) -> Skin:
    """Shape and pairs, from frames spread over the whole capture: a resumed run finds the same."""
    frames = _frames(capture, RefitOptions())
    count = min(options.shape_frames, len(frames))
    tried = {round(i * (len(frames) - 1) / max(count - 1, 1)) for i in range(count)}
    order = [frames[i] for i in sorted(tried)] + [frame for i, frame in enumerate(frames) if i not in tried]
    records: list[PosedRecord] = []
    reason: InputError | None = None
    for frame in order:
        if len(records) == count:
            break
        try:
            record = read_posed_record(files[frame])
            num_vertices = len(records[0].vertices) if records else len(record.vertices)
            records.append(_checked(record, num_vertices, files[frame][0]))
        except InputError as error:
            reason = error
    if not records:
        raise reason or InputError(f"{capture.path}: no fit has posed vertices")
    return fit_skin(_targets(records, body), body)


def _checked(record: PosedRecord, num_vertices: int, path: Path) -> PosedRecord:
    if len(record.vertices) != num_vertices:
        raise InputError(f"{path}: has {len(record.vertices)} vertices, other frames {num_vertices}")
    return record


def _targets(records: list[PosedRecord], body: BodyModel) -> VertexTargets:
    """Records as one batch; joints and faces count if all have them."""
    device = body.v_template.device
    has_joints = all(record.joints is not None for record in records)
    return VertexTargets(
        vertices=torch.stack([record.vertices for record in records]).float(),
        pose=torch.stack([record.pose for record in records]).float(),
        joints=torch.stack([record.joints for record in records]).float() if has_joints else None,
        faces=records[0].faces if all(record.faces is not None for record in records) else None,
    ).to(device)
