"""Body and hand networks of MediaPipe as one reader of images."""

from pathlib import Path

import numpy as np
from scipy import ndimage

from core.capture.exposure import brightened
from core.capture.hands import HandReader
from core.capture.landmarks import Landmarks
from core.capture.networks import RGB, Person, PoseDetector, PoseLandmarker, Square
from core.capture.weights import WEIGHTS_FOLDER, missing_models
from smpl_renderer.errors import InputError

GROWTH = 1.1
"""Size of a body in a larger square, relative to that in the first, from which on the first square cut the body."""


def same_person(a: Landmarks, b: Landmarks) -> bool:
    """True if two readings are of one person: their torsos and heads nearly coincide."""
    common = [0, 11, 12, 23, 24]
    distance = np.linalg.norm(a.points[common] - b.points[common], axis=1).mean()
    return bool(distance < 0.12 * min(a.size, b.size))


class MediaPipeReader:
    """`PoseReader` on MediaPipe's networks.

    Without details the `full` network reads, a third as expensive as `heavy`: it is the one that tracks people.
    """

    def __init__(self, folder: Path = WEIGHTS_FOLDER, variant: str = "full", hands: bool = True):
        if missing := missing_models(folder):
            raise InputError(f"{folder}: lacks {', '.join(missing)}; run python scripts/get_pose_models.py")
        self._detector = PoseDetector(folder)
        self._landmarker = PoseLandmarker(folder, variant)
        self._tracker = self._landmarker if variant == "full" else PoseLandmarker(folder, "full")
        self._hands = HandReader(folder) if hands else None

    def people(self, image: RGB, *, most: int = 4, details: bool = True) -> list[Person]:
        people: list[Person] = []
        image = brightened(image)
        self._add_people(image, image, people, details)
        if details and people:
            # The detector suppresses people near a better one: those found are painted over for a second search.
            covered = _covered(people)
            painted = image.copy()
            painted[covered] = image[::8, ::8].reshape(-1, 3).mean(0).astype(np.uint8)
            self._add_people(image, painted, people, details, covered)
        people = sorted(people, key=lambda p: -p.landmarks.size)[:most]
        if details and self._hands is not None:
            people = [Person(self._hands.add_hands(image, p.landmarks), p.mask) for p in people]
        return people

    def _add_people(
        self, image: RGB, searched: RGB, people: list[Person], details: bool, covered: np.ndarray | None = None
    ) -> None:
        landmarker = self._landmarker if details else self._tracker
        for square, score in self._detector(searched):
            rough, closer = landmarker.locate(searched, square)
            if covered is None:
                closer = _whole_body(landmarker, searched, square, rough, closer)
            person = landmarker(searched, closer, passes=1, details=details)
            confident = person.landmarks.score >= 0.4 or score >= 0.6
            if covered is not None:  # a painted silhouette must not be taken for another person
                known = _inside(person.landmarks, covered)
                confident = person.landmarks.score >= 0.7 and score >= 0.5 and known < 0.4
            if confident and not any(same_person(person.landmarks, other.landmarks) for other in people):
                people.append(person)

    def follow(self, image: RGB, previous: Landmarks, *, details: bool = False) -> Person | None:
        image = brightened(image)
        hips = previous.hip_center
        reach = np.linalg.norm(previous.points[previous.visibility > 0] - hips, axis=1).max()
        square = Square(hips, 2 * 1.25 * float(reach), 0.0)
        landmarker = self._landmarker if details else self._tracker
        person = landmarker(image, square, passes=2, details=details)
        if person.landmarks.score < 0.6:
            return None
        if details and self._hands is not None:
            person = Person(self._hands.add_hands(image, person.landmarks), person.mask)
        return person


def _whole_body(landmarker: PoseLandmarker, image: RGB, square: Square, found: Landmarks, closer: Square) -> Square:
    """Square about the body: `closer`, or that of a larger body around the same part.

    In a square that cuts the body, or is turned upside down, the network takes a part for the whole. Wide clothes
    and unusual poses bring the detector to such squares. Larger, upright ones show whether it did.

    Args:
        square: The detector's square.
        found, closer: Landmarks in it, and the square that follows from them.
    """
    for _ in range(3):
        small = found.size < 0.2 * max(image.shape[:2])
        for factor in (1.6, 4.0, 10.0) if small else (1.6,):
            larger = Square(square.center, factor * square.side, 0.0)
            other, other_closer = landmarker.locate(image, larger)
            if other.size < found.size:
                continue
            other, _ = landmarker.locate(image, other_closer)
            if other.score >= 0.9 and other.size > GROWTH * found.size and _share_in_box(found, other) > 0.9:
                break
        else:
            return closer
        square, found, closer = larger, other, other_closer
    return closer


def _share_in_box(landmarks: Landmarks, other: Landmarks) -> float:
    """Share of the landmarks that are seen within another's box, widened by a tenth."""
    left, top, right, bottom = other.box
    margin = 0.1 * other.size
    points = landmarks.points[landmarks.seen] if landmarks.seen.any() else landmarks.points
    within = (points > [left - margin, top - margin]) & (points < [right + margin, bottom + margin])
    return float(within.all(1).mean())


def _covered(people: list[Person]) -> np.ndarray:
    """Pixels of people, with a margin."""
    covered = np.any([person.mask > 0.3 for person in people], 0)
    return ndimage.binary_dilation(covered, iterations=max(2, round(0.01 * max(covered.shape))))


def _inside(landmarks: Landmarks, covered: np.ndarray) -> float:
    """Share of the landmarks that lie in a region."""
    height, width = covered.shape
    x = landmarks.points[:, 0].astype(int).clip(0, width - 1)
    y = landmarks.points[:, 1].astype(int).clip(0, height - 1)
    return float(covered[y, x].mean())
