"""The stand-in body before a patterned wall, as images, and a stub of the pose networks that knows where it is.

Every image carries its number as a row of black and white squares in its upper left corner, which survives resizing and
compression; the stub reads it and returns the landmarks and masks that were drawn.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from core.capture.estimates import JOINTS
from core.capture.landmarks import NUM_LANDMARKS, Landmarks
from core.capture.networks import Person
from smpl_renderer.body_model import BodyModel
from smpl_renderer.fitting import FitResult
from smpl_renderer.mesh_rasterizer import rasterize_mesh
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from smpl_renderer.types import BodyParams

BITS = 8
WIDTH, HEIGHT, FOCAL = 240, 320, 300.0
CODE_SIDE = 8
"""Pixels of a square of the code."""
HEAD_AND_FEET = {0: 15, 7: 15, 8: 15, 29: 7, 30: 8, 31: 10, 32: 11}
"""Landmarks without a joint of their own, and a joint nearby."""


@dataclass
class DrawnFrame:
    """One image and the truth about it."""

    image: np.ndarray
    people: list[Person] = field(default_factory=list)
    params: list[BodyParams] = field(default_factory=list)
    """In the world of the cameras."""


def standing(azimuth: float, x: float = 0.0, depth: float = 3.4, arms: float = 0.9) -> BodyParams:
    """A person in a camera with y down, arms lowered, turned about the vertical by `azimuth`."""
    upright = axis_angle_to_matrix(torch.tensor([torch.pi, 0.0, 0.0]))  # y up to y down; faces the camera
    turn = axis_angle_to_matrix(torch.tensor([0.0, float(azimuth), 0.0]))
    pose = torch.zeros(23, 3)
    pose[15, 2], pose[16, 2] = -arms, arms  # shoulders
    return BodyParams(
        betas=torch.zeros(10),
        global_orient=matrix_to_axis_angle(turn @ upright),
        body_pose=pose.flatten(),
        transl=torch.tensor([x, 0.25, depth]),
        scale=torch.tensor(1.0),
    )


def draw(
    body: BodyModel,
    number: int,
    people: list[BodyParams],
    *,
    T_cam_world: np.ndarray | None = None,
    shift: int = 0,
    colors: tuple = ((200, 60, 60), (60, 90, 200), (60, 180, 90)),
) -> DrawnFrame:
    """Draw people, the first one's truth first.

    Args:
        number: Of the image, for the stub; below 2 ** BITS.
        T_cam_world: World to camera; by default people are given in the camera.
        shift: Pixels by which the wall is moved, as by a moving camera.
    """
    rng = np.random.default_rng(5)
    wall = rng.integers(110, 150, (HEIGHT // 16 + 1, WIDTH // 8 + 20, 3), dtype=np.uint8)
    image = np.kron(wall, np.ones((16, 16, 1), np.uint8))[:HEIGHT, 80 + shift : 80 + shift + WIDTH].copy()
    T = np.eye(4) if T_cam_world is None else T_cam_world
    K = intrinsics()
    found = []
    for params, color in zip(people, colors):
        output = body(params)
        vertices, joints = (
            points.double().numpy() @ T[:3, :3].T + T[:3, 3] for points in (output.vertices, output.joints)
        )
        pixels = vertices @ K.T
        pixels = torch.from_numpy(pixels[:, :2] / pixels[:, 2:]).float()
        faces, _ = rasterize_mesh(pixels, torch.from_numpy(vertices[:, 2]).float(), body.faces, HEIGHT, WIDTH)
        mask = (faces >= 0).numpy()
        shade = 0.8 + 0.2 * np.sin(faces.numpy() / 40.0)
        image[mask] = (np.array(color) * shade[mask][:, None]).astype(np.uint8)
        for other in found:
            other.mask[mask] = 0
        found.append(Person(_landmarks(joints, K), mask.astype(np.float32)))
    for bit in range(BITS):
        value = 255 if number >> bit & 1 else 0
        image[:CODE_SIDE, bit * CODE_SIDE : (bit + 1) * CODE_SIDE] = value
    return DrawnFrame(image, found, list(people))


def intrinsics() -> np.ndarray:
    return np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])


def _landmarks(joints: np.ndarray, K: np.ndarray) -> Landmarks:
    points, world, visibility = np.zeros((NUM_LANDMARKS, 2)), np.zeros((NUM_LANDMARKS, 3)), np.zeros(NUM_LANDMARKS)
    for mark, joint in (JOINTS | HEAD_AND_FEET).items():
        projected = K @ joints[joint]
        points[mark], world[mark], visibility[mark] = projected[:2] / projected[2], joints[joint], 0.95
    return Landmarks(points, visibility, world=world - world[[23, 24]].mean(0))


class StubReader:
    """`PoseReader` for drawn images of any size."""

    def __init__(self, frames: list[DrawnFrame]):
        self.frames = frames

    def people(self, image, *, most=4, details=True):
        frame = self.frames[self._number(image)]
        scale = image.shape[1] / WIDTH
        people = [self._person(person, scale, image.shape, details) for person in frame.people]
        return sorted(people, key=lambda person: -person.landmarks.size)[:most]

    def follow(self, image, previous, *, details=False):
        return None

    @staticmethod
    def _number(image) -> int:
        step = CODE_SIDE * image.shape[1] / WIDTH
        centers = ((np.arange(BITS) + 0.5) * step).astype(int)
        bits = image[int(step / 2), centers].mean(-1) > 127
        return int((bits * 2 ** np.arange(BITS)).sum())

    @staticmethod
    def _person(person, scale, shape, details):
        if not details:
            return Person(person.landmarks.shifted(scale, (0, 0)), None)
        ys = (np.arange(shape[0]) / scale).astype(int).clip(0, HEIGHT - 1)
        xs = (np.arange(shape[1]) / scale).astype(int).clip(0, WIDTH - 1)
        return Person(person.landmarks.shifted(scale, (0, 0)), person.mask[ys][:, xs].copy())


class TrueFit:
    """A stand-in for `fit_bodies` that returns the drawn bodies, found by their landmarks."""

    def __init__(self, frames: list[DrawnFrame]):
        self.frames = frames
        self.calls: list = []

    def __call__(self, observations, body, options, on_step=None, initial=None) -> FitResult:
        self.calls.append((observations, options, initial))
        found = []
        for points, visibility in zip(observations.landmarks.numpy(), observations.visibility.numpy()):
            camera = int(visibility.sum(1).argmax())
            wanted = points[camera] * WIDTH / float(observations.image_sizes[camera, 0])
            errors = [
                (np.abs(person.landmarks.points - wanted)[visibility[camera] > 0].mean(), params)
                for frame in self.frames
                for person, params in zip(frame.people, frame.params)
            ]
            found.append(min(errors, key=lambda entry: entry[0])[1])
        params = BodyParams.stack(found)
        up = torch.tensor([0.0, -1.0, 0.0]) if observations.up is None else observations.up
        return FitResult(params, up.expand(len(found), 3), torch.zeros(len(found)), (), ())
