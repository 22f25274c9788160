"""Rooms behind synthetic subjects: walls, floor and furniture with procedural textures, drawn by ray casting.

Room coordinates are in metres: `u` points from the front camera to the subject and on to the back wall, `v` to the
right of that camera, `h` up; the subject stands at the origin. Images of one camera have one and the same room, apart
from the subject's shadow on the floor.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.types.cameras import Cameras
from scripts.synthetic.fabrics import Color, Fabric, fabric_color
from scripts.synthetic.palette import DISPLAY_GAMMA, cloth_color_sample, linear
from scripts.synthetic.people import Light
from scripts.synthetic.rigs import Rig
from scripts.synthetic.wardrobe import sample_fabric, wardrobe_of
from scripts.synthetic.waves import constant

HEIGHT = 2.6
"""Height of the ceiling."""
CAMERA_GAP = 1.0
"""Least distance between a camera and the wall behind it; furniture is shallower."""
RAYS_AT_ONCE = 1 << 18
_SHADOW = 0.5, 0.32
"""Largest share of the light that the subject takes from the floor, and the radius of that shadow in metres."""


@dataclass(frozen=True)
class Block:
    """A box with one texture: furniture, or a thin box on a wall or on the floor (a poster, a door, a rug)."""

    low: tuple[float, float, float]
    """Least u, v and h."""
    high: tuple[float, float, float]
    fabric: Fabric


@dataclass(frozen=True)
class Room:
    """A room, and the light in it."""

    azimuth: float
    """Direction of u in the raw world, radians."""
    low: tuple[float, float]
    """Least u and v: positions of two walls."""
    high: tuple[float, float]
    wall: Fabric
    floor: Fabric
    skirting: Color
    blocks: tuple[Block, ...]
    light: Light


def sample_room(rng: np.random.Generator, split: str, light: Light, rig: Rig, *, furnished: bool) -> Room:
    """Draw a room around the cameras of a rig.

    Args:
        rng: The source of all draws.
        split: Split of the subject; selects the textures of furniture, as it does those of clothes.
        light: Light on the subject; its background colour is the walls'.
        rig: Cameras, all of them inside of the room.
        furnished: Furniture, posters and patterned walls; otherwise the room is empty.
    """
    azimuth = np.deg2rad(rig.front_azimuth + 180 + rng.uniform(-10, 10))
    centers = -np.einsum("cji,cj->ci", rig.rotations, rig.translations)
    forward, right = _axes(azimuth)
    reach = np.stack([centers @ forward, centers @ right], -1)
    high = np.maximum([rng.uniform(0.9, 2.4), rng.uniform(1.4, 3.0)], reach.max(0) + CAMERA_GAP)
    low = np.minimum([-rng.uniform(3.0, 4.0), -rng.uniform(1.4, 3.0)], reach.min(0) - CAMERA_GAP)
    wall = Fabric("plain", (linear(light.background),) * 3)
    tone = np.array([(0.55, 0.42, 0.3), (0.5, 0.5, 0.5), (0.32, 0.24, 0.18), (0.7, 0.66, 0.6)][rng.integers(4)])
    colors = tuple(linear(tone * shade) for shade in (1.0, 0.86, 0.7))
    floor = Fabric(str(rng.choice(["bricks", "plain", "checks"])), colors, float(rng.uniform(0.1, 0.4)), 0.5)
    blocks: tuple[Block, ...] = ()
    if furnished:
        if rng.random() < 0.4:
            other = tuple(linear(np.array(light.background) * shade) for shade in (1.0, rng.uniform(0.6, 0.95), 0.85))
            wall = Fabric(
                str(rng.choice(["stripes", "bricks", "dots", "zigzag"])), other, float(rng.uniform(0.08, 0.3))
            )
        blocks = _sample_blocks(rng, split, low, high)
    return Room(
        azimuth=float(azimuth),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        wall=wall,
        floor=floor,
        skirting=linear(np.full(3, rng.choice([0.92, 0.25]))),
        blocks=blocks,
        light=light,
    )


def _sample_blocks(rng: np.random.Generator, split: str, low: np.ndarray, high: np.ndarray) -> tuple[Block, ...]:
    """Draw furniture along the walls, posters on them, and often a rug."""
    blocks = []
    for _ in range(rng.integers(4, 9)):
        depth, half, height = rng.uniform(0.25, 0.6), rng.uniform(0.2, 0.7), rng.uniform(0.4, 2.0)
        blocks.append(_against_wall(rng, split, low, high, depth, half, (0.0, height)))
        if height < 1.1 and rng.random() < 0.7:  # something stands on it
            size = rng.uniform(0.08, 0.25)
            blocks.append(_on_top(rng, split, blocks[-1], size))
    for _ in range(rng.integers(3, 8)):
        middle, half_height = rng.uniform(1.0, 2.0), rng.uniform(0.15, 0.5)
        span = (middle - half_height, min(middle + half_height, HEIGHT - 0.05))
        blocks.append(_against_wall(rng, split, low, high, 0.02, rng.uniform(0.15, 0.6), span))
    if rng.random() < 0.6:
        half_u, half_v = rng.uniform(0.6, 1.2), rng.uniform(0.7, 1.4)
        blocks.append(Block((-half_u, -half_v, 0.0), (half_u, half_v, 0.006), _texture(rng, split)))
    return tuple(blocks)


def _against_wall(rng, split: str, low, high, depth: float, half: float, span: tuple[float, float]) -> Block:
    """A box with its back to a wall: half of them to the wall behind the subject."""
    side = str(rng.choice(["back", "left", "right", "front"], p=[0.5, 0.2, 0.2, 0.1]))
    axis = 0 if side in ("back", "front") else 1
    middle = (
        rng.uniform(low[1 - axis] + half, high[1 - axis] - half) if high[1 - axis] - low[1 - axis] > 2 * half else 0
    )
    start, end = (high[axis] - depth, high[axis]) if side in ("back", "right") else (low[axis], low[axis] + depth)
    box = np.empty((2, 3))
    box[:, axis], box[:, 1 - axis], box[:, 2] = (start, end), (middle - half, middle + half), span
    return Block(tuple(box[0].tolist()), tuple(box[1].tolist()), _texture(rng, split))


def _on_top(rng: np.random.Generator, split: str, below: Block, size: float) -> Block:
    u, v = (rng.uniform(below.low[k], below.high[k]) for k in (0, 1))
    low = (float(u - size / 2), float(v - size / 2), below.high[2])
    return Block(low, (low[0] + size, low[1] + size, low[2] + float(rng.uniform(0.1, 0.5))), _texture(rng, split))


def _texture(rng: np.random.Generator, split: str) -> Fabric:
    if rng.random() < 0.5:
        return Fabric("plain", (linear(cloth_color_sample(rng)),) * 3)
    return sample_fabric(rng, wardrobe_of(split), "top")


@dataclass(frozen=True)
class Backdrop:
    """The room in the image of one camera."""

    colors: Float[Tensor, "H W 3"]
    """Display values without the subject's shadow."""
    floor: Float[Tensor, "H W 2"]
    """Raw-world x and y of the floor at each pixel; NaN elsewhere."""

    def behind(self, joints: Float[Tensor, "J 3"]) -> Float[Tensor, "H W 3"]:
        """Display values with a soft shadow around the feet of a posed body (raw world)."""
        feet = joints[[7, 8], :2].mean(0)
        strength, radius = _SHADOW
        squared = (self.floor - feet).square().sum(-1)
        shade = torch.where(squared.isnan(), 1.0, 1 - strength * torch.exp(-squared / radius**2))
        return self.colors * (shade ** (1 / DISPLAY_GAMMA))[..., None]


def draw_room(room: Room, rig: Rig, samples: int, device: torch.device) -> dict[str, Backdrop]:
    """Draw a room in all cameras of a rig, by camera name; `samples` along each side of a pixel are averaged."""
    cameras = rig.cameras().to(device)
    return {name: _draw_view(room, cameras[i], samples) for i, name in enumerate(rig.names)}


def _draw_view(room: Room, camera: Cameras, samples: int) -> Backdrop:
    height, width = camera.height, camera.width
    origins, directions = camera.resized(width * samples, height * samples).rays()
    forward, right = (torch.from_numpy(axis).to(origins) for axis in _axes(room.azimuth))
    T_room_world = torch.stack([forward, right, torch.tensor([0.0, 0.0, -1.0]).to(origins)])
    rays = (x.reshape(-1, 3) @ T_room_world.T for x in (origins, directions))
    parts = [_cast(room, o, d) for o, d in zip(*(x.split(RAYS_AT_ONCE) for x in rays))]
    colors = torch.cat([color for color, _ in parts]).reshape(height, samples, width, samples, 3).mean((1, 3))
    floor = torch.cat([place for _, place in parts]).reshape(height, samples, width, samples, 3)[:, 0, :, 0]
    return Backdrop(colors, (floor @ T_room_world)[..., :2])


def _axes(azimuth: float) -> tuple[np.ndarray, np.ndarray]:
    """Directions of u and v in the raw world (z down)."""
    forward = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
    return forward, np.cross([0.0, 0.0, 1.0], forward)


def _cast(
    room: Room, origins: Float[Tensor, "R 3"], directions: Float[Tensor, "R 3"]
) -> tuple[Float[Tensor, "R 3"], Float[Tensor, "R 3"]]:
    """Display values seen along rays (room coordinates), and where they meet the bare floor or a rug (else NaN)."""
    low, high = (constant((*side, end), origins) for side, end in ((room.low, 0.0), (room.high, HEIGHT)))
    safe = torch.where(directions.abs() < 1e-9, 1e-9, directions)
    exits = (torch.where(safe > 0, high, low) - origins) / safe
    distances, axes = exits.min(-1)
    points = origins + distances[:, None] * directions
    colors = _shell_color(room, points, axes, safe)
    on_floor = (axes == 2) & (directions[:, 2] < 0)
    for block in room.blocks:
        bounds = [(constant(corner, origins) - origins) / safe for corner in (block.low, block.high)]
        enter, axis = torch.minimum(*bounds).max(-1)
        leave = torch.maximum(*bounds).amin(-1)
        hit = torch.nonzero((enter < leave) & (enter > 0) & (enter < distances))[:, 0]
        if not len(hit):
            continue
        place = origins[hit] + enter[hit, None] * directions[hit]
        colors[hit] = _textured(block.fabric, place, axis[hit]) * _shade(room, axis[hit], -safe[hit])
        distances[hit] = enter[hit]
        points[hit] = place
        on_floor[hit] = (place[:, 2] < 0.01) & (axis[hit] == 2)
    floor = torch.where(on_floor[:, None], points, torch.nan)
    return (colors * room.light.exposure).clamp(1e-6, 1) ** (1 / DISPLAY_GAMMA), floor


def _shell_color(room: Room, points: Tensor, axes: Int[Tensor, " R"], directions: Tensor) -> Float[Tensor, "R 3"]:
    """Linear colour of walls, floor and ceiling, darker in their corners."""
    colors = _textured(room.wall, points, axes)
    level = axes == 2
    is_floor = level & (directions[:, 2] < 0)
    colors[is_floor] = _textured(room.floor, points[is_floor], axes[is_floor])
    colors[level & ~is_floor] = 0.8
    colors[~level & (points[:, 2] < 0.08)] = constant(room.skirting, points)
    low, high = (constant((*side, end), points) for side, end in ((room.low, 0.0), (room.high, HEIGHT)))
    gaps = torch.minimum(points - low, high - points).scatter(-1, axes[:, None], 10.0).amin(-1)
    return colors * _shade(room, axes, -directions) * (1 - 0.3 * torch.exp(-gaps / 0.2))[:, None]


def _textured(fabric: Fabric, points: Tensor, axes: Int[Tensor, " R"]) -> Float[Tensor, "R 3"]:
    """Colour of a texture on faces normal to the given axes: upright on vertical faces."""
    u, v, h = points.unbind(-1)
    along = torch.where(axes == 2, u, h)
    across = torch.where(axes == 0, v, torch.where(axes == 1, u, v))
    return fabric_color(fabric, points, along, across).clone()


def _shade(room: Room, axes: Int[Tensor, " R"], outward: Float[Tensor, "R 3"]) -> Float[Tensor, "R 1"]:
    """Light on faces normal to the given axes, on the side that `outward` points to: ambient, and the key light."""
    light = room.light
    azimuth, level = light.azimuth - room.azimuth, np.cos(light.elevation)
    toward = constant((np.cos(azimuth) * level, np.sin(azimuth) * level, np.sin(light.elevation)), outward)
    signs = torch.sign(outward.gather(-1, axes[:, None]))[:, 0]
    facing: Tensor = (toward[axes] * signs).clamp(min=0)
    return (1 - light.key + 1.6 * light.key * facing)[:, None]
