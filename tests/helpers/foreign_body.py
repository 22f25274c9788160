"""A body that stands for SMPL where its files are absent: SMPL's tree, another mesh, another shape."""

import numpy as np
from remeshed_body import remeshed

from smpl_renderer.body_model import BodyModel


def foreign_body(body: BodyModel, *, new_vertices: int = 200, amount: float = 1.0) -> BodyModel:
    """The body with its vertices shuffled and edges split, and bulges and dents that no shape component holds.

    Args:
        amount: Factor on the change of shape: 1 moves vertices by some 10 mm, and lengthens the legs by 3 %.
    """
    other, _ = remeshed(body, new_vertices=new_vertices)
    rest = other.v_template.double().numpy()
    hip = other.rest_joints(other.v_template)[1, 1].item()
    moved = rest.copy()
    below = np.clip(hip - rest[:, 1], 0, None)
    moved[:, 1] -= 0.03 * amount * below
    waves = np.stack([np.sin(9 * rest[:, 1] + phase) for phase in (0.0, 1.3, 2.1)], -1)
    moved += 0.01 * amount * waves * np.sign(rest) * (np.abs(rest[:, :1]) < 0.25)
    arrays = {
        "v_template": moved,
        "shapedirs": other.shapedirs.numpy(),
        "posedirs": other.posedirs.numpy(),
        "weights": other.lbs_weights.numpy(),
        "J_regressor": other.J_regressor.numpy(),
        "f": other.faces.numpy(),
        "kintree_table": np.array([(-1, *other.parents[1:]), range(other.num_joints)]),
    }
    return BodyModel(arrays, "foreign")
