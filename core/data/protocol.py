"""Evaluation protocols: presets of input and target cameras and frames, and their resolution for a given capture."""

import logging
from dataclasses import dataclass, field
from typing import Literal

from core.data.capture import Capture
from core.data.verification import FaultyImages, find_faults
from core.data.views import choose_input_views, common_frames, spread_frames, spread_views
from smpl_renderer.body_model import BodyModel
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Protocol:
    """An evaluation protocol. `resolve` adapts it to captures with other cameras or frames."""

    name: str
    input_views: tuple[str, ...] = ("22327091", "22327116", "22236236", "22327073")
    """Input cameras: front, left, back, right."""
    observed_frames: tuple[int, ...] = (55, 155, 305, 455, 505, 705, 755, 805)
    """Input frames; novel views are evaluated in them."""
    novel_frames: tuple[int, ...] = (855, 905)
    """Held-out frames; novel poses are evaluated in them."""
    target_views: int | None = None
    """Number of evaluated cameras that are not input views, spread around the subject; None: all."""
    image_size: int = 512
    crop: Literal["center", "person"] = "center"
    subjects: tuple[str, ...] = ()
    """Test subjects; empty: all that are present."""


PAPER_SUBJECTS = tuple(
    ["200102", "200114", "200125", "200134", "200137", "200151", "200535", "202148", "202209", "204157"]
)

PROTOCOLS: dict[str, Protocol] = {
    "paper": Protocol("paper", subjects=PAPER_SUBJECTS),
    "quick": Protocol("quick", target_views=3, image_size=256),
}


@dataclass(frozen=True)
class ResolvedProtocol:
    """A protocol for one capture: cameras and frames that exist."""

    protocol: Protocol
    input_views: list[str]
    target_views: list[str]
    """Disjoint from the input views."""
    observed_frames: list[int]
    novel_frames: list[int]
    notes: list[str] = field(default_factory=list)
    """Differences from the protocol, as sentences."""


def resolve(protocol: Protocol, capture: Capture, body: BodyModel | None = None) -> ResolvedProtocol:
    """Choose the cameras and frames of a capture for a protocol; differences from it are logged and noted.

    Frames: if the capture has at least half of the protocol's, each missing one is replaced by the nearest; otherwise
    as many are spread evenly over the capture, the last of them being the novel poses. Where there are fewer frames or
    cameras than wanted, all are used. Images whose masks do not fit are left out. Call `verify` first, so that moved
    cameras are not chosen.

    Args:
        protocol: Wanted cameras and frames.
        capture: The subject.
        body: Body of the fits; by default the one that the capture names.
    Raises:
        InputError: If no camera has a frame with a fit and a sound image.
    """
    if not protocol.observed_frames:
        raise InputError(f"{capture.path}: no observed frame is wanted; name at least one")
    body = capture.body() if body is None else body
    faulty: dict[tuple[int, str], str] = {}
    while True:
        try:
            plan = _resolve(protocol, capture, body, faulty)
        except FaultyImages as error:
            if error.faults.keys() <= faulty.keys():
                raise
            faulty |= error.faults
            continue
        found = find_faults(
            capture, plan.observed_frames + plan.novel_frames, plan.input_views + plan.target_views, body
        )
        if not found:
            break
        faulty |= found
    for note in plan.notes:
        logger.info("%s, protocol %s: %s", capture.path, protocol.name, note)
    return plan


def _resolve(
    protocol: Protocol, capture: Capture, body: BodyModel, faulty: dict[tuple[int, str], str]
) -> ResolvedProtocol:
    """Choose cameras and frames without the faulty images."""
    notes: list[str] = []
    wanted = protocol.input_views
    cameras, frames = common_frames(capture, sorted(capture.camera_names, key=lambda name: name not in wanted), faulty)
    if left_out := sorted(set(capture.camera_names) - set(cameras)):
        notes.append(f"cameras {', '.join(left_out)} lack too many frames and are left out")
    if faulty:
        notes.append(f"{len(faulty)} images are left out, because they cannot be used ({_listed_faults(faulty)})")
    observed, novel = _resolve_frames(protocol, frames, notes)
    input_views = choose_input_views(capture, wanted, cameras, observed[0], body, allow_fewer=True)
    if tuple(input_views) != wanted:
        notes.append(f"input views {', '.join(input_views)} (by azimuth) instead of {', '.join(wanted)}")
    others = [name for name in cameras if name not in input_views]
    count = len(others) if protocol.target_views is None else protocol.target_views
    targets = spread_views(capture, others, count, input_views[0])
    if len(targets) < count or not targets:
        notes.append(f"{len(targets)} target views, because no more cameras are there")
    return ResolvedProtocol(protocol, input_views, targets, observed, novel, notes)


def _listed_faults(faulty: dict[tuple[int, str], str]) -> str:
    listed = [f"frame {frame:04d} of {camera}" for frame, camera in sorted(faulty)]
    return ", ".join(listed[:4]) + (", ..." if len(listed) > 4 else "")


def _resolve_frames(protocol: Protocol, frames: list[int], notes: list[str]) -> tuple[list[int], list[int]]:
    """Choose observed and novel frames among the existing ones."""
    observed, novel = protocol.observed_frames, protocol.novel_frames
    wanted = observed + novel
    if len(set(wanted) & set(frames)) * 2 >= len(wanted) and len(frames) >= len(wanted):
        chosen = _nearest_frames(wanted, frames)
        replaced = [f"{c:04d} for {w:04d}" for w, c in zip(wanted, chosen) if w != c]
        if replaced:
            notes.append(f"frames replaced by their nearest neighbours: {', '.join(replaced)}")
        return chosen[: len(observed)], chosen[len(observed) :]
    chosen = spread_frames(frames, len(wanted))
    # With too few frames at least one is observed; novel poses take precedence over further observed frames.
    num_novel = min(len(novel), len(chosen) - 1)
    split = len(chosen) - num_novel
    listed = [", ".join(f"{frame:04d}" for frame in part) for part in (chosen[:split], chosen[split:])]
    notes.append(f"observed frames {listed[0]} and novel frames {listed[1] or 'none'}, spread over the capture")
    return chosen[:split], chosen[split:]


def _nearest_frames(wanted: tuple[int, ...], frames: list[int]) -> list[int]:
    """Each wanted frame itself or, if it is missing, the nearest one that is neither wanted nor taken."""
    free = sorted(set(frames) - set(wanted))
    chosen = []
    for frame in wanted:
        if frame in frames:
            chosen.append(frame)
            continue
        nearest = min(free, key=lambda other: (abs(other - frame), other))
        free.remove(nearest)
        chosen.append(nearest)
    return chosen


def select_subjects(protocol: Protocol, available: list[str]) -> list[str]:
    """Test subjects of the protocol among the available ones; all of these if the protocol names none.

    Raises:
        InputError: If none of its subjects is available.
    """
    chosen = [name for name in available if not protocol.subjects or name in protocol.subjects]
    if not chosen:
        raise InputError(
            f"none of the test subjects of the protocol `{protocol.name}` is here ({', '.join(protocol.subjects)}); "
            "name one subject's folder, or choose another protocol"
        )
    return chosen
