"""The overlay sheet: on every image the fit's outline, the mask's edge and the landmarks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from core.capture.landmarks import EDGES, Landmarks
from core.capture.observe import Views, load_stored
from core.capture.quality import FrameReport
from smpl_renderer.files import atomic_path

FIT_COLOR, MASK_COLOR, LEFT_COLOR, RIGHT_COLOR = (255, 80, 200), (60, 230, 90), (80, 190, 255), (255, 190, 60)
MIDDLE_COLOR = (250, 250, 250)
TILE_HEIGHT, MAX_TILES, CAPTION, LEGEND = 480, 32, 34, 400
LEFT_LANDMARKS = {1, 2, 3, 7, 9, *range(11, 32, 2)}


def write_overlay_sheet(
    path: Path, folder: Path, views: Views, drawn: list[list[np.ndarray]] | None, reports: Sequence[FrameReport]
) -> None:
    """Write the sheet as PNG: a row of tiles per frame with several cameras, else tiles in reading order.

    Args:
        folder: Folder of the capture, with the stored images.
        drawn: Silhouettes of the fitted bodies by frame and camera, of any size; None without fits.
    """
    num_cameras = min(len(views[0]), 8)
    frames = range(min(len(views), max(1, MAX_TILES // num_cameras)))
    tiles = [
        _tile(folder, views[f][c], None if drawn is None else drawn[f][c], _caption(reports[f], c, num_cameras))
        for f in frames
        for c in range(num_cameras)
    ]
    columns = num_cameras if num_cameras > 1 else _columns(len(tiles), tiles[0].width / tiles[0].height)
    width, height = max(t.width for t in tiles), max(t.height for t in tiles)
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (max(columns * (width + 6), LEGEND), rows * (height + 6) + 26), (24, 24, 28))
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % columns * (width + 6), index // columns * (height + 6)))
    _legend(sheet)
    with atomic_path(path) as temporary:
        sheet.save(temporary)


def _columns(count: int, aspect: float) -> int:
    """Number of columns for a sheet about half as wide again as high, with full rows."""
    rows = max(1, round(count / np.sqrt(1.5 * count / max(aspect, 0.2))))
    return -(-count // rows)


def _caption(report: FrameReport, camera: int, num_cameras: int) -> tuple[str, str]:
    title = f"{report.id} ({report.label})" if camera == 0 else ""
    state = "" if report.used else "left out; "
    overlap = "" if report.mask_iou is None else f"overlap {100 * report.mask_iou:.0f} %"
    return title, state + overlap if camera == 0 or num_cameras == 1 else ""


def _tile(folder: Path, view, drawn: np.ndarray | None, caption: tuple[str, str]) -> Image.Image:
    image = load_stored(folder, view.image)
    left, top, right, bottom = crop = _crop(view, image.shape[1], image.shape[0])
    scale = TILE_HEIGHT / (bottom - top)
    width = max(1, round((right - left) * scale))
    canvas = np.asarray(Image.fromarray(image).resize((width, TILE_HEIGHT), Image.LANCZOS, crop)) * 0.8
    if view.mask is not None:
        _draw_edge(canvas, _resized(view.mask > 127, width, crop, image.shape), MASK_COLOR)
    if drawn is not None and view.mask is not None:
        _draw_edge(canvas, _resized(drawn, width, crop, image.shape), FIT_COLOR)
    tile = Image.new("RGB", (width, TILE_HEIGHT + CAPTION), (24, 24, 28))
    tile.paste(Image.fromarray(canvas.astype(np.uint8)), (0, 0))
    draw = ImageDraw.Draw(tile)
    if view.landmarks is not None:
        draw_landmarks(draw, view.landmarks.shifted(scale, (-left * scale, -top * scale)))
    draw.text((4, TILE_HEIGHT + 3), caption[0], fill=(240, 240, 240))
    draw.text((4, TILE_HEIGHT + 17), caption[1], fill=(190, 190, 190))
    return tile


def _crop(view, width: int, height: int) -> tuple[float, float, float, float]:
    """The part of the image that a tile shows: the person with a margin, in the image's proportions."""
    if view.landmarks is None:
        return 0, 0, width, height
    left, top, right, bottom = view.landmarks.box
    tall = min(height, max(1.45 * (bottom - top), 1.3 * (right - left) * height / width))
    wide = tall * width / height
    x = np.clip((left + right - wide) / 2, 0, width - wide)
    y = np.clip((top + bottom - tall) / 2, 0, height - tall)
    return float(x), float(y), float(x + wide), float(y + tall)


def draw_landmarks(draw: ImageDraw.ImageDraw, landmarks: Landmarks) -> None:
    """Bones as lines, blue on the person's left and orange on the right; hidden ones are left out."""
    points = landmarks.points
    for a, b in EDGES:
        if min(landmarks.visibility[a], landmarks.visibility[b]) <= 0.3:
            continue
        both = {a in LEFT_LANDMARKS, b in LEFT_LANDMARKS}
        color = MIDDLE_COLOR if len(both) == 2 or 0 in (a, b) else LEFT_COLOR if both == {True} else RIGHT_COLOR
        draw.line([tuple(points[a]), tuple(points[b])], fill=color, width=2)
    if landmarks.hands is not None:
        for side, color in enumerate((LEFT_COLOR, RIGHT_COLOR)):
            if landmarks.hand_visibility[side] > 0.5:
                for x, y in landmarks.hands[side]:
                    draw.point((x, y), fill=color)


def _resized(mask: np.ndarray, width: int, crop: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
    """A crop of a mask; `crop` is in pixels of an image of `shape`, of which the mask may be a reduction."""
    scales = (mask.shape[1] / shape[1], mask.shape[0] / shape[0]) * 2
    box = tuple(x * s for x, s in zip(crop, scales))
    small = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, TILE_HEIGHT), Image.BILINEAR, box)
    return np.asarray(small) > 127


def _draw_edge(canvas: np.ndarray, mask: np.ndarray, color: tuple[int, int, int]) -> None:
    edge = mask & ~ndimage.binary_erosion(mask)
    canvas[edge] = color


def _legend(sheet: Image.Image) -> None:
    draw, x, y = ImageDraw.Draw(sheet), 6, sheet.height - 20
    entries = (("fit", FIT_COLOR), ("mask", MASK_COLOR), ("left side", LEFT_COLOR), ("right side", RIGHT_COLOR))
    for text, color in entries:
        draw.rectangle((x, y + 3, x + 14, y + 11), fill=color)
        draw.text((x + 20, y), text, fill=(230, 230, 230))
        x += 100
