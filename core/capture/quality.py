"""Quality control of a capture: numbers per frame and findings as sentences, each with what would help."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int

from core.capture.cameras import StoredCamera
from core.capture.landmarks import LIMBS, azimuth, cut_off
from core.capture.observe import View, Views
from core.capture.selection import turn_coverage
from smpl_renderer.body_model import BodyModel
from smpl_renderer.fitting import FrameQuality
from smpl_renderer.mesh_rasterizer import rasterize_mesh
from smpl_renderer.types import BodyParams

SILHOUETTE_SIZE = 384
"""Longer side, in pixels, at which bodies are drawn to be compared with masks."""
BAD_IOU, POOR_IOU = 0.45, 0.72
"""Below the first a frame is left out, below the second it is reported."""
SURFACE_PARTS = (
    ("the face", (15,), 1),
    ("the back of the head", (15,), -1),
    ("the chest", (3, 6, 9), 1),
    ("the back", (3, 6, 9), -1),
    ("the left arm", (16, 18), 0),
    ("the right arm", (17, 19), 0),
    ("the front of the legs", (1, 2, 4, 5), 1),
    ("the back of the legs", (1, 2, 4, 5), -1),
)
"""Name, joints and direction of normals in the rest pose (1: front, -1: back, 0: any) of parts of the surface."""
SMALL, DARK, BRIGHT = 300, 0.12, 0.88


@dataclass(frozen=True)
class FrameReport:
    """Entry of a frame in `quality.json`."""

    id: int
    label: str
    used: bool
    mask_iou: float | None
    landmark_error: float | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaptureReport:
    """Content of `quality.json`."""

    frames: tuple[FrameReport, ...]
    warnings: tuple[str, ...]
    """Findings about the whole capture, as sentences."""
    notes: tuple[str, ...]
    """Guesses and facts, as sentences."""
    left_out: tuple[tuple[str, str], ...]
    """Candidate frames that were not usable, and why."""
    surface_seen: float | None
    """Share of the body's surface that some image shows."""
    turn_degrees: float
    """Degrees of a full turn of the person that the frames cover."""
    seconds: dict[str, float]
    """Duration of the stages."""

    def to_json(self) -> dict:
        return asdict(self)


@torch.no_grad()
def visible_faces(
    params: BodyParams, body: BodyModel, cameras: Sequence[StoredCamera], size: int = SILHOUETTE_SIZE
) -> list[list[Int[np.ndarray, "h w"]]]:
    """Bodies of all frames drawn by all cameras, as indices of faces, -1 where there is none.

    The images are reduced so that the longer side has `size` pixels.
    """
    vertices = body(params.to(body.v_template)).vertices.double().cpu()
    triangles = body.faces.cpu()
    drawn: list[list[np.ndarray]] = []
    for frame in vertices:
        row = []
        for camera in cameras:
            scale = min(1.0, size / max(camera.width, camera.height))
            height, width = max(1, round(camera.height * scale)), max(1, round(camera.width * scale))
            T, K = torch.from_numpy(camera.T_cam_world), torch.from_numpy(camera.K)
            points = frame @ T[:3, :3].T + T[:3, 3]
            pixels = points @ K.T
            pixels = pixels[:, :2] / pixels[:, 2:].clamp_min(1e-3) * scale
            face_ids, _ = rasterize_mesh(pixels.float(), points[:, 2].float(), triangles, height, width)
            row.append(face_ids.numpy())
        drawn.append(row)
    return drawn


def surface_seen(faces: list[list[Int[np.ndarray, "h w"]]], views: Views, body: BodyModel) -> tuple[float, list[str]]:
    """Share of the surface that some image with a mask shows, and the names of parts that are hardly seen.

    Faces smaller than a pixel are missed by the drawing, so a vertex counts as seen if any face of it was drawn.
    """
    seen = np.zeros(body.num_vertices, bool)
    corners = body.faces.cpu().numpy()
    for face_row, view_row in zip(faces, views):
        for ids, view in zip(face_row, view_row):
            if view.mask is not None:
                seen[corners[np.unique(ids[ids >= 0])].ravel()] = True
    seen = seen | _spread(seen, corners)
    template = body.v_template.double().cpu().numpy()
    triangles = template[corners]
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    areas = np.linalg.norm(normals, axis=1)
    share = seen[corners].mean(1)
    joints = body.lbs_weights.argmax(1).cpu().numpy()[corners[:, 0]]
    missing = []
    for name, wanted, direction in SURFACE_PARTS:
        part = np.isin(joints, wanted) & (normals[:, 2] * direction > 0.3 * areas if direction else True)
        if (areas * share)[part].sum() < 0.35 * areas[part].sum():
            missing.append(name)
    return float((areas * share).sum() / areas.sum()), missing


def _spread(seen: Bool[np.ndarray, " V"], corners: Int[np.ndarray, "F 3"]) -> Bool[np.ndarray, " V"]:
    """Vertices all of whose neighbours in some face are seen."""
    spread = np.zeros_like(seen)
    spread[corners[seen[corners].sum(1) >= 2].ravel()] = True
    return spread


def mask_iou(drawn: Bool[np.ndarray, "h w"], mask: np.ndarray) -> float:
    """Intersection over union of a drawn body and a mask of any size."""
    ys = ((np.arange(drawn.shape[0]) + 0.5) * mask.shape[0] / drawn.shape[0]).astype(int)
    xs = ((np.arange(drawn.shape[1]) + 0.5) * mask.shape[1] / drawn.shape[1]).astype(int)
    small = mask[ys][:, xs] > 127
    union = (drawn | small).sum()
    return float((drawn & small).sum() / union) if union else 0.0


def frame_reports(
    ids: list[int],
    labels: list[str],
    views: Views,
    drawn: list[list[np.ndarray]],
    fitted: tuple[FrameQuality, ...],
) -> list[FrameReport]:
    """Reports of all frames. A frame is used unless the fitter rejects it, or its overlap with the masks is low."""
    reports = []
    for f, row in enumerate(views):
        quality = fitted[f] if f < len(fitted) else None
        overlaps = [mask_iou(drawn[f][c], view.mask) for c, view in enumerate(row) if view.mask is not None]
        overlap = float(np.mean(overlaps)) if overlaps else None
        warnings = list(quality.warnings) if quality is not None else []
        usable = (quality is None or quality.usable) and (overlap is None or overlap >= BAD_IOU)
        if overlap is not None and overlap < POOR_IOU:
            warnings.append(f"body and mask overlap by only {100 * overlap:.0f} %")
        error = None if quality is None else quality.landmark_error
        reports.append(FrameReport(ids[f], labels[f], usable, overlap, error, tuple(warnings)))
    return reports


def capture_warnings(views: Views, cameras: Sequence[StoredCamera], moving: bool) -> tuple[list[str], float]:
    """Findings about all frames as sentences, and the degrees of a turn that they cover."""
    cells = [(view, camera) for row in views for view, camera in zip(row, cameras) if view.landmarks is not None]
    count = len(cells)
    unit = "frames" if len(cameras) == 1 else "images"
    warnings = _hidden_limbs(views, unit) + _cut_parts(cells, unit)
    turns = [a for view, _ in cells if (a := azimuth(view.landmarks)) is not None]
    coverage = turn_coverage(turns)
    if len(cameras) == 1 and turns and coverage < 300:
        faces = np.cos(turns)
        unseen = "the back" if faces.max() > 0.3 and faces.min() > -0.3 else "one side"
        advice = "turn once around in front of the camera" if len(views) > 1 else "more images from other sides"
        warnings.append(f"{unseen} is hardly seen ({coverage:.0f} of 360 degrees): {advice}")
    sizes = [view.landmarks.size for view, _ in cells]
    if sizes and np.median(sizes) < SMALL:
        warnings.append(f"the person is only {np.median(sizes):.0f} pixels high: come closer, or record at more pixels")
    brightness = [view.brightness for view, _ in cells if view.mask is not None]
    if brightness and np.median(brightness) < DARK:
        warnings.append("the images are dark: more light on the person makes colours and masks better")
    if brightness and np.median(brightness) > BRIGHT:
        warnings.append("the person is overexposed: less light, or a darker exposure")
    if moving and len(cameras) == 1:
        warnings.append("the camera moves: gravity is estimated for each frame; a phone that stands still is better")
    if count == 1:
        warnings.append("one image only: depth and the unseen side are guessed; more images make both better")
    return warnings, coverage


def _hidden_limbs(views: Views, unit: str) -> list[str]:
    warnings = []
    cells: list[View] = [view for row in views for view in row if view.landmarks is not None]
    for name, indices in LIMBS.items():
        hidden = sum(bool((view.landmarks.visibility[list(indices)] < 0.4).any()) for view in cells)
        if hidden > 0.5 * len(cells):
            warnings.append(
                f"{name} is hidden in {hidden} of {len(cells)} {unit}: keep arms and legs apart from the body"
            )
    return [f"the {text}" for text in warnings]


def _cut_parts(cells: list[tuple[View, StoredCamera]], unit: str) -> list[str]:
    counts: dict[str, int] = {}
    for view, camera in cells:
        for part in cut_off(view.landmarks, camera.width, camera.height):
            counts[part] = counts.get(part, 0) + 1
    verb = {"the feet": "are"}
    return [
        f"{part} {verb.get(part, 'is')} outside the image in {count} of {len(cells)} {unit}: step back from the camera"
        for part, count in counts.items()
        if count > 0.25 * len(cells)
    ]
