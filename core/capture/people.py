"""Choice of the same person among the people of all images."""

import itertools

import numpy as np
from scipy.optimize import linear_sum_assignment

from core.capture.cameras import StoredCamera, triangulate
from core.capture.landmarks import TORSO, Landmarks
from core.capture.networks import Person
from smpl_renderer.errors import InputError

BODY = (*TORSO, 0, 13, 14, 25, 26)
MAX_ERROR = 0.08
"""Reprojection error, relative to a person's size, up to which two images show the same person."""
MAX_COLOR_DIFFERENCE = 0.25
"""Mean difference of the clothes' colours (0..1) up to which two images may show the same person."""


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


def choose_in_rig(
    cameras: tuple[StoredCamera, ...], frames: list[list[list[Person]]], person: int
) -> list[list[int | None]]:
    """Index of the same person in each image of calibrated cameras, by frame and camera.

    In each frame people are grouped over the cameras by triangulation; groups are joined over the frames by the colours
    of the clothes. People are ordered by their size in all images.
    """
    groups = [people_groups(cameras, [[p.landmarks for p in cell] for cell in row]) for row in frames]
    identities: list[dict[int, dict[int, int]]] = []  # of each person: frame -> group
    colors: list[list[np.ndarray]] = []
    for f, row in enumerate(groups):
        found = [np.median([frames[f][c][i].colors for c, i in group.items()], 0) for group in row]
        costs = np.array([[np.abs(np.median(known, 0) - new).mean() for new in found] for known in colors])
        matched = set()
        for known, new in zip(*linear_sum_assignment(costs.reshape(len(colors), len(found)))):
            if costs[known, new] < MAX_COLOR_DIFFERENCE:
                identities[known][f] = row[new]
                colors[known].append(found[new])
                matched.add(int(new))
        for new in set(range(len(found))) - matched:
            identities.append({f: row[new]})
            colors.append([found[new]])

    def extent(identity: dict[int, dict[int, int]]) -> float:
        return sum(frames[f][c][i].landmarks.size for f, group in identity.items() for c, i in group.items())

    identities.sort(key=extent, reverse=True)
    if person > len(identities):
        raise InputError(f"--person {person}: {len(identities)} people were found")
    chosen = identities[person - 1]
    return [[chosen.get(f, {}).get(c) for c in range(len(cameras))] for f in range(len(frames))]


def people_groups(cameras: tuple[StoredCamera, ...], frame: list[list[Landmarks]]) -> list[dict[int, int]]:
    """People of one frame: for each a mapping from cameras to indices.

    Every pair of people in two images is triangulated; from the best pairs groups grow by adding, in each camera, the
    person that agrees best.
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
    return groups + [{c: i} for c, i in singles]


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


def choose_by_clothes(row: list[list[Person]], first: int | None, person: int) -> list[int | None]:
    """In each camera, without a calibration, the person whose clothes look most like those of the first camera's."""
    indices = [first]
    for people in row[1:]:
        if first is None or not people:
            indices.append(person - 1 if first is None and len(people) >= person else None)
            continue
        differences = [float(np.abs(p.colors - row[0][first].colors).mean()) for p in people]
        best = int(np.argmin(differences))
        indices.append(best if differences[best] < MAX_COLOR_DIFFERENCE else None)
    return indices
