"""Choice between the two binnings of backend `triton`; both give equal lists.

`cells` (`binning_kernel.py`) costs views x splats x cells, `pairs` (`pair_binning.py`) pairs of a splat and a tile, and
ten launches more. The limits below are from measurements on an H200 (docs/benchmarks.md).
"""

import os
from typing import Literal, get_args

import torch

from core.render import binning_kernel
from core.render.capacity import capacity_estimator
from smpl_renderer.errors import InputError

Binning = Literal["cells", "pairs"]

DEFAULT_BINNING: Literal["auto", "cells", "pairs"] = "auto"
"""Binning unless `HGG_BINNING` is set; `cells` is replaced by `pairs` where it cannot work."""

MAX_LISTED = 200_000
"""Splats per view above which `auto` selects `pairs`: the lists of similar depths that `cells` traverses for each splat
grow with the number of splats, to about 100 here for a body at 2 m."""
MAX_SPLATS = 700_000
"""Splats of all views above which `auto` selects `pairs`. With fewer, its further launches take longer than its kernels
save."""
MAX_CELL_BYTES = 2**31
"""Bits of all cells above which `cells` is never used."""


def choose_binning(
    device: torch.device,
    num_views: int,
    count: int,
    width: int,
    height: int,
    tile: int,
    capacity: int | None = None,
    binning: str | None = None,
) -> Binning:
    """Binning for renderings of these sizes.

    Args:
        count: Splats per view.
        tile: Side of a tile in pixels.
        capacity: As for `capacity_estimator`.
        binning: `cells`, `pairs` or `auto`; by default `HGG_BINNING`, or `DEFAULT_BINNING`.
    Raises:
        InputError: If there is no such binning.
    """
    is_forced = binning is not None
    binning = binning or os.environ.get("HGG_BINNING") or DEFAULT_BINNING
    if binning not in ("auto", *get_args(Binning)):
        raise InputError(f"unknown binning {binning!r} (HGG_BINNING); choose auto, cells or pairs")
    if binning == "pairs" or (is_forced and binning == "cells"):
        return binning
    num_tiles = -(-width // tile) * -(-height // tile)
    side = binning_kernel.cell_side(num_views, count, num_tiles)
    if num_views * num_tiles * count // 8 > MAX_CELL_BYTES * side**2:
        return "pairs"
    if capacity is None and capacity_estimator(device, num_views, count, width, height, tile, None).is_exceeded:
        return "pairs"
    if binning == "auto" and (side > 2 or count > MAX_LISTED or num_views * count > MAX_SPLATS):
        return "pairs"
    return "cells"
