"""Videos of one camera: rotation flags, HDR to SDR, variable frame rates; frames are named by their time stamps."""

import logging
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from core.capture.hdr import hdr_curve, to_sdr
from core.capture.image_source import Candidate
from core.capture.stills import FILM_DIAGONAL, reduced_size
from core.data.images import MAX_PIXELS
from smpl_renderer.bounded_files import check_file
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".3gp", ".gif")
CONTAINERS = ("mov", "matroska", "avi", "mpeg", "mpegts", "mpegvideo", "gif")
"""FFmpeg's readers in use; others, such as playlists, open further files."""
MAX_VIDEO_BYTES = 2**38
"""Largest video; it is decoded in parts, so that only its pixels matter."""
KEY_FRAMES_ONLY = 3000
"""Number of frames from which a video's candidates are its key frames: decoding all would take minutes."""
FOCAL_KEY = "com.apple.quicktime.camera.focal_length.35mm_equivalent"


class VideoSource:
    """A video file. A frame's key is its presentation time stamp, in units of the stream's time base."""

    is_video = True

    def __init__(self, path: Path, name: str | None = None):
        self.path, self.name = path, name or path.stem
        with self._open() as container:
            stream = container.streams.video[0]
            self._rotation, width, height = _displayed(container, stream, path)
            self.width, self.height = width, height
            self.rate = float(stream.average_rate or 30)
            self._start = stream.start_time or 0
            self._time_base = stream.time_base
            duration = stream.duration * stream.time_base if stream.duration else (container.duration or 0) / 1e6
            self.num_frames = stream.frames or round(float(duration) * self.rate)
            film = container.metadata.get(FOCAL_KEY) or stream.metadata.get(FOCAL_KEY)
        try:
            self.focal = float(film) / FILM_DIAGONAL * float(np.hypot(width, height)) if film else None
        except ValueError:
            self.focal = None

    def keys(self) -> None:
        return None

    def time(self, key: int) -> float:
        """Seconds since the first frame."""
        return float((key - self._start) * self._time_base)

    def candidates(self, count: int, long_side: int) -> Iterator[Candidate]:
        size = reduced_size(self.width, self.height, long_side)
        step = self.num_frames / count / self.rate if self.num_frames > count else 0.0  # seconds
        due, found = None, 0
        for frame in self._frames(key_frames=self.num_frames > KEY_FRAMES_ONLY):
            time = self.time(frame.pts)
            if due is None or time + 1e-6 >= due:
                due = time + step if due is None else max(due + step, time + step / 2)
                found += 1
                yield Candidate(frame.pts, time, self._to_array(frame, size))
        if not found:
            raise InputError(f"{self.path}: no frame could be decoded; convert the video to H.264 in MP4")

    def read(self, keys: list[int], long_side: int) -> dict[int, np.ndarray]:
        """Frames by time stamp, sought one by one; a frame that seeking misses is found by decoding all."""
        size, images = reduced_size(self.width, self.height, long_side), {}
        with self._open() as container:
            stream = container.streams.video[0]
            for key in sorted(keys):
                try:
                    container.seek(key, stream=stream, backward=True)
                    for frame in container.decode(stream):
                        if frame.pts is None or frame.pts > key:
                            break
                        if frame.pts == key:
                            images[key] = self._to_array(frame, size)
                            break
                except av.FFmpegError:
                    break
        missing = {key for key in keys if key not in images}
        if missing:
            for frame in self._frames():
                if frame.pts in missing:
                    images[frame.pts] = self._to_array(frame, size)
                    missing.discard(frame.pts)
                if not missing:
                    break
        return images

    def nearest(self, times: list[float]) -> list[int]:
        """Keys of the frames nearest to these times."""
        with self._open() as container:
            stream = container.streams.video[0]
            keys = np.array(sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None))
        stamps = np.array([self.time(key) for key in keys])
        return [int(keys[np.abs(stamps - time).argmin()]) for time in times]

    def label(self, key: int) -> str:
        return f"{self.time(key):.2f} s"

    def fingerprint(self) -> str:
        stat = self.path.stat()
        return f"{self.path.name}:{stat.st_size}:{stat.st_mtime_ns}"

    def _open(self):
        check_file(self.path, MAX_VIDEO_BYTES, "a video")
        try:
            # FFmpeg takes what stands before a colon for a protocol, but not in an absolute path; and other formats
            # name further files or addresses to read.
            options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
            container = av.open(str(self.path.absolute()), options=options)
        except (av.FFmpegError, OSError) as error:
            raise InputError(f"{self.path}: cannot be read as a video ({error}); convert it to H.264 in MP4") from error
        if not container.streams.video:
            container.close()
            raise InputError(f"{self.path}: holds no video stream; name a video or a folder of images")
        stream = container.streams.video[0]
        if stream.width * stream.height > MAX_PIXELS:
            container.close()
            raise InputError(
                f"{self.path}: {stream.width} x {stream.height} pixels are too many (at most {MAX_PIXELS // 10**6} "
                "million are decoded); reduce the video"
            )
        stream.thread_type = "AUTO"
        return container

    def _frames(self, key_frames: bool = False) -> Iterator[av.VideoFrame]:
        with self._open() as container:
            stream = container.streams.video[0]
            if key_frames:
                stream.codec_context.skip_frame = "NONKEY"
            try:
                yield from (frame for frame in container.decode(stream) if frame.pts is not None)
            except av.FFmpegError as error:
                logger.warning("%s: decoding stopped early (%s); the frames before that are used", self.path, error)

    def _to_array(self, frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
        turned = self._rotation % 180 == 90
        width, height = size[::-1] if turned else size
        curve = hdr_curve(frame)
        # Area averages where the frame shrinks.
        shrinks = frame.width > width
        options = {"width": width, "height": height, "interpolation": "AREA" if shrinks else "BICUBIC"}
        if curve is None:
            pixels = frame.reformat(format="rgb24", **options).to_ndarray()
        else:
            pixels = to_sdr(frame.reformat(format="rgb48le", **options).to_ndarray() / 65535, curve)
        return np.ascontiguousarray(np.rot90(pixels, self._rotation // 90))


def _displayed(container, stream, path: Path) -> tuple[int, int, int]:
    """Counterclockwise rotation (multiple of 90 degrees) and the upright size with square pixels."""
    try:
        frame = next(frame for frame in container.decode(stream))
    except (StopIteration, av.FFmpegError) as error:
        raise InputError(f"{path}: no frame could be decoded; convert the video to H.264 in MP4") from error
    rotation = round(getattr(frame, "rotation", 0) / 90) * 90 % 360
    aspect = float(stream.sample_aspect_ratio or 1) or 1.0
    width, height = round(frame.width * max(aspect, 1.0)), round(frame.height / min(aspect, 1.0))
    return rotation, *((height, width) if rotation % 180 == 90 else (width, height))
