"""A sound capture whose images and masks are encoded otherwise: the same is read."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from bent_captures import TINY, Bends, assert_same, images, masks, pairs, person, pixels, read
from exif_orientations import STORED
from PIL import Image

same = Bends()


def with_orientation(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](pixels(path))))
    stored.save(path, exif=exif)


# Images.


@same(0)
def every_orientation(folder):
    for i, path in enumerate(images(folder)):
        with_orientation(path, 2 + i % 7)


@same(0)
def orientation_of_masks_too(folder):
    for i, path in enumerate([*images(folder), *masks(folder)]):
        with_orientation(path, 2 + i % 7)


@same(2.5)
def jpeg_under_other_suffixes(folder):
    for path, suffix in zip(images(folder), (".JPEG", ".jpeg", ".Jpg", ".JPG") * 2):
        Image.open(path).save(path.with_suffix(suffix), "JPEG", quality=97, subsampling=0)
        path.unlink()


@same(2.5)
def cmyk_jpeg(folder):
    for path in images(folder):
        Image.open(path).convert("CMYK").save(path.with_suffix(".jpg"), quality=97, subsampling=0)
        path.unlink()


@same(0)
def other_formats(folder):
    for path, suffix in zip(images(folder), (".tif", ".webp", ".bmp", ".TIFF") * 2):
        Image.open(path).save(path.with_suffix(suffix), **({"lossless": True} if suffix == ".webp" else {}))
        path.unlink()


@same(4)
def palette_images(folder):
    for path in images(folder):
        Image.open(path).quantize(256).save(path)


@same(0)
def alpha_without_masks(folder):
    for image, mask in pairs(folder):
        Image.fromarray(np.dstack([pixels(image), pixels(mask)])).save(image)
    shutil.rmtree(folder / "fmask_lr")


@same(0)
def alpha_without_masks_in_one_camera(folder):
    name = TINY.names[1]
    for image, mask in pairs(folder):
        if image.parent.name == name:
            Image.fromarray(np.dstack([pixels(image), pixels(mask)])).save(image)
    shutil.rmtree(folder / "fmask_lr" / name)


@same(0)
def black_where_transparent(folder):
    for image, mask in pairs(folder):
        colours = np.where(person(mask)[..., None], pixels(image), 0)
        Image.fromarray(np.dstack([colours, pixels(mask)])).save(image)
    shutil.rmtree(folder / "fmask_lr")


@same(0)
def files_of_macos_and_windows(folder):
    for path in [*images(folder), *masks(folder)]:
        path.with_name(f"._{path.name}").write_bytes(bytes(4096))
        (path.parent / ".DS_Store").touch()
        (path.parent / "Thumbs.db").touch()


@same(0)
def names_without_img(folder):
    for path in images(folder):
        path.rename(path.with_name(f"{path.stem[:4]}.png"))
    for path in masks(folder):
        path.rename(path.with_name(f"{path.stem[:4]}.PNG"))


@same(0)
def names_of_more_digits(folder):
    for path in images(folder):
        path.rename(path.with_name(f"00{path.name}"))


@same(0)
def masks_named_after_the_whole_image(folder):
    for image, mask in pairs(folder):
        mask.rename(mask.with_name(f"{image.name}.png"))


@same(0)
def folders_without_lr(folder):
    (folder / "images_lr").rename(folder / "images")
    (folder / "fmask_lr").rename(folder / "masks")


@same(3)
def images_of_a_third_of_the_calibration(folder):
    """The masks keep their size."""
    for path in images(folder):
        Image.open(path).resize((204, 171), Image.Resampling.BOX).save(path)


@same(3)
def cameras_of_several_sizes(folder):
    sizes = dict(zip(TINY.names, [(306, 256), (612, 512), (153, 128), (204, 171)]))
    for path in images(folder):
        Image.open(path).resize(sizes[path.parent.name], Image.Resampling.BICUBIC).save(path)


# Masks.


@same(0)
def labels_of_each_camera(folder):
    for i, path in enumerate(masks(folder)):
        Image.fromarray((1 + 17 * i) * person(path).astype(np.uint8)).save(path)


@same(0)
def one_bit(folder):
    for path in masks(folder):
        Image.fromarray(person(path)).save(path)


@same(0)
def palettes(folder):
    for i, path in enumerate(masks(folder)):
        mask = Image.fromarray((1 + i) * person(path).astype(np.uint8))
        mask.putpalette(np.random.default_rng(i).integers(0, 256, 768, np.uint8).tolist())
        mask.save(path)


@same(0)
def sixteen_bits(folder):
    for i, path in enumerate(masks(folder)):
        Image.fromarray(person(path).astype(np.uint16) * (1, 255, 256, 4095, 65535)[i % 5]).save(path)


@same(0)
def colours_of_each_camera(folder):
    colours = [(0, 255, 0), (255, 0, 0), (128, 0, 0), (255, 255, 0), (0, 0, 128), (180, 70, 10), (250, 250, 255)]
    for i, path in enumerate(masks(folder)):
        Image.fromarray(person(path)[..., None] * np.array(colours[i % len(colours)], np.uint8)).save(path)


@same(0)
def white_background(folder):
    for path in masks(folder):
        Image.fromarray(np.where(person(path), 0, 255).astype(np.uint8)).save(path)


@same(0)
def grey_with_alpha(folder):
    for path in masks(folder):
        mask = np.where(person(path), 255, 0).astype(np.uint8)
        Image.fromarray(np.dstack([np.full_like(mask, 255), mask])).save(path)


@same(0)
def cut_out_colours_with_alpha(folder):
    for image, mask in pairs(folder):
        Image.fromarray(np.dstack([pixels(image), pixels(mask)])).save(mask)


@same(1)
def jpeg_masks(folder):
    for path in masks(folder):
        Image.open(path).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("name", same)
def test_the_same_is_read(sound, body, tmp_path, name):
    bend, tolerance = same[name]
    folder = shutil.copytree(sound[0], tmp_path / "209001")
    bend(folder)
    assert_same(read(folder, body), sound[1], tolerance)
