"""All steps of the derivation of the stand-in body."""

import logging
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from scripts.standin.correctives import fit_correctives
from scripts.standin.decimate import DecimationTask, decimate
from scripts.standin.landmarks import landmark_order, landmark_positions
from scripts.standin.makehuman import MakeHuman, sample_adults
from scripts.standin.regressors import decimated_joints, fit_shape_space, sparse_weights, surface_joints
from scripts.standin.skeleton import (
    JOINT,
    NUM_JOINTS,
    chain_rotations,
    joint_from_cubes,
    joint_transforms,
    joint_weights,
    skin,
)
from scripts.standin.surface import Surface, body_surface, symmetrised
from scripts.standin.tpose import about_axis, to_tpose

logger = logging.getLogger(__name__)

NUM_PEOPLE = 500
NUM_VERTICES = 6890
PEOPLE_SEED, POSE_SEED = 7, 0
NIPPLES = (*range(1778, 1794), *range(8450, 8466))
"""Vertices of the base mesh with many small faces."""
IMPORTANCE = {"head": 1.0, "hand.L": 1.2, "hand.R": 1.2, "foot.L": 0.8, "foot.R": 0.8}
_CAVITIES = ("eye_cavity.L", "eye_cavity.R", "mouth_cavity")


@dataclass(frozen=True)
class StandinBody:
    """SMPL's arrays, texture coordinates, and maps to mirrored and original vertices."""

    v_template: Float[np.ndarray, "V 3"]
    shapedirs: Float[np.ndarray, "V 3 S"]
    posedirs: Float[np.ndarray, "V 3 P"]
    J_regressor: Float[np.ndarray, "J V"]
    weights: Float[np.ndarray, "V J"]
    surface: Surface
    uvs: Float[np.ndarray, "T 2"]
    mirror: Int[np.ndarray, " V"]
    """Index of the mirrored vertex."""
    source: Int[np.ndarray, " V"]
    """Index of the vertex in MakeHuman's base mesh."""


@dataclass
class People:
    """P adults in the rest pose with all N vertices of MakeHuman."""

    vertices: Float[np.ndarray, "P N 3"]
    joints: Float[np.ndarray, "P J 3"]
    weights: Float[np.ndarray, "N J"]
    phenotypes: dict[str, Float[np.ndarray, " P"]]

    def replace(self, vertex: int, sources: list[int] | Int[np.ndarray, " n"]) -> None:
        """Replace positions and weights of a vertex by the mean over others."""
        self.vertices[:, vertex] = self.vertices[:, sources].mean(1)
        self.weights[vertex] = self.weights[sources].mean(0)


def build_standin(human: MakeHuman) -> StandinBody:
    """Derive the stand-in body. Equal input gives equal bodies, up to rounding."""
    people = sample_people(human, NUM_PEOPLE, np.random.default_rng(PEOPLE_SEED))
    surface = body_surface(human)
    eyes = _place_eyes(human, surface, people)
    small = decimate(surface, _decimation_task(human, surface, people, list(eyes.values())), NUM_VERTICES)
    for vertex, ring in small.stuck.items():
        frontmost = sorted(ring, key=lambda x: -people.vertices[:, x, 2].mean())[:6]
        people.replace(vertex, frontmost)

    new_index = np.full(len(human.vertices), -1)
    new_index[small.kept] = np.arange(NUM_VERTICES)
    mirror = new_index[human.mirror[small.kept]]
    bodies = people.vertices[:, small.kept]
    shape = fit_shape_space(bodies, mirror)
    weights = sparse_weights(people.weights[small.kept])
    regressor = decimated_joints(bodies, people.joints, mirror)
    errors = np.linalg.norm(regressor @ bodies - people.joints, axis=2)
    logger.info("10 components explain %.2f %% of the shapes", 100 * shape.explained)
    logger.info("joints off by %.2f mm on average, %.1f mm at most", 1e3 * errors.mean(), 1e3 * errors.max())
    posedirs = fit_correctives(shape.mean, regressor @ shape.mean, weights, np.random.default_rng(POSE_SEED))

    eye_positions = {side: shape.mean[new_index[vertex]] for side, vertex in eyes.items()}
    positions = landmark_positions(shape.mean, weights, eye_positions, people.vertices.mean(0), human)
    order, landmark_error = landmark_order(shape.mean, positions)
    logger.info("landmarks off by %.1f mm at most", 1e3 * landmark_error)
    position_of = np.argsort(order)
    return StandinBody(
        v_template=shape.mean[order],
        shapedirs=shape.components[order],
        posedirs=posedirs[order],
        J_regressor=regressor[:, order],
        weights=weights[order],
        surface=Surface(position_of[small.surface.faces], small.surface.uv_faces, small.surface.parts),
        uvs=human.uvs,
        mirror=position_of[mirror[order]],
        source=small.kept[order],
    )


def sample_people(human: MakeHuman, count: int, generator: np.random.Generator) -> People:
    """Random adults in the rest pose."""
    phenotypes = sample_adults(count, generator)
    vertices = human.people(phenotypes)
    weights = joint_weights(human)
    num_skin = 1 + int(human.groups["body"].vertices.max())
    fitted = vertices[::3]
    regressor = surface_joints(fitted[:, :num_skin], joint_from_cubes(human) @ fitted, human.mirror[:num_skin])
    joints = np.empty((count, NUM_JOINTS, 3))
    for person in tqdm(range(count), desc="rest pose", unit="person"):
        own_joints = regressor @ vertices[person, :num_skin]
        vertices[person], joints[person] = to_tpose(vertices[person], own_joints, weights, human)
    return People(vertices, joints, weights, phenotypes)


def _place_eyes(human: MakeHuman, surface: Surface, people: People) -> dict[str, int]:
    """Move one vertex of each eye's cavity to the front of the eyeball, and return these vertices by side.

    The body has no eyeballs; decimation removes the rest of each cavity.
    """
    cavity = surface.vertices_only_of("eye_cavity.L")
    left = int(cavity[np.argmin(human.vertices[cavity, 2])])
    eyes = {"left": left, "right": int(human.mirror[left])}
    for side, vertex in eyes.items():
        eyeball = np.unique(human.groups[f"helper-{side[0]}-eye"].vertices)
        people.replace(vertex, [int(eyeball[np.argmax(human.vertices[eyeball, 2])])])
    return eyes


def _decimation_task(human: MakeHuman, surface: Surface, people: People, eyes: list[int]) -> DecimationTask:
    num_skin = 1 + int(surface.faces.max())
    mean = people.vertices.mean(0)
    traits = people.phenotypes
    extremes = (
        np.argmax(traits["weight"] * traits["gender"]),
        np.argmin(traits["weight"]),
        np.argmax(traits["muscle"] * (1 - traits["gender"])),
        np.argmax(traits["age"]),
    )
    bodies = [mean, *people.vertices[list(extremes)], _bend(mean, people.joints.mean(0), people.weights)]
    importance = np.ones(num_skin)
    for part, factor in IMPORTANCE.items():
        importance[surface.vertices_of(part)] = factor
    hidden, pinned = np.zeros(num_skin, dtype=bool), np.zeros(num_skin, dtype=bool)
    hidden[surface.vertices_only_of(*_CAVITIES)] = True
    hidden[list(NIPPLES)] = True
    hidden[eyes], pinned[eyes] = False, True
    mirror = human.mirror[:num_skin]
    return DecimationTask(symmetrised(np.stack(bodies)[:, :num_skin], mirror), mirror, importance, hidden, pinned)


def _bend(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray) -> Float[np.ndarray, "N 3"]:
    """The mean body with bent limbs, so that decimation keeps vertices at joints."""
    local = np.tile(np.eye(3), (NUM_JOINTS, 1, 1))
    for side, outwards in (("left", 1.0), ("right", -1.0)):
        bends = {
            "shoulder": ("z", -1.2 * outwards),
            "elbow": ("y", -1.5 * outwards),
            "wrist": ("z", -0.6 * outwards),
            "hip": ("x", -1.2),
            "knee": ("x", 1.6),
        }
        for name, (axis, angle) in bends.items():
            local[JOINT[f"{side}_{name}"]] = about_axis(axis, angle)
    world = chain_rotations(local)
    return skin(vertices, weights, world, joint_transforms(joints, world)[1])
