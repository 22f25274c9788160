"""Keypoints made by other tools (OpenPose, COCO, DWPose and others as JSON), as landmarks."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from core.capture.landmarks import INDEX, NUM_HAND_LANDMARKS, NUM_LANDMARKS, Landmarks
from smpl_renderer.bounded_files import CONTENT_ERRORS, load_json
from smpl_renderer.errors import InputError

_COCO_NAMES = (
    *("nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow"),
    *("right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle"),
    "right ankle",
)
_BODY25_NAMES = (
    *("nose", None, "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist", None),
    *("right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle", "right eye", "left eye"),
    *("right ear", "left ear", "left foot index", None, "left heel", "right foot index", None, "right heel"),
)
_OPENPOSE18_NAMES = (
    *("nose", None, "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist"),
    *("right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle", "right eye", "left eye"),
    *("right ear", "left ear"),
)
_WHOLEBODY_FEET = ("left foot index", None, "left heel", "right foot index", None, "right heel")
LAYOUTS: dict[int, tuple[str | None, ...]] = {
    17: _COCO_NAMES,
    18: _OPENPOSE18_NAMES,
    23: _COCO_NAMES + _WHOLEBODY_FEET,
    25: _BODY25_NAMES,
    133: _COCO_NAMES + _WHOLEBODY_FEET + (None,) * 110,
    134: _OPENPOSE18_NAMES + _WHOLEBODY_FEET + (None,) * 110,
}
"""Names of keypoints by their number: COCO, OpenPose's 18 and 25, COCO-WholeBody with and without a neck."""
MAX_KEYPOINT_BYTES = 2**28
"""Largest file of keypoints: some 50,000 people with all of COCO-WholeBody's."""
_HAND_STARTS = {133: (91, 112), 134: (92, 113)}


class KeypointFolder:
    """JSON files of keypoints: one per image with the image's stem (OpenPose appends `_keypoints`), in the folder or in
    one named like the camera (also `<camera>_json`, as pose2sim has it); or one COCO file for all images."""

    def __init__(self, path: Path):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; --keypoints names JSON files of keypoints")
        self.path = path
        self._coco = _read_coco(path) if path.is_file() else None

    def people(self, camera: str, stem: str, position: int) -> list[Landmarks]:
        """People in an image, the largest first, by its name, else by its position among the sorted files."""
        if self._coco is not None:
            people = self._coco.get(stem, [])
            return sorted(people, key=lambda person: -person.size)
        for folder in (self.path / camera, self.path / f"{camera}_json", self.path):
            files = sorted(folder.glob("*.json")) if folder.is_dir() else []
            if not files:
                continue
            by_stem = {path.stem.removesuffix("_keypoints"): path for path in files}
            path = by_stem.get(stem) or (files[position] if 0 <= position < len(files) else None)
            if path is not None:
                return sorted(read_keypoints(path), key=lambda person: -person.size)
        return []


def read_keypoints(path: Path) -> list[Landmarks]:
    """People of one file: OpenPose's (`people`, `pose_keypoints_2d`), or a list of `keypoints` as other tools have it.

    Raises:
        InputError: If it cannot be read or has an unknown number of keypoints.
    """
    content = load_json(path, MAX_KEYPOINT_BYTES)
    try:
        if isinstance(content, dict) and "people" in content:
            return [_openpose(person, path) for person in content["people"] if any(person["pose_keypoints_2d"])]
        instances = content.get("instance_info") or content.get("annotations") if isinstance(content, dict) else content
        if not isinstance(instances, list):
            instances = [content]
        return [_instance(instance, path) for instance in instances]
    except InputError:
        raise
    except CONTENT_ERRORS as error:
        raise InputError(f"{path}: no keypoints of a known kind (OpenPose, COCO, DWPose: {error!r})") from error


def _read_coco(path: Path) -> dict[str, list[Landmarks]]:
    """People by the stem of their image's name, of COCO's `images` and `annotations`."""
    content = load_json(path, MAX_KEYPOINT_BYTES)
    try:
        stems = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
        people: dict[str, list[Landmarks]] = {}
        for annotation in content["annotations"]:
            people.setdefault(stems[annotation["image_id"]], []).append(_instance(annotation, path))
    except InputError:
        raise
    except CONTENT_ERRORS as error:
        raise InputError(f"{path}: not a COCO file of keypoints ({error!r}); or name a folder of files") from error
    return people


def _openpose(person: dict, path: Path) -> Landmarks:
    body = _triples(person["pose_keypoints_2d"])
    hands = [person.get(f"hand_{side}_keypoints_2d") for side in ("left", "right")]
    return from_keypoints(body, [_triples(hand) if hand else None for hand in hands] if any(hands) else None, path)


def _instance(instance: dict, path: Path) -> Landmarks:
    values = np.asarray(instance["keypoints"], float)
    scores = instance.get("keypoint_scores")
    if values.ndim == 1:
        values = _triples(values)
        if "num_keypoints" in instance or values[:, 2].max() > 1:  # COCO's 0: unlabelled, 1: hidden, 2: visible
            values[:, 2] = values[:, 2].clip(0, 2) / 2
    elif values.shape[1] == 2:
        values = np.c_[values, np.ones(len(values)) if scores is None else np.asarray(scores, float)]
    return from_keypoints(values, None, path)


def _triples(values: list | np.ndarray) -> Float[np.ndarray, "K 3"]:
    return np.asarray(values, float).reshape(-1, 3)


def from_keypoints(values: Float[np.ndarray, "K 3"], hands: list[np.ndarray | None] | None, path: Path) -> Landmarks:
    """Landmarks from keypoints (x, y, confidence) of one of `LAYOUTS`; pixel centres move to +0.5."""
    names = LAYOUTS.get(len(values))
    if names is None:
        known = ", ".join(map(str, LAYOUTS))
        raise InputError(f"{path}: {len(values)} keypoints a person; known are layouts of {known}")
    points, visibility = np.zeros((NUM_LANDMARKS, 2)), np.zeros(NUM_LANDMARKS)
    for name, (x, y, confidence) in zip(names, values):
        if name is not None and confidence > 0:
            points[INDEX[name]], visibility[INDEX[name]] = (x + 0.5, y + 0.5), min(confidence, 1.0)
    if hands is None and len(values) in _HAND_STARTS:
        hands = [values[start : start + NUM_HAND_LANDMARKS] for start in _HAND_STARTS[len(values)]]
    hand_points, hand_visibility = None, None
    if hands is not None and any(hand is not None and len(hand) == NUM_HAND_LANDMARKS for hand in hands):
        hand_points, hand_visibility = np.zeros((2, NUM_HAND_LANDMARKS, 2)), np.zeros(2)
        for side, hand in enumerate(hands):
            if hand is not None and len(hand) == NUM_HAND_LANDMARKS:
                hand_points[side], hand_visibility[side] = hand[:, :2] + 0.5, float(np.clip(hand[:, 2].mean(), 0, 1))
    return Landmarks(points, visibility, hands=hand_points, hand_visibility=hand_visibility)
