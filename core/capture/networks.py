"""MediaPipe's pose and hand networks on LiteRT: from an image to people, their landmarks and masks.

Facts of the networks (inputs, anchors, units) are those of their published graphs; see the Sources of each class.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from core.capture.landmarks import NUM_LANDMARKS, Landmarks, mirror_order
from core.capture.weights import WEIGHTS_FOLDER, model_path
from smpl_renderer.errors import InputError

RGB = UInt8[np.ndarray, "H W 3"]
Affine = Float[np.ndarray, "2 3"]


@dataclass(frozen=True)
class Person:
    """Landmarks of one person and the network's coarse mask: probabilities per pixel of the image."""

    landmarks: Landmarks
    mask: Float[np.ndarray, "H W"] | None
    colors: Float[np.ndarray, "6"] | None = None
    """Bounding box of the clothes, where they were measured."""


class PoseReader(Protocol):
    """Interface of a detector of people."""

    def people(self, image: RGB, *, most: int = 4, details: bool = True) -> list[Person]:
        """People of an RGB image, the largest first; `details` adds masks and hands."""

    def follow(self, image: RGB, previous: Landmarks, *, details: bool = False) -> Person | None:
        """The person whose landmarks in a similar image are given; None if there is none."""


def load_interpreter():
    """LiteRT's interpreter class.

    Raises:
        InputError: If the package is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise InputError(
            "landmarks and masks from images need the package ai-edge-litert (pip install ai-edge-litert); "
            "or give --keypoints and --masks made by other tools"
        ) from error
    return Interpreter


class Network:
    """One `.tflite` file as a function of one image."""

    def __init__(self, name: str, folder: Path = WEIGHTS_FOLDER, threads: int = 2):
        path = model_path(name, folder)
        if not path.is_file():
            raise InputError(f"{path}: no such file; run python scripts/get_pose_models.py")
        self._interpreter = load_interpreter()(str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        details = self._interpreter.get_input_details()[0]
        self._input = details["index"]
        self.side = int(details["shape"][1])
        """Pixels of the square input."""
        self._outputs = {d["name"]: d["index"] for d in self._interpreter.get_output_details()}

    def __call__(self, image: Float[np.ndarray, "S S 3"]) -> dict[str, np.ndarray]:
        """Outputs by name, without the batch axis."""
        self._interpreter.set_tensor(self._input, np.ascontiguousarray(image[None], np.float32))
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(index)[0] for name, index in self._outputs.items()}


@dataclass(frozen=True)
class Square:
    """A rotated square of an image, which a network sees upright."""

    center: Float[np.ndarray, "2"]
    side: float
    angle: float
    """Clockwise in the image, radians."""

    def to_image(self, pixels: int) -> Affine:
        """Map from the network's `pixels` x `pixels` input to the image."""
        scale = self.side / pixels
        cos, sin = np.cos(self.angle) * scale, np.sin(self.angle) * scale
        A = np.array([[cos, -sin], [sin, cos]])
        return np.c_[A, self.center - A @ [pixels / 2, pixels / 2]]

    def crop(self, image: RGB, pixels: int) -> Float[np.ndarray, "pixels pixels 3"]:
        """The square's content in 0..1, black outside of the image."""
        A = self.to_image(pixels)
        pillow_image = Image.fromarray(image)
        # Pixels of large squares are averaged first: one bilinear sample per output pixel would alias.
        factor = int(max(1, min(self.side / pixels, min(pillow_image.size))))
        if factor > 1:
            pillow_image = pillow_image.reduce(factor)
            A = A / factor
        cropped = pillow_image.transform((pixels, pixels), Image.AFFINE, tuple(A.ravel()), Image.BILINEAR)
        return np.asarray(cropped, np.float32) / 255


def apply_affine(A: Affine, points: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch 2"]:
    """Points mapped by a 2 x 3 matrix."""
    return points @ A[:, :2].T + A[:, 2]


def anchor_centers(grids: tuple[tuple[int, int], ...]) -> Float[np.ndarray, "A 2"]:
    """Centres (x, y in 0..1) of a single-shot detector's anchors, from (cells per side, anchors per cell)."""
    parts = []
    for cells, per_cell in grids:
        ys, xs = np.mgrid[:cells, :cells]
        centers = (np.stack([xs, ys], -1).reshape(-1, 2) + 0.5) / cells
        parts.append(np.repeat(centers, per_cell, 0))
    return np.concatenate(parts)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def suppress(
    boxes: Float[np.ndarray, "N 4"], scores: Float[np.ndarray, "N"], overlap: float = 0.3, most: int = 8
) -> list[int]:
    """Non-maximum suppression: indices of the best boxes (left, top, right, bottom) that overlap no better one."""
    left = list(np.argsort(-scores))
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), 1)
    chosen: list[int] = []
    while left and len(chosen) < most:
        best = left.pop(0)
        chosen.append(int(best))
        inner = np.minimum(boxes[best, 2:], boxes[left, 2:]) - np.maximum(boxes[best, :2], boxes[left, :2])
        shared = np.prod(np.maximum(inner, 0), 1)
        iou = shared / np.maximum(areas[best] + areas[left] - shared, 1e-9)
        left = [index for index, value in zip(left, iou) if value <= overlap]
    return chosen


def letterbox(image: RGB, pixels: int) -> tuple[Float[np.ndarray, "S S 3"], Affine]:
    """The whole image in a square, black bars around it, and the map from the square (0..1) to the image."""
    height, width = image.shape[:2]
    side = max(width, height)
    small = Image.fromarray(image).resize(
        (max(1, round(width * pixels / side)), max(1, round(height * pixels / side))), Image.BOX if side > pixels else 2
    )
    square = Image.new("RGB", (pixels, pixels))
    left, top = (pixels - small.width) // 2, (pixels - small.height) // 2
    square.paste(small, (left, top))
    to_image = np.array([[side, 0, -left * side / pixels], [0, side, -top * side / pixels]], float)
    return np.asarray(square, np.float32) / 255, to_image


class PoseDetector:
    """People of an image as squares for the landmark network.

    Input 224 px in -1..1; 2254 anchors of size 1 on grids of 28, 14 (2 a cell) and 7 (6 a cell). Keypoint 0 is the hip
    centre, keypoint 1 gives the size and rotation of the body.
    Source: MediaPipe, modules/pose_detection.
    """

    def __init__(self, folder: Path = WEIGHTS_FOLDER, threshold: float = 0.35):
        self._network = Network("pose_detection", folder)
        self._anchors = anchor_centers(((28, 2), (14, 2), (7, 6)))
        self._threshold = threshold

    def __call__(self, image: RGB, most: int = 6) -> list[tuple[Square, float]]:
        """Squares and scores, the best first."""
        found = self._detect(image, (0, 0))
        height, width = image.shape[:2]
        if not found and max(width, height) > 1.3 * min(width, height):
            # A person far away in a wide image is too small at 224 px: search overlapping squares.
            side = min(width, height)
            steps = np.linspace(0, max(width, height) - side, int(np.ceil(1.5 * max(width, height) / side)))
            for start in steps.astype(int):
                x, y = (start, 0) if width > height else (0, start)
                found += self._detect(image[y : y + side, x : x + side], (x, y))
        if not found:
            return []
        boxes, squares, scores = zip(*found)
        chosen = suppress(np.array(boxes), np.array(scores), most=most)
        return [(squares[i], scores[i]) for i in chosen]

    def _detect(self, image: RGB, corner: tuple[int, int]) -> list[tuple[np.ndarray, Square, float]]:
        square, to_image = letterbox(image, self._network.side)
        out = self._network(square * 2 - 1)
        scores = sigmoid(out["Identity_1"][:, 0])
        likely = np.nonzero(scores > self._threshold)[0]
        found = []
        for index in likely[np.argsort(-scores[likely])][:64]:
            values = out["Identity"][index].reshape(6, 2) / self._network.side
            center, points = values[0] + self._anchors[index], values[2:] + self._anchors[index]
            half = values[1] / 2
            box = np.concatenate([apply_affine(to_image, center - half), apply_affine(to_image, center + half)])
            hips, top = (apply_affine(to_image, p) + corner for p in points[:2])
            found.append((box + [*corner, *corner], body_square(hips, top), float(scores[index])))
        return found


def body_square(hips: Float[np.ndarray, "2"], top: Float[np.ndarray, "2"]) -> Square:
    """The landmark network's square from the hip centre and the point that gives size and rotation."""
    dx, dy = top - hips
    return Square(np.asarray(hips, float), 2 * 1.25 * float(np.hypot(dx, dy)), float(np.pi / 2 - np.arctan2(-dy, dx)))


class PoseLandmarker:
    """Landmarks, 3D landmarks and a mask of the person in a square.

    Input 256 px in 0..1. `Identity`: 39 x 5 (x, y, z in pixels of the square, visibility, presence as logits), of which
    33 and 34 give the next square; `Identity_3`: heat maps of 64 x 64 that sharpen x and y; `Identity_2`: mask logits;
    `Identity_4`: 39 x 3 in metres, turned by the square's angle.
    Source: MediaPipe, modules/pose_landmark.
    """

    def __init__(self, folder: Path = WEIGHTS_FOLDER, variant: str = "full"):
        self._network = Network(f"pose_landmark_{variant}", folder)

    def __call__(self, image: RGB, square: Square, passes: int = 2, details: bool = True) -> Person:
        """Read a person; later passes take their square from the landmarks of the one before.

        Args:
            details: Also return a mask, and average the results of the crop and of its mirror image.
        """
        for _ in range(passes - 1):
            square = self.locate(image, square)[1]
        crop = square.crop(image, self._network.side)
        reading = self._read(crop)
        if details:
            reading = reading.averaged(self._read(crop[:, ::-1]).mirrored(self._network.side))
        A = square.to_image(self._network.side)
        mask = unwarp_logits(reading.mask, A, image.shape[:2]) if details else None
        return Person(reading.landmarks(A, square.angle), mask)

    def locate(self, image: RGB, square: Square) -> tuple[Landmarks, Square]:
        """The landmarks in a square, and the square that follows from them."""
        A = square.to_image(self._network.side)
        reading = self._read(square.crop(image, self._network.side))
        return reading.landmarks(A, square.angle), body_square(*apply_affine(A, reading.marks[33:35, :2]))

    def _read(self, crop: Float[np.ndarray, "S S 3"]) -> "_Reading":
        out = self._network(crop)
        marks = out["Identity"].reshape(39, 5).astype(float)
        sharpen_by_heat(marks, sigmoid(out["Identity_3"]))
        world = out["Identity_4"].reshape(39, 3)[:NUM_LANDMARKS].astype(float)
        return _Reading(marks, world, out["Identity_2"][..., 0], float(np.clip(out["Identity_1"][0], 0, 1)))


@dataclass(frozen=True)
class _Reading:
    """Outputs of the landmark network in the axes of its square."""

    marks: Float[np.ndarray, "39 5"]
    world: Float[np.ndarray, "33 3"]
    mask: Float[np.ndarray, "S S"]
    score: float

    def landmarks(self, A: Affine, angle: float) -> Landmarks:
        """Landmarks in the image, for a square turned by `angle` that `A` maps to the image."""
        cos, sin = np.cos(angle), np.sin(angle)
        world = self.world.copy()
        world[:, :2] = world[:, :2] @ np.array([[cos, sin], [-sin, cos]])
        return Landmarks(
            points=apply_affine(A, self.marks[:NUM_LANDMARKS, :2]),
            visibility=sigmoid(self.marks[:NUM_LANDMARKS, 3]) * sigmoid(self.marks[:NUM_LANDMARKS, 4]),
            world=world,
            score=self.score,
        )

    def mirrored(self, side: int) -> "_Reading":
        """The reading of the mirror image: x turned round, left and right exchanged."""
        order = list(mirror_order(NUM_LANDMARKS)) + list(range(NUM_LANDMARKS, len(self.marks)))
        marks = self.marks[order]
        marks[:, 0] = side - marks[:, 0]
        return _Reading(marks, self.world[order[:NUM_LANDMARKS]] * [-1, 1, 1], self.mask[:, ::-1], self.score)

    def averaged(self, other: "_Reading") -> "_Reading":
        return _Reading(
            *((self.marks + other.marks) / 2, (self.world + other.world) / 2, (self.mask + other.mask) / 2),
            score=self.score,
        )


def unwarp_logits(logits: Float[np.ndarray, "S S"], A: Affine, shape: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """Probabilities on the image from logits on a square; 0 outside of the square."""
    inverse = np.linalg.inv(np.vstack([A, [0, 0, 1]]))[:2]
    positive = Image.fromarray((np.clip(logits, -30, 30) + 30).astype(np.float32))  # what lies outside becomes 0
    turned = positive.transform(shape[::-1], Image.AFFINE, tuple(inverse.ravel()), Image.BICUBIC)
    return sigmoid(np.asarray(turned) - 30)


def sharpen_by_heat(marks: Float[np.ndarray, "L 5"], heat: Float[np.ndarray, "64 64 L"], window: int = 3) -> None:
    """Move landmarks, in place, to the centre of mass of their heat within a window, where it is hot."""
    cells = heat.shape[0]
    stride = 256 / cells
    for index, (x, y) in enumerate((marks[:, :2] / stride).astype(int)):
        if not (0 <= x < cells and 0 <= y < cells):
            continue
        rows = slice(max(0, y - window), min(cells, y + window + 1))
        columns = slice(max(0, x - window), min(cells, x + window + 1))
        part = heat[rows, columns, index]
        if part.max() > 0.5:
            ys, xs = np.mgrid[rows, columns]
            marks[index, :2] = stride * np.array([(xs * part).sum(), (ys * part).sum()]) / part.sum()
