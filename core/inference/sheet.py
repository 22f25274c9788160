"""Sheets of labelled images, such as inputs, renderings and ground truth."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from core.utils.images import from_bytes, to_bytes

GAP = 6
"""Pixels between tiles."""
LABEL_HEIGHT = 20
FONT_SIZE = 13
LABEL_COLOR = (40, 40, 40)


@dataclass(frozen=True)
class Tile:
    """An image and the label above it."""

    label: str
    image: Float[Tensor, "3 H W"]


def make_sheet(rows: list[list[Tile]], size: int = 256) -> Float[Tensor, "3 H W"]:
    """Lay out rows of tiles on white; images are resized to `size` x `size` pixels."""
    columns = max(len(row) for row in rows)
    step_x, step_y = size + GAP, size + LABEL_HEIGHT + GAP
    sheet = Image.new("RGB", (columns * step_x + GAP, len(rows) * step_y + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            x, y = GAP + j * step_x, GAP + i * step_y
            draw.text((x + 2, y + 2), _truncated(tile.label, font, size - 4), fill=LABEL_COLOR, font=font)
            sheet.paste(Image.fromarray(to_bytes(_resized(tile.image, size))), (x, y + LABEL_HEIGHT))
    return from_bytes(np.asarray(sheet))


def _resized(image: Float[Tensor, "3 H W"], size: int) -> Float[Tensor, "3 size size"]:
    if image.shape[-2:] == (size, size):
        return image
    resized = torch.nn.functional.interpolate(
        image[None].float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0]


def _truncated(label: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The beginning of a label that fits into `width` pixels."""
    while len(label) > 1 and font.getlength(label) > width:
        label = label[:-1]
    return label
