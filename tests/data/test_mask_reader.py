"""Masks in every encoding that tools write: the same person, or an error that states mode and values."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from core.data.images import open_image
from core.data.masks import alpha_mask, decode_mask
from smpl_renderer.errors import InputError


def ellipse(width: int = 153, height: int = 128, x: float = 0.5, y: float = 0.5) -> np.ndarray:
    """A person-like region, boolean."""
    v, u = np.mgrid[:height, :width]
    return ((u - x * width) / (0.13 * width)) ** 2 + ((v - y * height) / (0.4 * height)) ** 2 < 1


def read_mask(path: Path) -> Image.Image:
    """Read a mask file as `core.data.crops` does, at its own size."""
    with open_image(path) as source:
        image, _ = source.load()
        return decode_mask(image, path)


PERSON = ellipse()
SOFT = np.asarray(Image.fromarray(np.where(PERSON, 255, 0).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2)))


def palette_image(indices: np.ndarray, colours: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8)).convert("P")
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(np.array(colours, np.uint8).flatten().tolist() + [0] * (768 - 3 * len(colours)))
    return image


def encode(encoding: str, person: np.ndarray) -> Image.Image:
    """A mask of two values, as a tool would write it."""
    on, off = person.astype(np.uint8), np.zeros(person.shape, np.uint8)
    full = 255 * on
    rng = np.random.default_rng(0)
    encodings = {
        "0 and 255": lambda: Image.fromarray(full),
        "0 and 1": lambda: Image.fromarray(on),
        "0 and 7": lambda: Image.fromarray(7 * on),
        "100 and 128": lambda: Image.fromarray(100 + 28 * on),
        "one bit": lambda: Image.fromarray(person),
        "16 bits": lambda: Image.fromarray(on.astype(np.uint16) * 65535),
        "16 bits of 0 and 1": lambda: Image.fromarray(on.astype(np.uint16)),
        "32 bits": lambda: Image.fromarray(on.astype(np.int32) * 255),
        "floats": lambda: Image.fromarray(on.astype(np.float32)),
        "RGB grey": lambda: Image.fromarray(np.stack([full] * 3, -1)),
        "green on black": lambda: Image.fromarray(np.stack([off, full, off], -1)),
        "dark red on black": lambda: Image.fromarray(np.stack([128 * on, off, off], -1)),
        "label in one channel": lambda: Image.fromarray(np.stack([off, off, on], -1)),
        "yellow on blue": lambda: Image.fromarray(np.where(person[..., None], (255, 220, 0), (0, 0, 200)).astype("u1")),
        "palette": lambda: palette_image(on, [(0, 0, 0), (128, 0, 0)]),
        "palette of labels": lambda: palette_image(15 * on, [(0, 0, 0)] * 15 + [(192, 128, 128)]),
        "palette of one colour": lambda: palette_image(on, [(0, 0, 0), (0, 0, 0)]),
        "alpha": lambda: Image.fromarray(np.dstack([rng.integers(0, 256, (*person.shape, 3), np.uint8), full])),
        "opaque RGBA": lambda: Image.fromarray(np.dstack([full, full, full, off + 255])),
        "grey with alpha": lambda: Image.fromarray(np.stack([full, off + 255], -1)),
        "black on white": lambda: Image.fromarray(255 - full),
        "0 and 1, inverted": lambda: Image.fromarray(1 - on),
        "black on white, RGB": lambda: Image.fromarray(np.stack([255 - full] * 3, -1)),
        "CMYK": lambda: Image.fromarray(np.stack([full] * 3, -1)).convert("CMYK"),
    }
    return encodings[encoding]() if person is not None else list(encodings)


ENCODINGS = [
    *("0 and 255", "0 and 1", "0 and 7", "100 and 128", "one bit", "16 bits", "16 bits of 0 and 1", "32 bits"),
    *("floats", "RGB grey", "green on black", "dark red on black", "label in one channel", "yellow on blue"),
    *("palette", "palette of labels", "palette of one colour", "alpha", "opaque RGBA", "grey with alpha"),
    *("black on white", "0 and 1, inverted", "black on white, RGB", "CMYK"),
]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_two_values_are_background_and_person(tmp_path, encoding):
    suffix = "png" if encoding not in ("32 bits", "floats", "CMYK") else "tif"
    encode(encoding, PERSON).save(tmp_path / f"mask.{suffix}")
    np.testing.assert_array_equal(read_mask(tmp_path / f"mask.{suffix}"), np.where(PERSON, 255, 0))


@pytest.mark.parametrize("bits", [8, 10, 12, 16, "float"])
def test_mattes_are_scaled_by_their_full_range(tmp_path, bits):
    share = SOFT.astype(np.float64) / 255
    values = share.astype(np.float32) if bits == "float" else (share * (2**bits - 1)).round().astype(np.uint16)
    if bits == 8:
        values = SOFT
    Image.fromarray(values).save(tmp_path / "mask.tif")
    np.testing.assert_allclose(np.asarray(read_mask(tmp_path / "mask.tif")).astype(int), SOFT, atol=1)


def test_mattes_of_a_colour(tmp_path):
    Image.fromarray(np.stack([0 * SOFT, SOFT, 0 * SOFT], -1)).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), SOFT)


def test_a_sound_matte_is_left_as_it_is():
    """To the bit: training on it must not change."""
    for values in (SOFT, np.minimum(SOFT, 250), np.maximum(SOFT, 3)):
        np.testing.assert_array_equal(decode_mask(Image.fromarray(values), "mask.png"), values)


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 255, 0), (200, 40, 40)])
@pytest.mark.parametrize("quality", [50, 75, 95])
def test_jpeg_noise_is_no_label(colour, quality):
    stream = io.BytesIO()
    Image.fromarray((PERSON[..., None] * np.array(colour)).astype(np.uint8)).save(stream, "JPEG", quality=quality)
    mask = np.asarray(decode_mask(Image.open(stream), "mask.jpg")) > 127
    assert (mask == PERSON).mean() > 0.995


@pytest.mark.parametrize("value", [0, 255])
def test_masks_of_one_value(value):
    np.testing.assert_array_equal(decode_mask(Image.new("L", (9, 7), value), "mask.png"), np.full((7, 9), value))


HALVES = np.where(PERSON, np.where(np.arange(128)[:, None] < 64, 1, 2), 0).astype(np.uint8)
RING = np.asarray(Image.fromarray(np.where(PERSON, 255, 0).astype(np.uint8)).filter(ImageFilter.MaxFilter(9))) > 0
AMBIGUOUS = {
    "labels": (Image.fromarray(HALVES), "mode L with the values 0, 1, 2"),
    "labels of 16 bits": (Image.fromarray(HALVES.astype(np.uint16) * 1000), "mode I;16 with the values 0, 1000, 2000"),
    "spread labels": (Image.fromarray(127 * HALVES), "mode L with the values 0, 127, 254"),
    "trimap": (Image.fromarray(np.where(PERSON, 255, 128 * RING).astype(np.uint8)), "with the values 0, 128, 255"),
    "coloured labels": (palette_image(HALVES, [(0, 0, 0), (128, 0, 0), (0, 128, 0)]), r"mode P .*\(128, 0, 0\)"),
    "per cent": (Image.fromarray((SOFT / 2.55).astype(np.uint8)), "mode L .*no value stands for an opaque subject"),
    "photograph": (Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "mode RGB"),
    "person at half of the border": (
        Image.fromarray(np.where(np.arange(153) < 100, 255, 0).astype(np.uint8)[None].repeat(128, 0)),
        "58% of its border is light",
    ),
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_ambiguous_masks_are_refused_with_mode_and_values(tmp_path, kind):
    image, reason = AMBIGUOUS[kind]
    image.save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=rf"mask\.png: mask of {reason}|mask\.png: mask of .*{reason}") as error:
        read_mask(tmp_path / "mask.png")
    assert "write 255 for the person" in str(error.value) and "\n" not in str(error.value)


def test_alpha_is_the_mask():
    colours = np.random.default_rng(0).integers(0, 256, (*PERSON.shape, 3), np.uint8)
    image = Image.fromarray(np.dstack([colours, SOFT]))
    np.testing.assert_array_equal(alpha_mask(image, "image.png"), SOFT)
    with pytest.raises(InputError, match=r"image\.png: has no mask: .* the image is opaque"):
        alpha_mask(image.convert("RGB"), "image.png")


@settings(max_examples=60, deadline=None)
@given(
    encoding=st.sampled_from(ENCODINGS),
    size=st.tuples(st.integers(40, 400), st.integers(40, 400)),
    place=st.tuples(st.floats(0.2, 0.8), st.floats(0.3, 0.7)),
    orientation=st.integers(1, 8),
)
def test_any_encoding_size_and_orientation(tmp_path_factory, encoding, size, place, orientation):
    """A mask through a file is the mask, whatever its size, the person's place, and the EXIF orientation."""
    person = ellipse(*size, *place)
    inverse = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    operations = {
        **{2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM},
        **{5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE},
        8: Image.Transpose.ROTATE_90,
    }
    image = encode(encoding, person)
    stored = image if inverse == 1 else image.transpose(operations[inverse])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path_factory.mktemp("mask") / ("mask.tif" if encoding in ("32 bits", "floats", "CMYK") else "mask.png")
    stored.save(path, exif=exif)
    np.testing.assert_array_equal(read_mask(path), np.where(person, 255, 0))
