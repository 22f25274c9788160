"""A trained network on another body than that of its training.

To make avatars (`BodyBridge`), the network keeps the mesh that it was trained with, in the shape and the poses of the
other body, and its Gaussians are attached to vertices of the other body at the end. To be trained further on the other
body (`transfer_parameters`), its parameters per vertex are taken along the surface: one learned vector per vertex
(`graph.vertex_embedding`) and, with the vertex head, one learned offset per query in the axes of its vertex
(`head.offsets`). No other parameter depends on the body.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from core.avatar.avatar import Avatar
from smpl_renderer.body_model import BodyModel
from smpl_renderer.correspondence import Correspondence, find_correspondence

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


class BodyBridge(nn.Module):
    """Another body for a network: `proxy`, a body with the mesh of `source` on the surface of `target`.

    Both take the same parameters and have the same joints. The mesh keeps the density of vertices and the
    neighbourhoods that the network was trained with.
    """

    nearest: Tensor

    def __init__(self, source: BodyModel, target: BodyModel):
        super().__init__()
        correspondence = find_correspondence(source, target)
        self.proxy = _proxy_body(source, target, correspondence)
        self.target = target
        largest = correspondence.weights.argmax(1, keepdim=True)
        self.register_buffer("nearest", correspondence.corners.gather(1, largest)[:, 0], persistent=False)

    def forward(self, avatar: Avatar) -> Avatar:
        """An avatar of the proxy as one of the target: the same Gaussians, each at the nearest vertex."""
        vertex_ids = self.nearest[avatar.vertex_ids]
        shaped, others = (body.shape_vertices(avatar.betas) for body in (self.proxy, self.target))
        moves = _gather(shaped, avatar.vertex_ids) - _gather(others, vertex_ids)
        return replace(avatar, vertex_ids=vertex_ids, offsets=avatar.offsets + moves, body=self.target.fingerprint)


def _gather(values: Tensor, vertex_ids: Tensor) -> Tensor:
    return values.gather(-2, vertex_ids[..., None].expand(*vertex_ids.shape, 3))


def _proxy_body(source: BodyModel, target: BodyModel, correspondence: Correspondence) -> BodyModel:
    """A body with the mesh of `source` on the surface of `target`, whose joints are exactly those of `target`."""
    on_cpu = {name: getattr(target, name).cpu() for name in ("v_template", "shapedirs", "posedirs", "lbs_weights")}
    values = {name: correspondence.transfer(value) for name, value in on_cpu.items()}
    weights = values["lbs_weights"]
    arrays = {
        "v_template": values["v_template"],
        "shapedirs": values["shapedirs"],
        "posedirs": values["posedirs"],
        "weights": weights / weights.sum(1, keepdim=True),
        "J_regressor": _regressor(source, target, values["v_template"], values["shapedirs"]),
        "f": source.faces.cpu(),
        "kintree_table": torch.tensor([(-1, *target.parents[1:]), range(target.num_joints)]),
    }
    return BodyModel({name: array.numpy() for name, array in arrays.items()}, f"{target.name} ({source.name}'s mesh)")


def _regressor(source: BodyModel, target: BodyModel, template: Tensor, dirs: Tensor) -> Tensor:
    """The joint regressor nearest to that of `source` that gives the joints of `target` in all shapes."""

    def columns(vertices: Tensor, directions: Tensor) -> np.ndarray:
        ones = torch.ones(len(vertices), 1)
        return torch.cat([vertices.cpu(), directions.cpu().flatten(1), ones], 1).double().numpy()

    own = columns(template, dirs)
    wanted = target.J_regressor.cpu().double().numpy() @ columns(target.v_template, target.shapedirs)
    start = source.J_regressor.cpu().double().numpy()
    return torch.from_numpy(start + (wanted - start @ own) @ np.linalg.pinv(own, rcond=1e-9)).float()
