"""First pass over the input: people are tracked in small images, and frames are chosen."""

import logging
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from core.capture.cameras import camera_moves
from core.capture.image_source import Candidate, ImageSource
from core.capture.keypoints import KeypointFolder
from core.capture.landmarks import Landmarks
from core.capture.networks import PoseReader
from core.capture.options import PrepareOptions
from core.capture.selection import Assessment, assess, select_frames
from core.capture.sources import InputFiles
from core.capture.stills import StillSource
from core.capture.tracking import Tracker
from core.capture.video import VideoSource
from smpl_renderer.errors import InputError

logger = logging.getLogger(__name__)

CANDIDATES, CANDIDATE_SIZE = 96, 640
NO_PERSON = (
    "no person was found in any image; the whole body must be in view, upright, at least a quarter of the image high, "
    "in even light"
)


@dataclass(frozen=True)
class ChosenFrame:
    """One instant of the capture."""

    id: int
    time: float | None
    label: str
    keys: tuple[int, ...]
    """The frame's key in each source."""
    guide: Landmarks | None
    """The chosen person in a small image of the first source; None where nothing is known yet."""
    guide_width: int = 1
    """Width of that image in pixels."""


@dataclass(frozen=True)
class FrameChoice:
    """Frames of a capture and what was found on the way."""

    frames: tuple[ChosenFrame, ...]
    left_out: tuple[tuple[str, str], ...]
    """Labels of frames that are not used, with the reasons."""
    num_people: int
    moving: bool
    """True if the background shifts between frames."""


def choose_frames(files: InputFiles, reader: PoseReader | None, options: PrepareOptions) -> FrameChoice:
    """Choose frames of an input.

    Args:
        reader: None with keypoints by other tools.
    Raises:
        InputError: If no image shows a person, or `options.person` is not there.
    """
    source = files.sources[0]
    if files.one_frame:
        frame = ChosenFrame(1, None, source.path.parent.name, tuple(0 for _ in files.sources), None)
        return FrameChoice((frame,), (), 1, moving=False)
    rows = _synchronised(files)
    candidates = _candidates(source, rows)
    if options.keypoints is not None:
        people, num_people = _given_people(source, candidates, options)
    else:
        people, num_people = _tracked_people(source, candidates, reader, options)
    if files.is_rig and reader is not None and not any(people):
        # The person may be hidden from the first camera; later frames with the others show who is in view.
        people = [None] * len(candidates)
        chosen = [Assessment(c.key, c.time, source.label(c.key), None) for c in candidates]
        steps = np.unique(np.linspace(0, len(chosen) - 1, min(options.frames, len(chosen))).round().astype(int))
        frames = [chosen[i] for i in steps]
        left_out: tuple = ()
    else:
        assessed = [
            assess(c.image, c.key, c.time, source.label(c.key), person) for c, person in zip(candidates, people)
        ]
        selection = select_frames(assessed, options.frames)
        if not selection.chosen:
            raise InputError(f"{files.path}: {NO_PERSON}")
        frames, left_out = selection.chosen, selection.left_out
    made = [_frame(source, a, rows, candidates[0].image.shape[1]) for a in frames]
    moving = not files.is_rig and (
        camera_moves([c.image for c in candidates], people) if len({c.image.shape for c in candidates}) == 1 else True
    )
    return FrameChoice(tuple(_unique_ids(made)), left_out, num_people, moving)


def _synchronised(files: InputFiles) -> dict[int, tuple[int, ...]] | None:
    """Keys of all sources by that of the first, in rigs of image files: matched by name, else by position."""
    if not files.is_rig or any(source.is_video for source in files.sources):
        return None
    stems = [{path.stem: key for key, path in enumerate(source.paths)} for source in files.sources]
    common = [stem for stem in stems[0] if all(stem in other for other in stems)]
    if common:
        return {stems[0][stem]: tuple(other[stem] for other in stems) for stem in common}
    counts = [len(source.paths) for source in files.sources]
    if len(set(counts)) > 1:
        logger.warning("cameras have %s images; the first %d are taken as synchronised", counts, min(counts))
    return {key: (key,) * len(counts) for key in range(min(counts))}


def num_candidates(source: ImageSource) -> int:
    """Number of images among which frames are chosen, at most."""
    keys = source.keys()
    return min(CANDIDATES, len(keys)) if keys is not None else CANDIDATES


def _candidates(source: ImageSource, rows: dict[int, tuple[int, ...]] | None) -> list[Candidate]:
    made = source.candidates(CANDIDATES, CANDIDATE_SIZE)
    found = list(tqdm(made, desc="read", unit="image", total=num_candidates(source), leave=False))
    return [c for c in found if rows is None or c.key in rows]


def _tracked_people(
    source: ImageSource, candidates: list[Candidate], reader: PoseReader, options: PrepareOptions
) -> tuple[list[Landmarks | None], int]:
    tracker = Tracker(reader)
    for candidate in tqdm(candidates, desc="find people", unit="image"):
        tracker.add(candidate.image, candidate.time)
    # A passer-by, or a poster that is found once, is not counted as a person.
    tracks = [t for t in tracker.ordered() if len(t.readings) >= max(1, 0.1 * len(candidates))] or tracker.ordered()
    if not tracks:
        return [None] * len(candidates), 0
    if options.person > len(tracks):
        raise InputError(f"--person {options.person}: {len(tracks)} people were found in {source.path}")
    track = tracks[options.person - 1]
    return [track.readings.get(position) for position in range(len(candidates))], len(tracks)


def _given_people(
    source: ImageSource, candidates: list[Candidate], options: PrepareOptions
) -> tuple[list[Landmarks | None], int]:
    folder = KeypointFolder(options.keypoints)
    people, most = [], 0
    scale = max(candidates[0].image.shape[:2]) / max(source.width, source.height)
    for position, candidate in enumerate(candidates):
        stem, place = frame_stem(source, candidate.key, position)
        found = folder.people(source.name, stem, place)
        most = max(most, len(found))
        person = found[options.person - 1] if len(found) >= options.person else None
        people.append(None if person is None else person.shifted(scale, (0, 0)))
    return people, most


def frame_stem(source: ImageSource, key: int, position: int) -> tuple[str, int]:
    """Name and position by which masks and keypoints of other tools are found."""
    if isinstance(source, StillSource):
        return source.paths[key].stem, key
    if isinstance(source, VideoSource):
        number = round(source.time(key) * source.rate)
        return f"{number:06d}", number
    return str(key), position


def _frame(
    source: ImageSource, assessment: Assessment, rows: dict[int, tuple[int, ...]] | None, width: int
) -> ChosenFrame:
    stem, number = frame_stem(source, assessment.key, 0)
    digits = "".join(character if character.isdigit() else " " for character in stem).split()
    if not source.is_video and digits and int(digits[-1]) > 0:
        number = int(digits[-1]) - 1
    keys = (assessment.key,) if rows is None else rows[assessment.key]
    return ChosenFrame(number + 1, assessment.time, assessment.label, keys, assessment.landmarks, width)


def _unique_ids(frames: list[ChosenFrame]) -> list[ChosenFrame]:
    ids = [frame.id for frame in frames]
    if len(set(ids)) == len(ids) and max(ids) < 10**7:
        return frames
    return [replace(frame, id=index) for index, frame in enumerate(frames, start=1)]


def synchronised_keys(files: InputFiles, frames: tuple[ChosenFrame, ...]) -> tuple[ChosenFrame, ...]:
    """Frames with their keys in all videos of a rig, by time."""
    if not files.is_rig or not all(isinstance(source, VideoSource) for source in files.sources):
        return frames
    times = [frame.time for frame in frames]
    columns = [[frame.keys[0] for frame in frames]] + [source.nearest(times) for source in files.sources[1:]]
    return tuple(replace(frame, keys=keys) for frame, keys in zip(frames, zip(*columns)))
