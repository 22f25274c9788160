"""Common parts of rigged exports: influences of joints, normals, and the binary part of a glTF file."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from smpl_renderer.body_model import BodyModel
from smpl_renderer.files import atomic_path
from smpl_renderer.normals import vertex_normals

INFLUENCES = 4
"""Joints per vertex that players and engines blend; bodies have no more."""
_COMPONENTS = {np.dtype("u1"): 5121, np.dtype("<u2"): 5123, np.dtype("<u4"): 5125, np.dtype("<f4"): 5126}
_ARRAY_BUFFER, _ELEMENT_BUFFER = 34962, 34963


def skinning_table(body: BodyModel) -> tuple[np.ndarray, np.ndarray]:
    """Joints [V, 4] that move each vertex, and their weights, which sum to one; unused places have weight 0."""
    values, joints = body.lbs_weights.cpu().topk(INFLUENCES, dim=1)
    weights = values / values.sum(1, keepdim=True)
    return np.where(weights.numpy() > 0, joints.numpy(), 0), weights.numpy()


def unit_normals(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> Float[np.ndarray, "V 3"]:
    """Unit normals of vertices; up for a vertex without area, since glTF requires unit length."""
    normals = vertex_normals(torch.from_numpy(vertices), torch.from_numpy(faces)).numpy()
    return np.where(normals.any(1, keepdims=True), normals, np.array([0.0, 1.0, 0.0], normals.dtype))


class GlbWriter:
    """The arrays of a glTF 2.0 file and its description; `save` writes both as one `.glb`."""

    def __init__(self) -> None:
        self.gltf: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "human-gaussian-graph"},
            "scene": 0,
            "bufferViews": [],
            "accessors": [],
        }
        self._data = bytearray()

    def add(
        self, array: np.ndarray, kind: str, target: int | None = None, with_bounds: bool = False, **more: Any
    ) -> int:
        """Append an array `[n, ...]`; the index of its accessor.

        Args:
            kind: `SCALAR`, `VEC3`, `VEC4`, `MAT4`.
            target: Kind of the buffer, for attributes and indices.
            with_bounds: Store the smallest and the largest value of each component.
            **more: Further properties of the accessor, such as `normalized`.
        """
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        self._data += bytes(-len(self._data) % 4)
        view = {"buffer": 0, "byteOffset": len(self._data), "byteLength": array.nbytes}
        self._data += array.tobytes()
        self.gltf["bufferViews"].append(view | ({} if target is None else {"target": target}))
        accessor = {
            "bufferView": len(self.gltf["bufferViews"]) - 1,
            "componentType": _COMPONENTS[array.dtype],
            "count": len(array),
            "type": kind,
        }
        if with_bounds:
            flat = array.reshape(len(array), -1)
            accessor |= {"min": flat.min(0).tolist(), "max": flat.max(0).tolist()}
        self.gltf["accessors"].append(accessor | more)
        return len(self.gltf["accessors"]) - 1

    def attribute(self, array: np.ndarray, kind: str, **more: Any) -> int:
        """Append an array of vertex attributes."""
        return self.add(array, kind, _ARRAY_BUFFER, **more)

    def indices(self, faces: np.ndarray) -> int:
        """Append triangles."""
        return self.add(faces.astype(np.uint32).ravel(), "SCALAR", _ELEMENT_BUFFER)

    def save(self, path: Path) -> None:
        """Write the file, atomically."""
        self._data += bytes(-len(self._data) % 4)
        description = json.dumps(self.gltf | {"buffers": [{"byteLength": len(self._data)}]}).encode()
        description += b" " * (-len(description) % 4)
        size = 12 + 8 + len(description) + 8 + len(self._data)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(struct.pack("<4sII", b"glTF", 2, size))
            file.write(struct.pack("<I4s", len(description), b"JSON") + description)
            file.write(struct.pack("<I4s", len(self._data), b"BIN\0") + self._data)
