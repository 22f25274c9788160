"""Videos as H.264 in MP4, which all browsers and players support, tagged as BT.709; VP9 for transparency."""

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float
from torch import Tensor

from core.utils.images import to_bytes, to_rgba_bytes
from smpl_renderer.errors import InputError
from smpl_renderer.files import atomic_path

ENCODERS = ("libx264", "mpeg4")
"""Names of encoders in order of preference; builds of FFmpeg without GPL parts lack the first."""
ALPHA_ENCODER, ALPHA_SUFFIX = "libvpx-vp9", ".webm"
"""The encoder of videos with alpha, which not all builds of FFmpeg have, and the suffix of their files."""
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
    return _write(path, (_even(to_bytes(image)) for image in frames), fps, _add_stream)


def write_alpha_video(
    path: Path, frames: Iterable[tuple[Float[Tensor, "3 H W"], Float[Tensor, "1 H W"]]], fps: int = 24
) -> int:
    """Write images and their alpha as a WebM with transparency, as `write_video`; browsers play it over a page.

    Args:
        frames: Images composed on white, and alpha.
    Raises:
        InputError: If FFmpeg was built without the encoder.
    """
    if ALPHA_ENCODER not in av.codecs_available:
        raise InputError(f"{path}: this build of PyAV has no {ALPHA_ENCODER}; give a folder, for PNG images with alpha")
    return _write(path, (_even(to_rgba_bytes(*frame)) for frame in frames), fps, _add_alpha_stream)


def _write(path: Path, images: Iterable[np.ndarray], fps: int, add_stream: Callable) -> int:
    """Encode arrays [H, W, 3 or 4] one by one; the number of frames."""
    count = 0
    # FFmpeg takes what stands before a colon for a protocol, but not in an absolute path.
    path = Path(path).absolute()
    options = {} if path.suffix == ALPHA_SUFFIX else {"movflags": "+faststart"}
    with atomic_path(path) as temporary, av.open(str(temporary), "w", options=options) as container:
        stream = None
        for pixels in images:
            height, width, channels = pixels.shape
            if stream is None:
                stream = add_stream(container, width, height, fps)
            if (height, width) != (stream.height, stream.width):
                raise ValueError(f"frame {count} is {width} x {height}, expected {stream.width} x {stream.height}")
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24" if channels == 3 else "rgba")
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
    return _tagged(container.add_stream(encoder, rate=Fraction(fps), options=options), width, height, "yuv420p")


def _add_alpha_stream(container, width: int, height: int, fps: int):
    options = {"crf": "18", "b": "0", "deadline": "good", "cpu-used": "4", "auto-alt-ref": "0"}
    return _tagged(container.add_stream(ALPHA_ENCODER, rate=Fraction(fps), options=options), width, height, "yuva420p")


def _tagged(stream, width: int, height: int, pixel_format: str):
    stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
    context = stream.codec_context
    context.color_primaries = context.color_trc = context.colorspace = BT709
    context.color_range = LIMITED_RANGE
    return stream


def _even(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    padded = np.pad(pixels, padding, constant_values=255)
    if pixels.shape[2] == 4:
        padded[height:, :, 3] = padded[:, width:, 3] = 0
    return padded
