"""The inputs of a subject, aligned with an avatar made of them: in the capture's world, in words, and on disk."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from core.data.capture import Capture
from core.data.capture_json import fit_record
from core.data.subject_frame import move_body, posed_pelvis, subject_frame, to_subject_frame
from core.inference.alignment import Alignment, without_gains
from core.inference.session import Session
from core.types.frames import Frames
from smpl_renderer.body_model import BodyModel
from smpl_renderer.files import atomic_path
from smpl_renderer.rotations import axis_angle_to_matrix
from smpl_renderer.types import BodyParams

ALIGNMENT_FILE = "alignment.json"


@dataclass(frozen=True)
class AlignedInputs:
    """Input frames after the alignment, and what it changed."""

    inputs: Frames
    """Frames [F, C] with corrected fits and cameras, in the subject frames of the corrected fits, without gains."""
    gains: Float[Tensor, "F C 3"]
    """Brightness of each colour channel of the given images, relative to the mean image."""
    report: dict[str, float]
    """What was moved (`movement`), and root mean square colour errors before and after."""
    first_fits: BodyParams
    """Fits [F] before the alignment, raw world."""
    first_viewmats: Float[Tensor, "C 4 4"]
    """Cameras before the alignment, raw world."""


def align_inputs(
    session: Session,
    inputs: Frames,
    capture: Capture,
    frame_ids: list[int],
    views: list[str],
    on_step: Callable[[], object] = lambda: None,
) -> AlignedInputs:
    """Correct the inputs of a subject, and the fits and cameras of its capture.

    In each round the network makes an avatar of the inputs, and the inputs are aligned with it, as long as that lowers
    the error. Fits of other frames and cameras of other views keep their values.

    Args:
        inputs: Frames [F, C] of the capture.
        frame_ids: The F frames.
        views: The C cameras.
        on_step: Called after the network and after each step.
    """
    body = session.body
    fits, viewmats = input_fits(capture, frame_ids, body), capture.cameras(views).viewmats
    gains, errors = torch.ones_like(inputs.images[..., 0, 0]), []
    for _ in range(session.aligner.options.rounds):
        with session.autocast():
            avatar = session.model(Frames.stack([inputs])).avatar[0]
        on_step()
        alignment = session.aligner(avatar, inputs, on_step)
        errors.append(alignment.error_before)
        if not alignment.error_after < alignment.error_before:
            break
        inputs = apply_alignment(alignment, inputs, capture, frame_ids, views, body)
        gains = gains * alignment.gains
        errors.append(alignment.error_after)
    changed = input_fits(capture, frame_ids, body)
    turns = capture.cameras(views).viewmats @ torch.linalg.inv(viewmats)
    report = movement(fits, changed, turns, gains, body)
    report |= {"error_before": errors[0], "error_after": errors[-1]}
    return AlignedInputs(inputs, gains, report, fits, viewmats)


def apply_alignment(
    alignment: Alignment, inputs: Frames, capture: Capture, frame_ids: list[int], views: list[str], body: BodyModel
) -> Frames:
    """Correct a capture, and its input frames [F, C]: fits, cameras, subject frames and the brightness of images."""
    front = capture.cameras(views[:1]).centers[0]
    pelvis = posed_pelvis(input_fits(capture, frame_ids, body), body)
    T_raw_subject = torch.linalg.inv(subject_frame(pelvis, front.expand_as(pelvis)))
    fits = move_body(alignment.fits.to(front), T_raw_subject, body)
    viewmats = alignment.cameras.to(front) @ capture.cameras(views).viewmats
    capture.correct(
        {frame: fits[i] for i, frame in enumerate(frame_ids)}, dict(zip(views[1:], viewmats[1:])), body.fingerprint
    )
    stacked = replace(
        inputs.cameras, viewmats=viewmats.expand(len(frame_ids), *viewmats.shape), Ks=inputs.cameras.Ks.to(front)
    )
    params, cameras = to_subject_frame(fits, stacked, front, body)
    moved = replace(inputs, body=params.to(inputs.body.scale), cameras=cameras.to(inputs.cameras.Ks))
    return without_gains(moved, alignment.gains)


@torch.no_grad()
def movement(
    before: BodyParams,
    after: BodyParams,
    cameras: Float[Tensor, "C 4 4"],
    gains: Float[Tensor, "F C 3"],
    body: BodyModel,
) -> dict[str, float]:
    """Mean movement of the bodies' vertices, and that of the frame that moved most (mm); mean turn of root and joints
    (degrees); largest movement of a camera (degrees, mm); range of the gains."""
    vertices = [body(fits.to(body.v_template)).vertices for fits in (before, after)]
    moved = 1000 * (vertices[1] - vertices[0]).norm(dim=-1).mean(-1)
    poses = [axis_angle_to_matrix(fits.body_pose.unflatten(-1, (-1, 3))) for fits in (before, after)]
    roots = [axis_angle_to_matrix(fits.global_orient) for fits in (before, after)]
    return {
        "vertices_mm": moved.mean().item(),
        "vertices_max_mm": moved.max().item(),
        "root_degrees": _degrees(roots[0].mT @ roots[1]).mean().item(),
        "joints_degrees": _degrees(poses[0].mT @ poses[1]).mean().item(),
        "cameras_degrees": _degrees(cameras[:, :3, :3]).max().item(),
        "cameras_mm": 1000 * cameras[:, :3, 3].norm(dim=-1).max().item(),
        "gain_min": gains.min().item(),
        "gain_max": gains.max().item(),
    }


def describe_alignment(report: dict[str, float], several_cameras: bool) -> str:
    """What was moved, as one sentence."""
    text = (
        f"the alignment moved the body by {report['vertices_mm']:.0f} mm (mean of the vertices; "
        f"{report['vertices_max_mm']:.0f} mm in one frame), its root by {report['root_degrees']:.1f} and its joints by "
        f"{report['joints_degrees']:.1f} degrees"
    )
    if several_cameras:
        text += f", cameras by at most {report['cameras_degrees']:.2f} degrees and {report['cameras_mm']:.1f} mm"
    return (
        f"{text}; colour gains of the images are {report['gain_min']:.2f} to {report['gain_max']:.2f}; root mean "
        f"square colour error {report['error_before']:.4f} before, {report['error_after']:.4f} after"
    )


def write_alignment(
    path: Path, aligned: AlignedInputs, capture: Capture, frame_ids: list[int], views: list[str], body: BodyModel
) -> None:
    """Write the corrected fits and cameras, in the raw world (z down, metres), the gains, and what was moved."""
    content = {
        "summary": describe_alignment(aligned.report, len(views) > 1),
        "report": aligned.report,
        "fits": {f"{frame:04d}": fit_record(capture.fit(frame, body)) for frame in frame_ids},
        "T_cam_world": {view: _listed(capture.camera(view).viewmat) for view in views},
        "gains": {
            f"{frame:04d}": {view: _listed(gain) for view, gain in zip(views, row)}
            for frame, row in zip(frame_ids, aligned.gains)
        },
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def input_fits(capture: Capture, frame_ids: list[int], body: BodyModel) -> BodyParams:
    """Fits [F] of frames, raw world."""
    return BodyParams.stack([capture.fit(frame, body) for frame in frame_ids])


def _degrees(rotations: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    cosines = (rotations.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.rad2deg(cosines.clamp(-1, 1).arccos())


def _listed(values: Float[Tensor, "..."]) -> list:
    return values.detach().cpu().double().tolist()
