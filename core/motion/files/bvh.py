"""BVH files: a skeleton and its joint angles over time. Every line is checked; nothing beyond the first motion is read.

A joint's transform relative to its parent is its offset, or its position channels if it has them, followed by rotations
about its channels' axes in the order in which they stand.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from core.motion.files.track import MAX_FRAMES
from smpl_renderer.bounded_files import check_text
from smpl_renderer.errors import InputError

MAX_JOINTS = 512
MAX_BYTES = 2 * 2**30
MAX_POSES = 10_000_000
"""Frames times joints: 1 GB of poses."""
LINES_PER_BLOCK = 2048
_POSITIONS = {f"{axis}position": i for i, axis in enumerate("xyz")}
_ROTATIONS = {f"{axis}rotation": axis.upper() for axis in "xyz"}


@dataclass(frozen=True)
class Skeleton:
    """Joints of a BVH, parents before children; end sites are joints named after their parent with `_end`."""

    names: tuple[str, ...]
    parents: tuple[int, ...]
    """-1 for the root."""
    offsets: Float[np.ndarray, "J 3"]
    """Relative to the parent, in units of the file."""
    channels: tuple[tuple[str, ...], ...]
    """Lower-case names of the channels of each joint."""


@dataclass(frozen=True)
class BvhClip:
    """A BVH's skeleton in motion, in units of the file."""

    skeleton: Skeleton
    orientations: Float[np.ndarray, "T J 3 3"]
    """Rotation of each joint in the world; the identity in the zero pose."""
    positions: Float[np.ndarray, "T J 3"]
    fps: float | None
    """None if the frame time is 0."""


def read_bvh(path: Path) -> BvhClip:
    """Read a BVH file and pose its skeleton.

    Raises:
        InputError: If it is missing, broken or too large.
    """
    check_text(path, MAX_BYTES, "BVH")
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            lines = (line.strip() for line in stream)
            lines = (line for line in lines if line)
            skeleton = _read_hierarchy(lines)
            limit = min(MAX_FRAMES, MAX_POSES // len(skeleton.names))
            frame_time, values = _read_motion(lines, sum(map(len, skeleton.channels)), limit)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a BVH file") from error
    except StopIteration:
        raise InputError(f"{path}: cannot be read as BVH (it ends early); export it again") from None
    except (ValueError, IndexError) as error:
        raise InputError(f"{path}: cannot be read as BVH ({error}); export it again") from error
    orientations, positions = pose_skeleton(skeleton, values)
    return BvhClip(skeleton, orientations, positions, 1 / frame_time if frame_time > 0 else None)


def pose_skeleton(
    skeleton: Skeleton, values: Float[np.ndarray, "T K"]
) -> tuple[Float[np.ndarray, "T J 3 3"], Float[np.ndarray, "T J 3"]]:
    """Orientations and positions of the joints in the world, from the values of all channels."""
    count = len(values)
    orientations = np.empty((count, len(skeleton.names), 3, 3))
    positions = np.empty((count, len(skeleton.names), 3))
    column = 0
    for joint, (parent, channels) in enumerate(zip(skeleton.parents, skeleton.channels)):
        own = values[:, column : column + len(channels)]
        column += len(channels)
        place = np.tile(skeleton.offsets[joint], (count, 1))
        for i, name in enumerate(channels):
            if name in _POSITIONS:
                place[:, _POSITIONS[name]] = own[:, i]
        turns = [i for i, name in enumerate(channels) if name in _ROTATIONS]
        R = np.tile(np.eye(3), (count, 1, 1))
        if turns:
            order = "".join(_ROTATIONS[channels[i]] for i in turns)
            R = _euler(order, own[:, turns])
        if parent < 0:
            orientations[:, joint], positions[:, joint] = R, place
        else:
            orientations[:, joint] = orientations[:, parent] @ R
            positions[:, joint] = positions[:, parent] + np.einsum("tij,tj->ti", orientations[:, parent], place)
    return orientations, positions


def _euler(order: str, degrees: Float[np.ndarray, "T n"]) -> Float[np.ndarray, "T 3 3"]:
    """Product of rotations in the order of the channels, the first outermost; axes may repeat."""
    R = Rotation.identity(len(degrees))
    for i, axis in enumerate(order):
        R = R * Rotation.from_euler(axis, degrees[:, i : i + 1], degrees=True)
    return R.as_matrix()


def _read_hierarchy(lines: Iterator[str]) -> Skeleton:
    first = next(lines)
    if first.lstrip("\ufeff").upper() != "HIERARCHY":
        raise ValueError(f"expected HIERARCHY, found {first[:40]!r}")
    names, parents, offsets, channels = [], [], [], []
    stack: list[int] = []
    for line in lines:
        word, _, rest = line.partition(" ") if "\t" not in line else line.replace("\t", " ").partition(" ")
        key = word.upper()
        if key in ("ROOT", "JOINT", "END"):
            if len(names) >= MAX_JOINTS:
                raise ValueError(f"it has more than {MAX_JOINTS} joints")
            if not stack and names:
                raise ValueError(f"it has a second root, {rest.strip()!r}; export one character only")
            parents.append(stack[-1] if stack else -1)
            names.append(rest.strip() if key != "END" else f"{names[parents[-1]]}_end")
            offsets.append(np.zeros(3))
            channels.append(())
        elif key == "{":
            stack.append(len(names) - 1)
        elif key == "}":
            stack.pop()
        elif key == "OFFSET":
            offsets[stack[-1]] = _floats(rest, 3, "OFFSET")
        elif key == "CHANNELS":
            number, *listed = rest.lower().split()
            if len(listed) != int(number) or not set(listed) <= _POSITIONS.keys() | _ROTATIONS.keys():
                raise ValueError(f"unknown CHANNELS {rest!r} of {names[-1]}")
            channels[stack[-1]] = tuple(listed)
        elif key == "MOTION":
            if stack or not names:
                raise ValueError("MOTION comes before the hierarchy is complete")
            return Skeleton(tuple(names), tuple(parents), np.array(offsets), tuple(channels))
        else:
            raise ValueError(f"unknown line {line[:60]!r} in the hierarchy")
    raise ValueError("it has no MOTION")


def _read_motion(lines: Iterator[str], num_channels: int, limit: int) -> tuple[float, Float[np.ndarray, "T K"]]:
    count = int(_after(next(lines), "Frames"))
    frame_time = float(_after(next(lines), "Frame Time"))
    if not 0 <= count <= limit:
        raise ValueError(f"it has {count} frames, at most {limit} are read; cut it into parts")
    if not 0 <= frame_time < 10:
        raise ValueError(f"its frame time is {frame_time:g} seconds")
    blocks, missing = [], count * num_channels
    while missing > 0:
        words = " ".join(itertools.islice(lines, LINES_PER_BLOCK)).split()
        if not words:
            raise ValueError(f"it announces {count} frames of {num_channels} numbers and ends {missing} numbers early")
        blocks.append(np.array(words[:missing], np.float64))
        missing -= len(blocks[-1])
    values = np.concatenate(blocks) if blocks else np.zeros(0)
    if not np.isfinite(values).all():
        frame = int((~np.isfinite(values)).argmax()) // num_channels
        raise ValueError(f"frame {frame} holds NaN or infinity")
    return frame_time, values.reshape(count, num_channels)


def _after(line: str, key: str) -> str:
    name, separator, value = line.partition(":")
    if not separator or name.strip().lower() != key.lower():
        raise ValueError(f"expected `{key}:`, found {line[:40]!r}")
    return value.strip()


def _floats(text: str, count: int, key: str) -> np.ndarray:
    values = np.array(text.split(), np.float64)
    if len(values) != count or not np.isfinite(values).all():
        raise ValueError(f"{key} must be {count} numbers, found {text[:40]!r}")
    return values
