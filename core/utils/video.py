"""Videos as H.264 in MP4, which all browsers and players support, in BT.709 and tagged as such."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float
from torch import Tensor

from core.utils.images import to_bytes
from smpl_renderer.files import atomic_path

ENCODERS = ("libx264", "mpeg4")
"""Names of encoders in order of preference; builds of FFmpeg without GPL parts lack the first."""
BT709 = 1
"""Number of BT.709 in FFmpeg's enumerations of primaries, transfer characteristics and colour spaces."""
LIMITED_RANGE = 1
"""Number of the range 16 to 235 (240 for colour differences) among FFmpeg's colour ranges."""


def write_video(path: Path, frames: Iterable[Float[Tensor, "3 H W"]], fps: int = 24) -> int:
    """Write images of one size as a video, atomically.

    Images are consumed one at a time, so that a generator keeps the memory small. Odd sizes are padded by a white row
    or column, because the colour planes of yuv420p have half the resolution.

    Returns:
        The number of frames.
    Raises:
        ValueError: If there are no images, or their sizes differ.
    """
    count = 0
    # FFmpeg takes what stands before a colon for a protocol, but not in an absolute path.
    path = Path(path).absolute()
    with atomic_path(path) as temporary, av.open(str(temporary), "w", options={"movflags": "+faststart"}) as container:
        stream = None
        for image in frames:
            pixels = _even(to_bytes(image))
            if stream is None:
                stream = _add_stream(container, pixels.shape[1], pixels.shape[0], fps)
            height, width = pixels.shape[:2]
            if (height, width) != (stream.height, stream.width):
                raise ValueError(f"frame {count} is {width} x {height}, expected {stream.width} x {stream.height}")
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            # By default RGB would be converted to BT.601, which players do not assume.
            frame = frame.reformat(format=stream.pix_fmt, dst_colorspace="ITU709", dst_color_range="MPEG")
            container.mux(stream.encode(frame))
            count += 1
        if stream is None:
            raise ValueError(f"no frames for {path}; pass at least one image")
        container.mux(stream.encode())
    return count


def _add_stream(container, width: int, height: int, fps: int):
    encoder = next(name for name in ENCODERS if name in av.codecs_available)
    options = {"crf": "18", "preset": "medium"} if encoder == "libx264" else {"qscale": "3"}
    stream = container.add_stream(encoder, rate=Fraction(fps), options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.color_primaries = context.color_trc = context.colorspace = BT709
    context.color_range = LIMITED_RANGE
    return stream


def _even(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=255)
