"""Transfer of a network to another body: its parameters per vertex, taken along the surface.

A network has one learned vector per vertex (`graph.vertex_embedding`) and, with the vertex head, one learned offset per
query in the axes of its vertex (`head.offsets`). All other parameters do not depend on the body.
"""

import torch
from torch import Tensor

from smpl_renderer.body_model import BodyModel
from smpl_renderer.correspondence import find_correspondence

EMBEDDING, OFFSETS = "graph.vertex_embedding", "head.offsets"


def transfer_parameters(tensors: dict[str, Tensor], source: BodyModel, target: BodyModel) -> dict[str, Tensor]:
    """Parameters of a network for `target`, given those for `source`; the same if both are the same body.

    Args:
        tensors: Parameters by name; those per vertex may be missing.
    """
    if source.fingerprint == target.fingerprint or not {EMBEDDING, OFFSETS} & set(tensors):
        return tensors
    correspondence = find_correspondence(target, source)
    moved = dict(tensors)
    for name in (EMBEDDING, OFFSETS):
        if name in tensors:
            values = tensors[name].unflatten(0, (source.num_vertices, -1))
            moved[name] = correspondence.transfer(values.to(torch.float32)).to(values.dtype).flatten(0, 1)
    return moved
