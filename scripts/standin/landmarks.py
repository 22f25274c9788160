"""Landmarks (nose, eyes, fingertips, heels) at the vertex indices that they have in SMPL."""

import numpy as np
from jaxtyping import Float, Int

from scripts.standin.makehuman import MakeHuman
from scripts.standin.skeleton import JOINT

SMPL_LANDMARKS = {
    **{"nose": 332, "right_eye": 6260, "left_eye": 2800, "right_ear": 4071, "left_ear": 583},
    **{
        "right_finger1": 6191,
        "right_finger2": 5782,
        "right_finger3": 5905,
        "right_finger4": 6016,
        "right_finger5": 6133,
    },
    **{"left_finger1": 2746, "left_finger2": 2319, "left_finger3": 2445, "left_finger4": 2556, "left_finger5": 2673},
    **{"left_big_toe": 3216, "left_small_toe": 3226, "left_heel": 3387},
    **{"right_big_toe": 6617, "right_small_toe": 6624, "right_heel": 6787},
}
"""SMPL's indices of the vertices that are commonly appended to the joints."""


def landmark_positions(
    vertices: Float[np.ndarray, "V 3"],
    weights: Float[np.ndarray, "V J"],
    eyes: dict[str, Float[np.ndarray, "3"]],
    full_mean: Float[np.ndarray, "N 3"],
    human: MakeHuman,
) -> dict[str, Float[np.ndarray, "3"]]:
    """Positions of the landmarks on the mean body.

    Args:
        vertices: Vertices of the final mesh.
        weights: Its skinning weights.
        eyes: Front of each eye by side.
        full_mean: The mean person with all of MakeHuman's vertices, including the cubes of the rig.
        human: MakeHuman's data.
    """
    eye_height = eyes["left"][1]
    head = np.flatnonzero(weights[:, JOINT["head"]] > 0.9)
    face = head[np.abs(vertices[head, 1] - eye_height + 0.035) < 0.03]
    positions = {"nose": vertices[face[np.argmax(vertices[face, 2])]]}
    temples = head[np.abs(vertices[head, 1] - eye_height) < 0.05]
    low = vertices[:, 1] < vertices[:, 1].min() + 0.03
    for side, outwards in (("left", 1), ("right", -1)):
        foot = np.flatnonzero(low & (weights[:, JOINT[f"{side}_ankle"]] > 0.6))
        positions[f"{side}_eye"] = eyes[side]
        positions[f"{side}_ear"] = vertices[temples[np.argmax(outwards * vertices[temples, 0])]]
        positions[f"{side}_heel"] = vertices[foot[np.argmin(vertices[foot, 2])]]
        for finger in range(1, 6):
            positions[f"{side}_finger{finger}"] = full_mean[human.cube(f"{side[0]}-finger-{finger}-4")].mean(0)
        positions[f"{side}_big_toe"] = full_mean[human.cube(f"{side[0]}-toe-1-3")].mean(0)
        positions[f"{side}_small_toe"] = full_mean[human.cube(f"{side[0]}-toe-5-4")].mean(0)
    return positions


def landmark_order(
    vertices: Float[np.ndarray, "V 3"], positions: dict[str, Float[np.ndarray, "3"]]
) -> tuple[Int[np.ndarray, " V"], float]:
    """An order of the vertices in which landmarks have SMPL's indices, made by swaps.

    Returns:
        Old index of each vertex in the new order, and the largest distance of a landmark from its position.
    """
    order = np.arange(len(vertices))
    for name, index in SMPL_LANDMARKS.items():
        nearest = np.argmin(np.linalg.norm(vertices - positions[name], axis=1))
        position = np.flatnonzero(order == nearest)[0]
        order[[index, position]] = order[[position, index]]
    errors = [np.linalg.norm(vertices[order[index]] - positions[name]) for name, index in SMPL_LANDMARKS.items()]
    return order, float(max(errors))
