"""Image files of cameras and tools: the same scene in, whatever mode, depth, orientation and format."""

import os
import struct
import zlib

import numpy as np
import pytest
from exif_orientations import STORED
from PIL import Image

from core.data.images import MAX_PIXELS, image_size, open_image, to_rgb
from smpl_renderer.errors import InputError


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """Smooth colours that no flip or turn leaves as they are."""
    y, x = np.mgrid[:48, :64]
    return np.stack([3 * x, 5 * y, 2 * x + y], -1).astype(np.uint8)


def read(path, at_least=None) -> np.ndarray:
    with open_image(path) as source:
        image, _ = source.load(at_least)
        assert at_least is not None or source.size == image.size
        return np.asarray(to_rgb(image, path))


def save(path, pixels, orientation=1, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(STORED[orientation](pixels))).save(path, exif=exif, **options)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_orientation_is_applied(tmp_path, scene, suffix, orientation):
    path = tmp_path / f"image.{suffix}"
    lossless = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}
    save(path, scene, orientation, **lossless.get(suffix, {}))
    assert image_size(path) == (64, 48)
    np.testing.assert_allclose(read(path).astype(int), scene, atol=4 if suffix == "jpg" else 0)


@pytest.mark.parametrize("orientation", STORED)
def test_fast_decoding_keeps_the_orientation_and_states_the_exact_size(tmp_path, scene, orientation):
    path = tmp_path / "image.jpg"
    large = np.kron(scene, np.ones((8, 8, 1), np.uint8))[:381, :509]  # no multiple of 8
    save(path, large, orientation, quality=100, subsampling=0)
    with open_image(path) as source:
        image, exact = source.load((100, 90))
    assert exact == (509 / 4, 381 / 4) and image.size == (128, 96)
    means = large[:380, :508].reshape(95, 4, 127, 4, 3).mean((1, 3))
    np.testing.assert_allclose(np.asarray(image)[:95, :127].astype(float), means, atol=12)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "P", "YCbCr"])
def test_colours_of_any_mode(tmp_path, scene, mode):
    suffix = {"CMYK": "tif", "YCbCr": "tif"}.get(mode, "png")
    palette = {"palette": Image.Palette.ADAPTIVE, "colors": 256} if mode == "P" else {}
    image = Image.fromarray(scene).convert(mode, **palette)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(scene[..., 0]))
    image.save(tmp_path / f"image.{suffix}")
    tolerance = {"P": 24, "YCbCr": 3, "CMYK": 1}.get(mode, 0)
    np.testing.assert_allclose(read(tmp_path / f"image.{suffix}").astype(int), scene, atol=tolerance)


@pytest.mark.parametrize("kind", ["L", "LA", "1", "I;16", "I;16 big", "I", "F", "F of 255"])
def test_grey_of_any_depth(tmp_path, scene, kind):
    grey = scene[..., 0]
    if kind == "1":
        grey = np.where(grey > 100, 255, 0).astype(np.uint8)
    files = {
        "L": ("png", grey),
        "LA": ("png", np.stack([grey, grey], -1)),
        "1": ("png", grey > 0),
        "I;16": ("png", grey.astype(np.uint16) * 257),
        "I;16 big": ("tif", (grey.astype(np.uint16) * 257).astype(">u2")),
        "I": ("tif", grey.astype(np.int32) * 257),
        "F": ("tif", grey.astype(np.float32) / 255),
        "F of 255": ("tif", grey.astype(np.float32)),
    }
    suffix, values = files[kind]
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(values).save(path)
    np.testing.assert_array_equal(read(path), grey[..., None].repeat(3, -1))


def test_16_bits_of_colour_keep_the_high_byte(tmp_path, scene):
    """Written by hand: Pillow reads such files, but does not write them."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in scene.astype(np.uint16) * 257)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0)
    path = tmp_path / "image.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    np.testing.assert_array_equal(read(path), scene)


def test_values_without_a_known_white_are_refused(tmp_path):
    for values in (np.full((4, 4), -1.0, np.float32), np.full((4, 4), 1e7, np.float32), np.full((4, 4), np.nan, "f4")):
        Image.fromarray(values).save(tmp_path / "image.tif")
        with pytest.raises(InputError, match=r"image\.tif: mode F with values .* has no known white"):
            read(tmp_path / "image.tif")


def test_only_images_are_opened(tmp_path, monkeypatch):
    """EPS would start Ghostscript, also under another suffix."""
    monkeypatch.setattr("subprocess.Popen", None)
    path = tmp_path / "image.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(InputError, match=r"image\.png: cannot be read as an image \(it is no JPEG"):
        read(path)


def test_bombs_are_refused_before_they_are_decoded(tmp_path):
    """Headers that promise many pixels, of some and of very many."""
    for side in (int(MAX_PIXELS**0.5) + 1, 60000):
        header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        path = tmp_path / "image.png"
        chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + bytes(4))
        with pytest.raises(InputError, match=r"image\.png: .* pixels .*at most 134 million are decoded"):
            read(path)


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "image.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for name in ("image.png", "folder.png", "device.png"):
        with pytest.raises(InputError, match=rf"{name}: .*no regular file"):
            read(tmp_path / name)
    with pytest.raises(InputError, match=r"none\.png: no such file"):
        read(tmp_path / "none.png")
