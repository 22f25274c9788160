"""Interface of a source of images: those of one camera, read in two passes (small candidates, then chosen frames)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True)
class Candidate:
    """A small image from which frames are chosen."""

    key: int
    """Identifies the frame in its source."""
    time: float | None
    """Time in seconds; None for unrelated images."""
    image: UInt8[np.ndarray, "h w 3"]


class ImageSource(Protocol):
    """Images of one camera."""

    name: str
    path: Path
    width: int
    height: int
    """Size of upright images in pixels, before any reduction."""
    focal: float | None
    """Focal length in pixels at that size; None if the files do not state it."""
    is_video: bool

    def keys(self) -> list[int] | None:
        """All keys in order, where they are known without decoding."""

    def candidates(self, count: int, long_side: int) -> Iterator[Candidate]:
        """At most about `count` small images, evenly spread."""

    def read(self, keys: list[int], long_side: int) -> dict[int, UInt8[np.ndarray, "H W 3"]]:
        """Upright images, at most `long_side` pixels on the longer side."""

    def label(self, key: int) -> str:
        """Name of a frame in messages."""

    def fingerprint(self) -> str:
        """Text that changes when the files do."""
