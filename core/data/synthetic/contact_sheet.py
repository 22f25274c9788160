"""One picture to look a set of captures over."""

from pathlib import Path

from PIL import Image

from smpl_renderer.files import atomic_path


def write_contact_sheet(path: Path, subjects: list[Path], views: int = 4, poses: int = 3, height: int = 160) -> None:
    """Write a sheet with one row of pictures per person, on white.

    Args:
        path: The picture, `.png` or `.jpg`.
        subjects: Folders of captures.
        views: Cameras of each person, evenly chosen.
        poses: Moments of each person, evenly chosen.
        height: Of each picture in pixels.
    """
    rows = [[_tile(image, height) for image in _chosen(subject, views, poses)] for subject in subjects]
    width = max(sum(tile.width for tile in row) for row in rows)
    sheet = Image.new("RGB", (width, height * len(rows)), "white")
    for index, row in enumerate(rows):
        left = 0
        for tile in row:
            sheet.paste(tile, (left, index * height))
            left += tile.width
    with atomic_path(path) as temporary:
        sheet.save(temporary)


def _chosen(subject: Path, views: int, poses: int) -> list[Path]:
    cameras = _spread(sorted((subject / "images_lr").iterdir()), views)
    return [image for camera in cameras for image in _spread(sorted(camera.glob("*_img.jpg")), poses)]


def _spread(items: list[Path], count: int) -> list[Path]:
    return [items[i * len(items) // count] for i in range(min(count, len(items)))]


def _tile(image: Path, height: int) -> Image.Image:
    """The middle of a picture, cut out with its mask."""
    mask_file = image.parents[2] / "fmask_lr" / image.parent.name / f"{image.stem}_fmask.png"
    picture = Image.open(image).convert("RGB")
    mask = Image.open(mask_file).convert("L").resize(picture.size)
    cut_out = Image.composite(picture, Image.new("RGB", picture.size, "white"), mask)
    margin = cut_out.width // 5
    cut_out = cut_out.crop((margin, 0, cut_out.width - margin, cut_out.height))
    return cut_out.resize((cut_out.width * height // cut_out.height, height), Image.Resampling.LANCZOS)
