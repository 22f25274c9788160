"""Which of the people in each image is the chosen one."""

import itertools

import numpy as np

from core.capture.cameras import StoredCamera, triangulate
from core.capture.landmarks import TORSO, Landmarks
from core.capture.tracking import clothes_colors

BODY = (*TORSO, 0, 13, 14, 25, 26)
MAX_ERROR = 0.08
"""Reprojection error, relative to a person's size, up to which two images show the same person."""


def nearest_person(people: list[Landmarks], guide: Landmarks) -> int | None:
    """The person whose torso and head are where the guide's are; None if all are elsewhere."""
    if not people:
        return None
    common = [i for i in BODY if guide.visibility[i] > 0]
    if not common:
        return None
    distances = [np.linalg.norm(p.points[common] - guide.points[common], axis=1).mean() / guide.size for p in people]
    best = int(np.argmin(distances))
    return best if distances[best] < 0.25 else None


def matched_people(cameras: tuple[StoredCamera, ...], frame: list[list[Landmarks]], person: int) -> list[int | None]:
    """For calibrated cameras: the index of one and the same person in each image.

    Every pair of people in two images is triangulated; from the best pairs groups grow by adding, in each camera, the
    person that agrees best. Groups are ordered by the sum of sizes, and the `person`-th is returned.
    """
    groups: list[dict[int, int]] = []
    taken: set[tuple[int, int]] = set()
    pairs = []
    for a, b in itertools.combinations(range(len(cameras)), 2):
        for i, j in itertools.product(range(len(frame[a])), range(len(frame[b]))):
            error = _disagreement([cameras[a], cameras[b]], [frame[a][i], frame[b][j]])
            if error < MAX_ERROR:
                pairs.append((error, (a, i), (b, j)))
    for _, first, second in sorted(pairs):
        if first in taken or second in taken:
            continue
        group = dict((first, second))
        for camera in range(len(cameras)):
            if camera in group:
                continue
            errors = []
            for index, candidate in enumerate(frame[camera]):
                if (camera, index) not in taken:
                    chosen = [*group, camera]
                    people = [frame[c][i] for c, i in group.items()] + [candidate]
                    errors.append((_disagreement([cameras[c] for c in chosen], people), index))
            if errors and min(errors)[0] < MAX_ERROR:
                group[camera] = min(errors)[1]
        taken |= set(group.items())
        groups.append(group)
    singles = [(c, i) for c, people in enumerate(frame) for i in range(len(people)) if (c, i) not in taken]
    groups += [{c: i} for c, i in singles]
    groups.sort(key=lambda g: -sum(frame[c][i].size for c, i in g.items()))
    if person > len(groups):
        return [None] * len(cameras)
    return [groups[person - 1].get(camera) for camera in range(len(cameras))]


def _disagreement(cameras: list[StoredCamera], people: list[Landmarks]) -> float:
    """Median reprojection error of body landmarks relative to the people's sizes."""
    points = np.stack([p.points[list(BODY)] for p in people])
    weights = np.stack([np.where(p.visibility[list(BODY)] > 0.5, 1.0, 0.0) for p in people])
    usable = (weights > 0).sum(0) >= 2
    if usable.sum() < 4:
        return np.inf
    _, errors = triangulate(tuple(cameras), points[:, usable], weights[:, usable])
    sizes = np.array([p.size for p in people])[:, None]
    return float(np.median((errors / sizes).max(0)))


def alike_person(image: np.ndarray, people: list[Landmarks], appearance: np.ndarray | None, rank: int) -> int | None:
    """Without calibration: the person whose clothes look most alike, or the `rank`-th largest without an example."""
    if not people:
        return None
    if appearance is None:
        return rank - 1 if rank <= len(people) else None
    differences = [float(np.abs(clothes_colors(image, p) - appearance).mean()) for p in people]
    best = int(np.argmin(differences))
    return best if differences[best] < 0.25 else None
