"""Conversion of images to bytes and files."""

import numpy as np
import pytest
import torch
from PIL import Image

from core.utils.images import from_bytes, save_image, to_bytes


def test_bytes_are_rounded_and_clamped():
    values = torch.tensor([-0.2, 0.0, 0.5, 127.4 / 255, 127.6 / 255, 1.0, 3.0])
    pixels = to_bytes(values.expand(3, 1, -1))
    assert pixels.shape == (1, 7, 3) and pixels.dtype == np.uint8
    assert pixels[0, :, 0].tolist() == [0, 0, 128, 127, 128, 255, 255]


def test_round_trip_through_a_png(tmp_path):
    image = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(0))
    save_image(tmp_path / "deep" / "a.png", image)
    with Image.open(tmp_path / "deep" / "a.png") as file:
        back = from_bytes(np.asarray(file))
    # Half a level of 8 bits.
    torch.testing.assert_close(back, image, rtol=0, atol=0.5 / 255 + 1e-6)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.png"]


def test_a_wrong_layout_is_refused():
    with pytest.raises(ValueError, match=r"\[3, H, W\]"):
        to_bytes(torch.zeros(5, 4, 3))
