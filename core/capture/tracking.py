"""People over the images of one camera: assigned to tracks, by position, size and colours of their clothes."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from core.capture.landmarks import Landmarks
from core.capture.networks import RGB, Person, PoseReader

MAX_GAP = 0.7
"""Seconds after which a person's last position no longer limits where they may be."""
MAX_COST = 1.6


@dataclass
class Track:
    """One person's landmarks, by the position of the image in the sequence."""

    readings: dict[int, Landmarks] = field(default_factory=dict)
    appearances: list[np.ndarray] = field(default_factory=list)
    last_time: float | None = None

    @property
    def last(self) -> Landmarks:
        return self.readings[max(self.readings)]

    @property
    def appearance(self) -> np.ndarray:
        return np.median(self.appearances[-20:], 0)

    @property
    def extent(self) -> float:
        """Sum of the sizes in all images: people are numbered by it."""
        return sum(landmarks.size for landmarks in self.readings.values())

    def add(self, position: int, landmarks: Landmarks, colors: np.ndarray, time: float | None) -> None:
        self.readings[position] = landmarks
        self.appearances.append(colors)
        self.last_time = time


class Tracker:
    """Assign people to tracks, image by image."""

    def __init__(self, reader: PoseReader):
        self._reader = reader
        self.tracks: list[Track] = []
        self._position = -1

    def add(self, image: RGB, time: float | None) -> list[Person]:
        """Read an image and assign its people. Without a time images are unrelated: positions do not matter."""
        self._position += 1
        people = self._reader.people(image, details=False)
        colors = [clothes_colors(image, person.landmarks) for person in people]
        costs = np.array(
            [[self._cost(t, p.landmarks, c, time) for p, c in zip(people, colors)] for t in self.tracks]
        ).reshape(len(self.tracks), len(people))
        matched: set[int] = set()
        for track, person in zip(*linear_sum_assignment(costs)):
            if costs[track, person] < MAX_COST:
                self.tracks[track].add(self._position, people[person].landmarks, colors[person], time)
                matched.add(int(person))
        people += self._follow(image, time, people)
        for index in range(len(colors)):
            if index not in matched:
                self.tracks.append(Track())
                self.tracks[-1].add(self._position, people[index].landmarks, colors[index], time)
        return people

    def ordered(self) -> list[Track]:
        """Tracks by descending extent: person 1 is the largest that is seen most."""
        return sorted(self.tracks, key=lambda track: -track.extent)

    def _follow(self, image: RGB, time: float | None, people: list[Person]) -> list[Person]:
        """People whom the detector missed but who were in the image before."""
        found = []
        for track in self.tracks:
            recent = track.last_time is not None and time is not None and time - track.last_time <= MAX_GAP
            if not recent or self._position in track.readings or len(track.readings) < 2:
                continue
            person = self._reader.follow(image, track.last)
            if person is None or any(_overlap(person.landmarks, other.landmarks) for other in people):
                continue
            colors = clothes_colors(image, person.landmarks)
            if self._cost(track, person.landmarks, colors, time) < MAX_COST:
                track.add(self._position, person.landmarks, colors, time)
                found.append(person)
        return found

    @staticmethod
    def _cost(track: Track, landmarks: Landmarks, colors: np.ndarray, time: float | None) -> float:
        cost = 4.0 * float(np.abs(colors - track.appearance).mean())
        if time is None or track.last_time is None:
            return cost
        last = track.last
        size = max(last.size, landmarks.size)
        distance = float(np.linalg.norm(last.hip_center - landmarks.hip_center)) / size
        patience = max(1.0, (time - track.last_time) / MAX_GAP)
        return cost + 2.0 * distance / patience + abs(np.log(last.size / landmarks.size)) / patience


def _overlap(a: Landmarks, b: Landmarks) -> bool:
    return bool(np.linalg.norm(a.hip_center - b.hip_center) < 0.1 * max(a.size, b.size))


def clothes_colors(image: RGB, landmarks: Landmarks) -> Float[np.ndarray, "6"]:
    """Median colours of the torso and the thighs, 0..1."""
    height, width = image.shape[:2]
    parts = []
    for corners in ((11, 12, 24, 23), (23, 24, 26, 25)):
        a, b, c, d = landmarks.points[list(corners)]
        s, t = np.meshgrid(np.linspace(0.25, 0.75, 5), np.linspace(0.15, 0.85, 7))
        s, t = s.reshape(-1, 1), t.reshape(-1, 1)
        points = (1 - t) * ((1 - s) * a + s * b) + t * ((1 - s) * d + s * c)
        x = points[:, 0].astype(int).clip(0, width - 1)
        y = points[:, 1].astype(int).clip(0, height - 1)
        parts.append(np.median(image[y, x], 0) / 255)
    return np.concatenate(parts)
