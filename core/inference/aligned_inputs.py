"""The alignment of a subject's inputs in the world of its capture, in words, and on disk."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from core.data.capture import Capture
from core.data.capture_json import fit_record
from core.data.protocol import ResolvedProtocol
from core.data.subject_frame import move_body, posed_pelvis, subject_frame, to_subject_frame
from core.inference.alignment import Alignment, without_gains
from core.types.frames import Frames
from smpl_renderer.body_model import BodyModel
from smpl_renderer.files import atomic_path
from smpl_renderer.types import BodyParams

ALIGNMENT_FILE = "alignment.json"


def apply_alignment(
    alignment: Alignment, inputs: Frames, capture: Capture, plan: ResolvedProtocol, body: BodyModel
) -> Frames:
    """Correct a capture, and its input frames [F, C]: fits, cameras, subject frames and the brightness of images.

    Fits of other frames and cameras of other views keep their values.
    """
    frame_ids, views = plan.observed_frames, plan.input_views
    front = capture.cameras(views[:1]).centers[0]
    before = BodyParams.stack([capture.fit(frame, body) for frame in frame_ids])
    pelvis = posed_pelvis(before, body)
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


def describe_alignment(alignment: Alignment) -> str:
    """What was moved, as one sentence."""
    r = alignment.report
    text = (
        f"the alignment moved the body by {r['vertices_mm']:.0f} mm (mean of the vertices; {r['vertices_max_mm']:.0f} "
        f"mm in one frame), its root by {r['root_degrees']:.1f} and its joints by {r['joints_degrees']:.1f} degrees"
    )
    if len(alignment.cameras) > 1:
        text += f", cameras by at most {r['cameras_degrees']:.2f} degrees and {r['cameras_mm']:.1f} mm"
    if (alignment.gains != 1).any():
        text += f"; colour gains of the images are {r['gain_min']:.2f} to {r['gain_max']:.2f}"
    return f"{text}; root mean square colour error {r['error_before']:.4f} before, {r['error_after']:.4f} after"


def write_alignment(
    path: Path, alignment: Alignment, capture: Capture, plan: ResolvedProtocol, body: BodyModel
) -> None:
    """Write the corrected fits and cameras, in the raw world (z down, metres), the gains, and what was moved."""
    frames, views = plan.observed_frames, plan.input_views
    content = {
        "summary": describe_alignment(alignment),
        "report": alignment.report,
        "fits": {f"{frame:04d}": fit_record(capture.fit(frame, body)) for frame in frames},
        "T_cam_world": {view: _listed(capture.camera(view).viewmat) for view in views},
        "gains": {
            f"{frame:04d}": {view: _listed(gain) for view, gain in zip(views, row)}
            for frame, row in zip(frames, alignment.gains)
        },
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _listed(values: Float[Tensor, "..."]) -> list:
    return values.detach().cpu().double().tolist()
