"""Keypoints by other tools, in each layout."""

import json

import numpy as np
import pytest

from core.capture.keypoints import LAYOUTS, KeypointFolder, read_keypoints
from core.capture.landmarks import INDEX
from smpl_renderer.errors import InputError

# Where some parts are in each layout: the pages of OpenPose (BODY_25), COCO and COCO-WholeBody.
PLACES = {
    17: {"nose": 0, "left wrist": 9, "right ankle": 16},
    18: {"nose": 0, "left wrist": 7, "right ankle": 10},
    25: {"nose": 0, "left wrist": 7, "right ankle": 11, "left heel": 21, "right foot index": 22},
    133: {"nose": 0, "left wrist": 9, "right ankle": 16, "left foot index": 17, "right heel": 22},
    134: {"nose": 0, "left wrist": 7, "right ankle": 10, "left foot index": 18},
}


@pytest.mark.parametrize("count", PLACES)
def test_openpose_files(tmp_path, count):
    rng = np.random.default_rng(count)
    values = np.c_[rng.uniform(10, 90, (count, 2)), rng.uniform(0.2, 1, count)]
    values[3, 2] = 0
    person = {"pose_keypoints_2d": values.ravel().tolist(), "hand_left_keypoints_2d": [], "hand_right_keypoints_2d": []}
    path = tmp_path / "frame_000000_keypoints.json"
    path.write_text(json.dumps({"people": [person]}))
    (landmarks,) = read_keypoints(path)
    for name, index in PLACES[count].items():
        np.testing.assert_allclose(landmarks.points[INDEX[name]], values[index, :2] + 0.5)
        assert landmarks.visibility[INDEX[name]] == pytest.approx(values[index, 2])
    missing = LAYOUTS[count][3]
    assert missing is None or landmarks.visibility[INDEX[missing]] == 0
    assert landmarks.visibility[INDEX["left thumb"]] == 0
    assert (landmarks.hands is not None) == (count in (133, 134))


def test_openpose_hands(tmp_path):
    hand = np.c_[np.arange(42.0).reshape(21, 2), np.full(21, 0.8)]
    person = {"pose_keypoints_2d": [1.0] * 75, "hand_right_keypoints_2d": hand.ravel().tolist()}
    (tmp_path / "a.json").write_text(json.dumps({"people": [person]}))
    (landmarks,) = read_keypoints(tmp_path / "a.json")
    np.testing.assert_allclose(landmarks.hands[1], hand[:, :2] + 0.5)
    assert landmarks.hand_visibility.tolist() == pytest.approx([0, 0.8])


def test_coco_file(tmp_path):
    small, large = [20.0, 30, 2] * 16 + [25, 40, 2], [20.0, 30, 1] * 16 + [80, 99, 2]
    content = {"images": [{"id": 7, "file_name": "photos/me_1.jpg"}]}
    content["annotations"] = [{"image_id": 7, "num_keypoints": 17, "keypoints": x} for x in (small, large)]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    people = KeypointFolder(tmp_path / "coco.json").people("camera", "me_1", 0)
    assert people[0].size > people[1].size
    assert people[0].visibility[0] == 0.5 and people[0].visibility[INDEX["right ankle"]] == 1
    assert KeypointFolder(tmp_path / "coco.json").people("camera", "other", 0) == []


def test_instances_with_scores_by_position(tmp_path):
    for index in range(2):
        instance = {"keypoints": np.full((17, 2), 10.0 * index).tolist(), "keypoint_scores": [0.7] * 17}
        (tmp_path / f"x{index}.json").write_text(json.dumps({"instance_info": [instance]}))
    (landmarks,) = KeypointFolder(tmp_path).people("camera", "000123", 1)
    assert landmarks.points[0].tolist() == [10.5, 10.5] and landmarks.visibility[0] == 0.7


@pytest.mark.parametrize("content", ["{", '{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}', '[{"points": []}]'])
def test_unknown_files_are_named(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"a\.json"):
        read_keypoints(tmp_path / "a.json")
