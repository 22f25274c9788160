"""Landmarks of the hands: searched for around the wrists that the body's landmarks give."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from core.capture.landmarks import NUM_HAND_LANDMARKS, Landmarks
from core.capture.networks import RGB, Network, Square, anchor_centers, apply_affine, sigmoid
from core.capture.weights import WEIGHTS_FOLDER

WRISTS, INDEX_FINGERS, PINKIES = (15, 16), (19, 20), (17, 18)


class HandReader:
    """Palm detector (192 px, 0..1, 2016 anchors) and hand landmark network (224 px, 0..1, 21 x 3).

    Source: MediaPipe, modules/palm_detection, modules/hand_landmark, modules/holistic_landmark.
    """

    def __init__(self, folder: Path = WEIGHTS_FOLDER, threshold: float = 0.5):
        self._palms = Network("palm_detection_full", folder)
        self._landmarks = Network("hand_landmark_full", folder)
        self._anchors = anchor_centers(((24, 2), (12, 6)))
        self._threshold = threshold

    def add_hands(self, image: RGB, landmarks: Landmarks) -> Landmarks:
        """The same person with hands; a hand that is not found has visibility 0."""
        points, world = np.zeros((2, NUM_HAND_LANDMARKS, 2)), np.zeros((2, NUM_HAND_LANDMARKS, 3))
        visibility = np.zeros(2)
        for side in range(2):
            wrist = WRISTS[side]
            if landmarks.visibility[wrist] < 0.3:
                continue
            found = self._read(image, landmarks, side)
            if found is not None:
                points[side], world[side], visibility[side] = found
        return replace(landmarks, hands=points, hand_visibility=visibility, hands_world=world)

    def _read(self, image: RGB, landmarks: Landmarks, side: int) -> tuple[np.ndarray, np.ndarray, float] | None:
        square = self._palm_square(image, wrist_square(landmarks, side)) or wrist_square(landmarks, side)
        if square.side < 12:
            return None  # a dozen pixels hold no fingers
        best = None
        for _ in range(2):  # the second square comes from the landmarks of the first
            pixels = self._landmarks.side
            out = self._landmarks(square.crop(image, pixels))
            score, right = float(out["Identity_1"][0]), float(out["Identity_2"][0])
            # The network is trained on mirrored images: its "right" is the person's left hand in an unmirrored one.
            is_left = right < 0.5
            if score < self._threshold:
                break
            marks = out["Identity"].reshape(NUM_HAND_LANDMARKS, 3)
            cos, sin = np.cos(square.angle), np.sin(square.angle)
            world = out["Identity_3"].reshape(NUM_HAND_LANDMARKS, 3).astype(float)
            world[:, :2] = world[:, :2] @ np.array([[cos, sin], [-sin, cos]])
            points = apply_affine(square.to_image(pixels), marks[:, :2].astype(float))
            agreement = 1.0 if is_left == (side == 0) else 0.5
            best = points, world, score * agreement
            square = _square_of_landmarks(points)
        if best is None:
            return None
        # The hand of the other arm, or of another person, is not this wrist's.
        if np.linalg.norm(best[0][0] - landmarks.points[WRISTS[side]]) > 0.12 * landmarks.size:
            return None
        return best

    def _palm_square(self, image: RGB, search: Square) -> Square | None:
        """The hand's square from the palm that is found in `search`."""
        pixels = self._palms.side
        out = self._palms(search.crop(image, pixels))
        scores = sigmoid(out["Identity_1"][:, 0])
        best = int(scores.argmax())
        if scores[best] < 0.4:
            return None
        values = out["Identity"][best].reshape(9, 2) / pixels
        A = search.to_image(pixels)
        center, keypoints = (apply_affine(A, (v + self._anchors[best]) * pixels) for v in (values[0], values[2:]))
        size = float(values[1].max()) * search.side
        up = keypoints[2] - keypoints[0]  # from the wrist to the middle finger's knuckle
        angle = float(np.arctan2(up[0], -up[1]))
        direction = np.array([np.sin(angle), -np.cos(angle)])
        return Square(center + 0.5 * size * direction, 2.6 * size, angle)


def wrist_square(landmarks: Landmarks, side: int) -> Square:
    """A square about the hand, by the body's wrist, index finger and little finger."""
    wrist, index, pinky = (landmarks.points[i[side]] for i in (WRISTS, INDEX_FINGERS, PINKIES))
    middle = (2 * index + pinky) / 3
    reach = max(float(np.linalg.norm(middle - wrist)), 0.03 * landmarks.size)
    up = middle - wrist
    return Square(middle, 2.0 * 2.7 * reach, float(np.arctan2(up[0], -up[1])))


def _square_of_landmarks(points: np.ndarray) -> Square:
    knuckles = points[[5, 9, 13]].mean(0)
    up = knuckles - points[0]
    angle = float(np.arctan2(up[0], -up[1]))
    cos, sin = np.cos(angle), np.sin(angle)
    turned = points @ np.array([[cos, -sin], [sin, cos]])  # coordinates along the square's axes
    low, high = turned.min(0), turned.max(0)
    side = float((high - low).max()) * 2.0
    middle = (low + high) / 2 - [0, 0.1 * (high - low)[1]]
    return Square(np.array([[cos, -sin], [sin, cos]]) @ middle, side, angle)
