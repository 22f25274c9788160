"""The overlay sheet of aligned inputs: the fits before and after the alignment on every input image."""

from pathlib import Path

from core.capture.cameras import StoredCamera
from core.capture.overlay import FIT_COLOR, MASK_COLOR, Color, Tile, write_sheet
from core.capture.quality import mask_iou, visible_faces
from core.data.capture import Capture
from core.inference.aligned_inputs import AlignedInputs, input_fits
from smpl_renderer.body_model import BodyModel

FIRST_COLOR: Color = (120, 120, 255)
LEGEND = {"aligned fit": FIT_COLOR, "first fit": FIRST_COLOR, "mask": MASK_COLOR}


def write_aligned_overlay(
    path: Path, aligned: AlignedInputs, capture: Capture, frame_ids: list[int], views: list[str], body: BodyModel
) -> None:
    """Write a sheet as PNG with the outlines of both fits, and their overlaps with the masks.

    Args:
        capture: Capture with the corrections of the alignment.
        frame_ids: The F input frames.
        views: The C input cameras.
    """
    cameras = [capture.camera(view) for view in views]
    drawn = []
    for fits, viewmats in (
        (aligned.first_fits, aligned.first_viewmats),
        (input_fits(capture, frame_ids, body), [camera.viewmat for camera in cameras]),
    ):
        stored = [
            StoredCamera(view, camera.K.numpy(), *camera.size, viewmat.cpu().numpy())
            for view, camera, viewmat in zip(views, cameras, viewmats)
        ]
        drawn.append([[faces >= 0 for faces in row] for row in visible_faces(fits, body, stored)])
    first, last = drawn

    def tile(f: int, c: int) -> Tile:
        mask = capture.mask(views[c], frame_ids[f])
        overlaps = [mask_iou(silhouettes[f][c], mask) for silhouettes in (first, last)]
        caption = (
            f"{frame_ids[f]:04d} {views[c]}" if len(views) > 1 else f"{frame_ids[f]:04d}",
            f"overlap {100 * overlaps[1]:.0f} % (first fit {100 * overlaps[0]:.0f} %)",
        )
        outlines = ((first[f][c], FIRST_COLOR), (last[f][c], FIT_COLOR))
        return Tile(capture.image(views[c], frame_ids[f]), mask > 127, outlines, caption=caption)

    write_sheet(path, len(frame_ids), len(views), tile, LEGEND)
