"""Sharpened masks and mask files."""

import numpy as np
import pytest
from drawn_person import HEIGHT, WIDTH, draw, standing
from PIL import Image
from scipy import ndimage

from core.capture.guided_filter import _solve_symmetric, guided_filter
from core.capture.landmarks import Landmarks
from core.capture.masks import MaskFolder, near_person, person_mask, sharpen_mask
from core.capture.networks import Person
from smpl_renderer.errors import InputError


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_guided_filter_is_the_published_one():
    """Against the definition, window by window, in the interior."""
    rng = np.random.default_rng(0)
    image, p, r, eps = rng.random((15, 16, 3)), rng.random((15, 16)), 2, 1e-2
    a, b = np.zeros((15, 16, 3)), np.zeros((15, 16))
    for y in range(r, 15 - r):
        for x in range(r, 16 - r):
            window = image[y - r : y + r + 1, x - r : x + r + 1].reshape(-1, 3)
            values = p[y - r : y + r + 1, x - r : x + r + 1].ravel()
            sigma = np.cov(window.T, bias=True) + eps * np.eye(3)
            a[y, x] = np.linalg.solve(sigma, (window * values[:, None]).mean(0) - window.mean(0) * values.mean())
            b[y, x] = values.mean() - a[y, x] @ window.mean(0)
    y, x = 7, 8
    mean_a = a[y - r : y + r + 1, x - r : x + r + 1].reshape(-1, 3).mean(0)
    mean_b = b[y - r : y + r + 1, x - r : x + r + 1].mean()
    filtered = guided_filter(image, p, r, eps)
    assert filtered[y, x] == pytest.approx(mean_a @ image[y, x] + mean_b, abs=1e-4)


def test_colours_on_a_line_are_solved():
    """A window between white and a dark colour, whose cofactors cancel to a determinant of 0 in float32."""
    entries = (0.17733599, 0.18935946, 0.18629029, 0.20224731, 0.19894731, 0.19575021)
    S = {(i, j): np.full((1, 1), x, np.float32) for (i, j), x in zip(zip(*np.triu_indices(3)), entries)}
    rhs = [np.full((1, 1), x, np.float32) for x in (0.02, 0.021, 0.0207)]
    full = np.array([[S[min(i, j), max(i, j)].item() for j in range(3)] for i in range(3)])
    expected = np.linalg.solve(full, [x.item() for x in rhs])
    np.testing.assert_allclose(np.ravel(_solve_symmetric(S, rhs)), expected, rtol=1e-6)


def test_a_coarse_mask_moves_to_the_edges(body):
    frame = draw(body, 0, [standing(0.3)])
    true, landmarks = frame.people[0].mask > 0.5, frame.people[0].landmarks
    coarse = ndimage.gaussian_filter(np.roll(true, 1, 1).astype(np.float32), 2.0)
    sharp = sharpen_mask(frame.image, coarse, landmarks.size) > 127
    assert iou(coarse > 0.5, true) < 0.88
    assert iou(sharp, true) > 0.93


def test_an_empty_mask_stays_empty():
    assert not sharpen_mask(np.zeros((40, 30, 3), np.uint8), np.zeros((40, 30)), 20).any()


def test_other_people_are_left_out(body):
    frame = draw(body, 0, [standing(0.0, x=-0.15, depth=3.2), standing(0.0, x=0.45, depth=3.6)])
    target, other = frame.people
    # The network's coarse mask of one person leaks to the neighbour.
    leaking = Person(target.landmarks, np.maximum(target.mask, 0.6 * other.mask).astype(np.float32))
    alone = person_mask(frame.image, leaking, []) > 127
    mask = person_mask(frame.image, leaking, [other]) > 127
    assert (alone & (other.mask > 0.5)).sum() > 5 * (mask & (other.mask > 0.5)).sum()
    assert iou(mask, target.mask > 0.5) > 0.85


def test_pieces_without_landmarks_are_removed():
    mask = np.zeros((50, 60), np.uint8)
    mask[10:40, 10:20] = 255
    mask[10:40, 40:55] = 255
    points = np.tile([[15.0, 20.0]], (33, 1))
    kept = near_person(mask, Landmarks(points, np.ones(33)))
    assert kept[20, 15] == 255 and kept[:, 40:].max() == 0


def test_mask_files_by_name_and_by_position(tmp_path):
    for folder, names in (("cam1", ["0001_mask", "0002_mask"]), (".", ["first", "second"])):
        (tmp_path / folder).mkdir(exist_ok=True)
        for value, name in enumerate(names, start=1):
            Image.fromarray(np.full((HEIGHT, WIDTH), value % 2, np.uint8)).save(tmp_path / folder / f"{name}.png")
    masks = MaskFolder(tmp_path)
    assert masks.find("cam1", "0002", 0).name == "0002_mask.png"
    assert masks.find("cam1", "2", 0).name == "0002_mask.png"
    assert masks.find("cam7", "unknown", 1).name == "second.png"
    assert masks.find("cam7", "unknown", 5) is None
    assert masks.read(tmp_path / "first.png", WIDTH, HEIGHT).min() == 255  # 0 and 1 are labels


def test_masks_of_another_size_are_not_smoothed(tmp_path):
    values = np.zeros((HEIGHT // 2, WIDTH // 2), np.uint8)
    values[:, : WIDTH // 4] = 255
    Image.fromarray(values).save(tmp_path / "a.png")
    mask = MaskFolder(tmp_path).read(tmp_path / "a.png", WIDTH, HEIGHT)
    assert set(np.unique(mask)) == {0, 255} and mask[:, : WIDTH // 2].all() and not mask[:, WIDTH // 2 :].any()
    with pytest.raises(InputError, match="do not fit"):
        MaskFolder(tmp_path).read(tmp_path / "a.png", HEIGHT, WIDTH)


def test_grey_values_are_coverage(tmp_path):
    values = np.linspace(0, 255, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(MaskFolder(tmp_path).read(tmp_path / "a.png", WIDTH, HEIGHT), values)
