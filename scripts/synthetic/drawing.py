"""Images of posed, clothed people: textured meshes under soft light, several samples per pixel. Any device."""

import importlib.util
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.types.cameras import Cameras
from scripts.synthetic.materials import MATERIALS, material_color
from scripts.synthetic.palette import DISPLAY_GAMMA
from scripts.synthetic.people import Light, Person
from scripts.synthetic.surfaces import Surface
from scripts.synthetic.waves import constant
from smpl_renderer.errors import InputError
from smpl_renderer.mesh_rasterizer import MeshBackend, rasterize_fragments
from smpl_renderer.normals import vertex_normals
from smpl_renderer.types import BodyOutput

_LIGHT_DIRECTIONS = 24
_LIGHT_MAP = 112
"""Size in pixels of the depth maps for the visibility of the light."""


MeshRasterizer = Literal["auto", "torch", "nvdiffrast"]
"""`auto`: nvdiffrast on CUDA where it is installed, else torch."""


@dataclass(frozen=True)
class Scene:
    """All layers of a person as one mesh on a device."""

    person: Person
    points: Float[Tensor, "M 3"]
    """Rest-pose positions."""
    paint: Float[Tensor, "M 3"]
    """Points of the mean body at which colours are evaluated, in the order of `points`."""
    faces: Int[Tensor, "F 3"]
    face_materials: Int[Tensor, " F"]
    cull: Bool[Tensor, " F"]
    """Faces that are visible from outside only."""
    anchors: Int[Tensor, "M K"]
    anchor_weights: Float[Tensor, "M K"]
    mesh_rasterizer: MeshBackend = "torch"
    """Backend that finds the visible faces."""

    def pose(self, posed: BodyOutput) -> "PosedScene":
        """Skin all layers to one posed body (raw world, on this scene's device), and light them."""
        vertices = self._vertices(posed)
        return PosedScene(
            vertices, _irradiance(vertices, vertex_normals(vertices, self.faces), self.faces, self.person.light)
        )

    def _vertices(self, posed: BodyOutput) -> Float[Tensor, "M 3"]:
        transforms = posed.vertex_transforms[:, :3]
        result = torch.zeros_like(self.points)
        for k in range(self.anchors.shape[1]):
            used = torch.nonzero(self.anchor_weights[:, k])[:, 0]
            T = transforms[self.anchors[used, k]]
            moved = (T[:, :, :3] @ self.points[used, :, None])[..., 0] + T[:, :, 3]
            result.index_add_(0, used, self.anchor_weights[used, k, None] * moved)
        return result


@dataclass(frozen=True)
class PosedScene:
    """A posed and lit person; common to all cameras."""

    vertices: Float[Tensor, "M 3"]
    """Raw world, metres."""
    irradiance: Float[Tensor, "M 3"]
    """Linear light that falls on each vertex."""


def pick_mesh_rasterizer(name: MeshRasterizer, device: torch.device) -> MeshBackend:
    """Resolve `auto`, and check that the mesh rasterizer can run on the device.

    Raises:
        InputError: If nvdiffrast is selected and is not installed, or the device is a CPU.
    """
    installed = importlib.util.find_spec("nvdiffrast") is not None
    if name == "auto":
        return "nvdiffrast" if installed and device.type == "cuda" else "torch"
    if name == "nvdiffrast" and not (installed and device.type == "cuda"):
        reason = "is not installed (see requirements-cuda.txt)" if not installed else f"needs CUDA, got device {device}"
        raise InputError(f"--mesh-rasterizer nvdiffrast {reason}; choose torch")
    return name


def make_scene(
    person: Person, surfaces: list[Surface], device: torch.device, mesh_rasterizer: MeshBackend = "torch"
) -> Scene:
    """Concatenate the layers of a person on a device."""
    width = max(s.anchors.shape[1] for s in surfaces)
    starts = np.cumsum([0, *(len(s.points) for s in surfaces)])

    def padded(array: np.ndarray) -> np.ndarray:
        return np.pad(array, ((0, 0), (0, width - array.shape[1])))

    def joined(parts: list[np.ndarray], dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(np.concatenate(parts)).to(device=device, dtype=dtype)

    return Scene(
        person=person,
        points=joined([s.points for s in surfaces], torch.float32),
        paint=joined([s.paint for s in surfaces], torch.float32),
        faces=joined([s.faces + start for s, start in zip(surfaces, starts)], torch.int64),
        face_materials=joined([np.full(len(s.faces), MATERIALS.index(s.material)) for s in surfaces], torch.int64),
        cull=joined([~s.two_sided for s in surfaces], torch.bool),
        anchors=joined([padded(s.anchors) for s in surfaces], torch.int64),
        anchor_weights=joined([padded(s.anchor_weights) for s in surfaces], torch.float32),
        mesh_rasterizer=mesh_rasterizer,
    )


def draw_views(
    scene: Scene, posed: PosedScene, cameras: Cameras, samples: int = 2
) -> tuple[Float[Tensor, "C H W 3"], Float[Tensor, "C H W"]]:
    """Draw a posed person.

    Args:
        scene: The person.
        posed: The result of `Scene.pose`.
        cameras: C cameras, raw world.
        samples: Samples along each side of a pixel; they are averaged.
    Returns:
        Display values times coverage (black outside of the person), and coverage in [0, 1].
    """
    height, width, count = cameras.height, cameras.width, cameras.viewmats.shape[0]
    pixels, depths = cameras.project(posed.vertices)
    found = rasterize_fragments(
        pixels * samples,
        depths,
        scene.faces,
        height * samples,
        width * samples,
        near=0.1,
        cull=scene.cull,
        backend=scene.mesh_rasterizer,
    )
    corners = scene.faces[found.face_ids]
    attributes = torch.cat([scene.paint, posed.irradiance], -1)
    interpolated = (attributes[corners] * found.barycentrics[..., None]).sum(1)
    paint, light = interpolated[:, :3], interpolated[:, 3:]
    materials = scene.face_materials[found.face_ids]
    albedo = torch.zeros_like(paint)
    for index, name in enumerate(MATERIALS):
        chosen = torch.nonzero(materials == index)[:, 0]
        if len(chosen):
            albedo[chosen] = material_color(scene.person, name, paint[chosen])
    display = (albedo * light).clamp(1e-6, 1) ** (1 / DISPLAY_GAMMA)

    wide = width * samples
    rows = torch.div(found.pixel_ids, wide, rounding_mode="floor")
    columns = torch.div(found.pixel_ids - rows * wide, samples, rounding_mode="floor")
    # Rows of all images are stacked, and each image has a whole number of coarse rows.
    coarse = torch.div(rows, samples, rounding_mode="floor") * width + columns
    sums = torch.zeros(count * height * width, 4, device=depths.device)
    sums.index_add_(0, coarse, torch.cat([display, torch.ones_like(display[:, :1])], -1))
    sums = (sums / samples**2).reshape(count, height, width, 4)
    return sums[..., :3], sums[..., 3]


def light_directions(device: torch.device) -> Float[Tensor, "D 3"]:
    """Evenly spread directions on the sphere (a Fibonacci spiral), raw world."""
    index = torch.arange(_LIGHT_DIRECTIONS, device=device) + 0.5
    z = 1 - 2 * index / _LIGHT_DIRECTIONS
    azimuth = index * (np.pi * (3 - 5**0.5))
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * azimuth.cos(), radius * azimuth.sin(), z], -1)


def _irradiance(vertices: Tensor, normals: Tensor, faces: Tensor, light: Light) -> Float[Tensor, "M 3"]:
    """Light on every vertex from the surrounding studio, without what the person blocks."""
    directions = light_directions(vertices.device)
    open_to = _visibility(vertices, faces, directions)
    up = -directions[:, 2]
    level = np.cos(light.elevation)
    toward_key = (np.cos(light.azimuth) * level, np.sin(light.azimuth) * level, -np.sin(light.elevation))
    key = constant(tuple(map(float, toward_key)), directions)
    ambient = torch.where(up > 0, 0.75 + 0.25 * up, 0.75 + (0.75 - light.floor) * up)
    lobe = (directions @ key).clamp(min=0) ** 4
    ambient = ambient / ambient.mean()
    lobe = lobe / lobe.mean()
    tint = constant((1 + light.warmth, 1.0, 1 - light.warmth), directions)
    radiance = (1 - light.key) * ambient[:, None] + light.key * lobe[:, None] * tint
    facing = (normals @ directions.T).clamp(min=0)
    # The mean of max(cos, 0) over the sphere is 1/4: the factor 4 gives 1 for an unoccluded vertex under even light.
    return light.exposure * 4 / _LIGHT_DIRECTIONS * (facing * open_to) @ radiance


def _visibility(vertices: Tensor, faces: Tensor, directions: Tensor) -> Float[Tensor, "M D"]:
    """Visibility of the light from each vertex in each direction, 0 to 1, from filtered depth maps."""
    size = _LIGHT_MAP
    upward, sideways = (constant(axis, directions) for axis in ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0)))
    helper = torch.where(directions[:, 2:].abs() < 0.9, upward, sideways)
    right = torch.nn.functional.normalize(torch.linalg.cross(helper, directions), dim=-1)
    down = torch.linalg.cross(directions, right)
    middle = (vertices.amin(0) + vertices.amax(0)) / 2
    span = (vertices.amax(0) - vertices.amin(0)).norm() * 1.02
    local = vertices - middle
    plane = torch.stack([right, down], 1)  # [D, 2, 3]
    pixels = torch.einsum("mi,dki->dmk", local, plane) * (size / span) + size / 2
    depths = span - torch.einsum("mi,di->dm", local, directions)
    found = rasterize_fragments(pixels, depths, faces, size, size, near=0.0, perspective=False)
    depth_map = torch.full((len(directions) * size * size,), 1e3, device=vertices.device)
    depth_map[found.pixel_ids] = found.depths
    depth_map = depth_map.reshape(len(directions), size, size)
    result = torch.zeros(len(directions), len(vertices), device=vertices.device)
    base = torch.arange(len(directions), device=vertices.device)[:, None] * (size * size)
    flat = depth_map.reshape(-1)
    corner = (pixels - 0.5).floor().long()
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x = (corner[..., 0] + dx).clamp(0, size - 1)
        y = (corner[..., 1] + dy).clamp(0, size - 1)
        behind = depths - flat[base + y * size + x]
        result += 0.25 * (1 - ((behind - 0.02) / 0.03).clamp(0, 1))
    return result.T
