"""Body and hand networks of MediaPipe as one reader of images."""

from pathlib import Path

import numpy as np

from core.capture.hands import HandReader
from core.capture.landmarks import Landmarks
from core.capture.networks import RGB, Person, PoseDetector, PoseLandmarker, Square
from core.capture.weights import WEIGHTS_FOLDER, missing_models
from smpl_renderer.errors import InputError


def same_person(a: Landmarks, b: Landmarks) -> bool:
    """True if two readings are of one person: their torsos and heads nearly coincide."""
    common = [0, 11, 12, 23, 24]
    distance = np.linalg.norm(a.points[common] - b.points[common], axis=1).mean()
    return bool(distance < 0.12 * min(a.size, b.size))


class MediaPipeReader:
    """`PoseReader` on MediaPipe's networks."""

    def __init__(self, folder: Path = WEIGHTS_FOLDER, variant: str = "full", hands: bool = True):
        if missing := missing_models(folder):
            raise InputError(f"{folder}: lacks {', '.join(missing)}; run python scripts/get_pose_models.py")
        self._detector = PoseDetector(folder)
        self._landmarker = PoseLandmarker(folder, variant)
        self._hands = HandReader(folder) if hands else None

    def people(self, image: RGB, *, most: int = 4, details: bool = True) -> list[Person]:
        people: list[Person] = []
        for square, score in self._detector(image):
            person = self._landmarker(image, square, passes=2, details=details)
            confident = person.landmarks.score >= 0.4 or score >= 0.6
            if confident and not any(same_person(person.landmarks, other.landmarks) for other in people):
                people.append(person)
        people = sorted(people, key=lambda p: -p.landmarks.size)[:most]
        if details and self._hands is not None:
            people = [Person(self._hands.add_hands(image, p.landmarks), p.mask) for p in people]
        return people

    def follow(self, image: RGB, previous: Landmarks, *, details: bool = False) -> Person | None:
        hips = previous.hip_center
        reach = np.linalg.norm(previous.points[previous.visibility > 0] - hips, axis=1).max()
        square = Square(hips, 2 * 1.25 * float(reach), 0.0)
        person = self._landmarker(image, square, passes=2, details=details)
        if person.landmarks.score < 0.6:
            return None
        if details and self._hands is not None:
            person = Person(self._hands.add_hands(image, person.landmarks), person.mask)
        return person
