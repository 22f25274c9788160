"""Overlay sheets: on every image the fit's outline, the mask's edge and the landmarks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw
from scipy import ndimage

from core.capture.landmarks import EDGES, Landmarks
from core.capture.observe import Views, load_stored
from core.capture.quality import FrameReport
from smpl_renderer.files import atomic_path

Color: TypeAlias = tuple[int, int, int]
FIT_COLOR, MASK_COLOR, LEFT_COLOR, RIGHT_COLOR = (255, 80, 200), (60, 230, 90), (80, 190, 255), (255, 190, 60)
MIDDLE_COLOR = (250, 250, 250)
LEGEND = {"fit": FIT_COLOR, "mask": MASK_COLOR, "left side": LEFT_COLOR, "right side": RIGHT_COLOR}
TILE_HEIGHT, MAX_TILES, MAX_CAMERAS, CAPTION, LEGEND_STEP = 480, 32, 8, 34, 100
LEFT_LANDMARKS = {1, 2, 3, 7, 9, *range(11, 32, 2)}


@dataclass(frozen=True)
class Tile:
    """One image of a sheet and what is drawn on it."""

    image: UInt8[np.ndarray, "H W 3"]
    mask: Bool[np.ndarray, "h w"] | None = None
    """Mask of the person, of any size in the image's proportions."""
    outlines: tuple[tuple[Bool[np.ndarray, "h w"], Color], ...] = ()
    """Silhouettes of bodies whose edges are drawn one after another, of any size, and their colours."""
    landmarks: Landmarks | None = None
    """Landmarks in pixels of the image."""
    caption: tuple[str, str] = ("", "")


def write_overlay_sheet(
    path: Path, folder: Path, views: Views, drawn: list[list[np.ndarray]] | None, reports: Sequence[FrameReport]
) -> None:
    """Write the sheet of a capture: fits, masks and landmarks.

    Args:
        folder: Folder of the capture, with the stored images.
        drawn: Silhouettes of the fitted bodies by frame and camera, of any size; None without fits.
    """
    num_cameras = len(views[0])

    def tile(f: int, c: int) -> Tile:
        view, outlines = views[f][c], ()
        if drawn is not None and view.mask is not None:
            outlines = ((drawn[f][c], FIT_COLOR),)
        mask = None if view.mask is None else view.mask > 127
        image = load_stored(folder, view.image)
        return Tile(image, mask, outlines, view.landmarks, _caption(reports[f], c, num_cameras))

    write_sheet(path, len(views), num_cameras, tile, LEGEND)


def write_sheet(
    path: Path, num_frames: int, num_cameras: int, tile: Callable[[int, int], Tile], legend: dict[str, Color]
) -> None:
    """Write a sheet as PNG: a row of tiles per frame with several cameras, else tiles in reading order.

    Args:
        tile: The image of a frame and a camera, by position.
        legend: Colours and their meaning.
    """
    num_cameras = min(num_cameras, MAX_CAMERAS)
    frames = range(min(num_frames, max(1, MAX_TILES // num_cameras)))
    tiles = [_draw(tile(f, c)) for f in frames for c in range(num_cameras)]
    columns = num_cameras if num_cameras > 1 else _columns(len(tiles), tiles[0].width / tiles[0].height)
    width, height = max(t.width for t in tiles), max(t.height for t in tiles)
    rows = -(-len(tiles) // columns)
    sheet = Image.new(
        "RGB", (max(columns * (width + 6), LEGEND_STEP * len(legend)), rows * (height + 6) + 26), (24, 24, 28)
    )
    for index, drawn in enumerate(tiles):
        sheet.paste(drawn, (index % columns * (width + 6), index // columns * (height + 6)))
    _draw_legend(sheet, legend)
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


def _draw(tile: Tile) -> Image.Image:
    image = tile.image
    left, top, right, bottom = crop = _crop(tile)
    scale = TILE_HEIGHT / (bottom - top)
    width = max(1, round((right - left) * scale))
    canvas = np.asarray(Image.fromarray(image).resize((width, TILE_HEIGHT), Image.LANCZOS, crop)) * 0.8
    edges = () if tile.mask is None else ((tile.mask, MASK_COLOR),)
    for mask, color in (*edges, *tile.outlines):
        _draw_edge(canvas, _resized(mask, width, crop, image.shape), color)
    drawn = Image.new("RGB", (width, TILE_HEIGHT + CAPTION), (24, 24, 28))
    drawn.paste(Image.fromarray(canvas.astype(np.uint8)), (0, 0))
    draw = ImageDraw.Draw(drawn)
    if tile.landmarks is not None:
        draw_landmarks(draw, tile.landmarks.shifted(scale, (-left * scale, -top * scale)))
    draw.text((4, TILE_HEIGHT + 3), tile.caption[0], fill=(240, 240, 240))
    draw.text((4, TILE_HEIGHT + 17), tile.caption[1], fill=(190, 190, 190))
    return drawn


def _crop(tile: Tile) -> tuple[float, float, float, float]:
    """The part of the image that is drawn: the person with a margin, in the image's proportions."""
    height, width = tile.image.shape[:2]
    box = _box(tile)
    if box is None:
        return 0, 0, width, height
    left, top, right, bottom = box
    tall = min(height, max(1.45 * (bottom - top), 1.3 * (right - left) * height / width))
    wide = tall * width / height
    x = np.clip((left + right - wide) / 2, 0, width - wide)
    y = np.clip((top + bottom - tall) / 2, 0, height - tall)
    return float(x), float(y), float(x + wide), float(y + tall)


def _box(tile: Tile) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom of the landmarks, or of the mask, in pixels of the image."""
    if tile.landmarks is not None:
        return tile.landmarks.box
    if tile.mask is None or not tile.mask.any():
        return None
    scales = (tile.image.shape[1] / tile.mask.shape[1], tile.image.shape[0] / tile.mask.shape[0])
    spans = [np.flatnonzero(tile.mask.any(axis))[[0, -1]] + [0, 1] for axis in (0, 1)]
    (left, right), (top, bottom) = (span * scale for span, scale in zip(spans, scales))
    return left, top, right, bottom


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


def _draw_legend(sheet: Image.Image, legend: dict[str, Color]) -> None:
    draw, x, y = ImageDraw.Draw(sheet), 6, sheet.height - 20
    for text, color in legend.items():
        draw.rectangle((x, y + 3, x + 14, y + 11), fill=color)
        draw.text((x + 20, y), text, fill=(230, 230, 230))
        x += LEGEND_STEP
