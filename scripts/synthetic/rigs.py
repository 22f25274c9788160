"""Camera rigs: the two of MVHumanNet and a single camera, and the records of MVHumanNet's calibration files.

World: metres, z down, origin on the floor. Cameras: OpenCV axes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from core.types.cameras import Cameras

RIGS = ("24", "48", "phone")
"""One ring of 16 cameras, three rings of 16, or one camera in front of the subject."""

# Front, left, back and right view of a subject that faces the first.
INPUT_VIEWS_24 = ("22327091", "22327116", "22236236", "22327073")
# The ring by increasing azimuth, starting at the front camera; the true order of the twelve others is not known.
NAMES_24 = (
    *("22327091", "22236222", "22236229", "22236234", "22327073", "22236235", "22327084", "22327102"),
    *("22236236", "22327107", "22327109", "22327111", "22327116", "22327113", "22327117", "22327118"),
)
FRONT_AZIMUTH_24 = -17.6
INPUT_AZIMUTHS_24 = {"22327091": -17.6, "22327116": -110.3, "22236236": 159.1, "22327073": 70.9}

# Names without the prefix `CC32871A`; each ring starts at an azimuth of -177 degrees.
RINGS_48 = {
    "low": "008 048 057 022 015 051 027 023 038 030 016 035 037 040 010 046",
    "middle": "004 013 058 039 052 032 034 017 059 050 033 005 029 055 031 044",
    "top": "019 047 036 049 041 042 006 060 021 012 018 043 014 009 056 020",
}
FRONT_AZIMUTH_48 = 3.0
AXIS_48 = np.array([0.02, -0.05])


@dataclass(frozen=True)
class Rig:
    """Calibrated cameras of one capture, in the terms of MVHumanNet's files.

    `focal`, `width` and `height` refer to the calibrated size, which is twice the size of the image files.
    """

    names: tuple[str, ...]
    keys: tuple[str, ...]
    """Keys in `camera_extrinsics.json`: a prefix, the name, `.png`."""
    rotations: Float[np.ndarray, "C 3 3"]
    translations: Float[np.ndarray, "C 3"]
    """World to camera, in metres (the files store unscaled millimetres)."""
    focal: float
    width: int
    height: int
    camera_scale: float
    front_azimuth: float
    """Azimuth atan2(y, x) of the first input view in degrees; the subject faces it at first."""

    @property
    def intrinsics(self) -> Float[np.ndarray, "3 3"]:
        """K with pixel centres on integers, as in the files."""
        center = ((self.width - 1) / 2, (self.height - 1) / 2)
        return np.array([[self.focal, 0.0, center[0]], [0.0, self.focal, center[1]], [0.0, 0.0, 1.0]])

    def subset(self, names: tuple[str, ...]) -> "Rig":
        """The named cameras, in this order."""
        chosen = [self.names.index(name) for name in names]
        return Rig(
            tuple(self.names[i] for i in chosen),
            tuple(self.keys[i] for i in chosen),
            self.rotations[chosen],
            self.translations[chosen],
            *(self.focal, self.width, self.height, self.camera_scale, self.front_azimuth),
        )

    def cameras(self) -> Cameras:
        """Cameras of the image files (half the calibrated size), pixel centres at +0.5, raw world."""
        viewmats = torch.eye(4).repeat(len(self.names), 1, 1)
        viewmats[:, :3, :3] = torch.from_numpy(self.rotations).float()
        viewmats[:, :3, 3] = torch.from_numpy(self.translations).float()
        K = torch.from_numpy(self.intrinsics).float()
        K[:2, 2] += 0.5
        Ks = K.expand(len(self.names), 3, 3)
        return Cameras(viewmats, Ks, self.width, self.height).resized(self.width // 2, self.height // 2)

    def extrinsics(self, long_center: bool) -> dict[str, dict]:
        """Content of `camera_extrinsics.json`; with `long_center` each centre is followed by the image size."""
        center = self.intrinsics[:2, 2].tolist() + ([float(self.width), float(self.height)] if long_center else [])
        records = {}
        for key, rotation, translation in sorted(zip(self.keys, self.rotations, self.translations), key=lambda r: r[0]):
            millimetres = translation * 1000 / self.camera_scale
            quaternion = Rotation.from_matrix(rotation).as_quat()[[3, 0, 1, 2]]
            records[key] = {
                "rotation": rotation.tolist(),
                "translation": millimetres.tolist(),
                "camera_pos": (-rotation.T @ millimetres).tolist(),
                "quaternion": (quaternion * np.sign(quaternion[0] or 1)).tolist(),
                "focal_length": [self.focal, self.focal],
                "image_center": center,
            }
        return records


def make_rig(kind: str, width: int, height: int, rng: np.random.Generator, num_cameras: int | None = None) -> Rig:
    """Draw a rig with small irregularities.

    Args:
        kind: One of `RIGS`.
        width, height: Size of the image files; K is stated for twice that.
        rng: Source of the irregularities.
        num_cameras: Number of cameras if fewer than the rig has: the input views first, then evenly spread others.
    Raises:
        ValueError: If `kind` is unknown.
    """
    if kind == "24":
        rig = _ring_24(2 * width, 2 * height, rng)
        first = INPUT_VIEWS_24
    elif kind == "48":
        rig = _rings_48(2 * width, 2 * height, rng)
        middle = ["CC32871A" + number for number in RINGS_48["middle"].split()]
        first = tuple(middle[i] for i in (8, 4, 0, 12))
    elif kind == "phone":
        return _phone(2 * width, 2 * height, rng)
    else:
        raise ValueError(f"kind of rig must be one of {', '.join(RIGS)}, got {kind}")
    if num_cameras is None or num_cameras >= len(rig.names):
        return rig
    others = [name for name in rig.names if name not in first]
    spread = [others[i * len(others) // max(num_cameras - 4, 1)] for i in range(max(num_cameras - 4, 0))]
    return rig.subset((*first, *spread)[:num_cameras])


def _ring_24(width: int, height: int, rng: np.random.Generator) -> Rig:
    count = len(NAMES_24)
    azimuths = FRONT_AZIMUTH_24 + 360 / count * np.arange(count) + rng.uniform(-1, 1, count)
    for name, azimuth in INPUT_AZIMUTHS_24.items():
        azimuths[NAMES_24.index(name)] = azimuth
    rotations, translations = _orbit_cameras(
        azimuths=azimuths,
        radii=rng.uniform(1.98, 2.11, count),
        heights=rng.uniform(1.54, 1.55, count),
        pitches=rng.uniform(17, 18.4, count),
        rolls=rng.uniform(-1, 1, count),
        axis=np.zeros(2),
        rng=rng,
    )
    prefixes = np.where(np.arange(count) % 5 < 4, "0_0_", "0_1_")
    keys = tuple(f"{prefix}{name}.png" for prefix, name in zip(prefixes, NAMES_24))
    # 1121 pixels at 1224 x 1024 give the vertical field of view of HGG's renderer.
    focal = float(1121.0 * height / 1024 * (1 + rng.uniform(-5e-4, 5e-4)))
    return Rig(NAMES_24, keys, rotations, translations, focal, width, height, 100 / 65, FRONT_AZIMUTH_24)


def _rings_48(width: int, height: int, rng: np.random.Generator) -> Rig:
    names, parts = [], []
    for ring, (camera_height, radius, pitch) in zip(
        ("low", "middle", "top"), ((1.11, 2.03, 6.5), (1.59, 2.02, 16.5), (2.07, 2.02, 26.8))
    ):
        numbers = RINGS_48[ring].split()
        count = len(numbers)
        names += ["CC32871A" + number for number in numbers]
        parts.append(
            _orbit_cameras(
                azimuths=-177 + 360 / count * np.arange(count) + rng.uniform(-0.8, 0.8, count),
                radii=radius + rng.uniform(-0.05, 0.05, count),
                heights=np.full(count, camera_height) + rng.uniform(-0.01, 0.01, count),
                pitches=pitch + rng.uniform(-2.5, 2.5, count),
                rolls=rng.uniform(-3, 3, count),
                axis=AXIS_48,
                rng=rng,
            )
        )
    rotations, translations = (np.concatenate(part) for part in zip(*parts))
    keys = tuple(f"1_{name}.png" for name in names)
    focal = float(2365.44 * height / 3000 * (1 + rng.uniform(-6e-4, 6e-4)))
    return Rig(tuple(names), keys, rotations, translations, focal, width, height, 120 / 65, FRONT_AZIMUTH_48)


def _phone(width: int, height: int, rng: np.random.Generator) -> Rig:
    """One camera on a table or a tripod, far enough away that the subject stays in the image while turning."""
    azimuth = rng.uniform(-180, 180)
    focal = float(max(width, height) * rng.uniform(0.72, 0.8))  # 26 to 29 mm on a film of 36 mm
    # A standing subject with arms held away needs 2.05 x 1.35 m.
    radius = max(2.05 * focal / height, 1.35 * focal / width) * rng.uniform(1.05, 1.3)
    camera_height = rng.uniform(0.75, 1.4)
    rotations, translations = _orbit_cameras(
        azimuths=np.array([azimuth]),
        radii=np.array([radius]),
        heights=np.array([camera_height]),
        pitches=np.rad2deg(np.arctan2([camera_height - rng.uniform(0.82, 0.92)], [radius])),
        rolls=rng.uniform(-1.5, 1.5, 1),
        axis=np.zeros(2),
        rng=rng,
    )
    return Rig(("phone",), ("0_0_phone.png",), rotations, translations, focal, width, height, 100 / 65, azimuth)


def _orbit_cameras(azimuths, radii, heights, pitches, rolls, axis, rng) -> tuple[np.ndarray, np.ndarray]:
    """World-to-camera rotations [C, 3, 3] and translations [C, 3] of cameras directed near a vertical axis; degrees."""
    azimuth = np.deg2rad(azimuths)
    centers = np.stack([axis[0] + radii * np.cos(azimuth), axis[1] + radii * np.sin(azimuth), -heights], -1)
    # Optical axes pass the rig's axis at a distance of some centimetres.
    heading = azimuth + np.pi + rng.uniform(-0.03, 0.03, len(azimuth))
    pitch = np.deg2rad(pitches)
    forward = np.stack([np.cos(heading) * np.cos(pitch), np.sin(heading) * np.cos(pitch), np.sin(pitch)], -1)
    down = np.array([0.0, 0.0, 1.0])
    right = np.cross(down, forward)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    upright = np.stack([right, np.cross(forward, right), forward], 1)
    roll = Rotation.from_euler("z", rolls[:, None], degrees=True).as_matrix()
    rotations = roll @ upright
    return rotations, -np.einsum("cij,cj->ci", rotations, centers)
