"""Bodies of the same shape with another mesh: vertices in another order, and edges split by new ones."""

import numpy as np

from smpl_renderer.body_model import BodyModel


def remeshed(body: BodyModel, *, new_vertices: int = 0, seed: int = 0) -> tuple[BodyModel, np.ndarray]:
    """The body with `new_vertices` edges split in the middle and all vertices shuffled, and their earlier indices.

    Indices beyond the number of vertices of `body` are those of new vertices.
    """
    rng = np.random.default_rng(seed)
    faces, count = body.faces.numpy(), body.num_vertices
    edges = np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1), axis=0)
    split: list[tuple[int, int]] = []
    free = np.ones(len(faces), bool)
    owners = {tuple(edge): [] for edge in edges.tolist()}
    for index, face in enumerate(faces.tolist()):
        for i, j in ((0, 1), (1, 2), (2, 0)):
            owners[tuple(sorted((face[i], face[j])))].append(index)
    result = []
    for edge in rng.permutation(edges).tolist():
        around = owners[tuple(edge)]
        if len(split) == new_vertices or not free[around].all():
            continue
        free[around] = False
        middle = count + len(split)
        split.append((edge[0], edge[1]))
        for face in faces[around].tolist():
            result += [[middle if corner == end else corner for corner in face] for end in edge]
    ends = np.array(split, int).reshape(-1, 2)
    order = rng.permutation(count + len(ends))

    def shuffled(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values, (values[ends[:, 0]] + values[ends[:, 1]]) / 2])[order]

    arrays = {
        "v_template": shuffled(body.v_template.numpy()),
        "shapedirs": shuffled(body.shapedirs.numpy()),
        "posedirs": shuffled(body.posedirs.numpy()),
        "weights": shuffled(body.lbs_weights.numpy()),
        "J_regressor": np.pad(body.J_regressor.numpy(), ((0, 0), (0, len(ends))))[:, order],
        "f": np.argsort(order)[np.concatenate([faces[free], np.array(result, int).reshape(-1, 3)])],
        "kintree_table": np.array([(-1, *body.parents[1:]), range(body.num_joints)]),
    }
    return BodyModel(arrays, "remeshed"), order
