"""A tiny capture in MVHumanNet's layout, written with numpy and PIL: dots at known points, or the silhouette of a body.

It shares no code with the loader or the synthetic generator, so that errors in them cannot cancel.
"""

import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt
from scipy.spatial.transform import Rotation

from smpl_renderer.body_model import BodyModel
from smpl_renderer.types import BodyParams

FURTHER_NAMES_24 = ("22236222", "22236229", "22236234", "22236235", "22327084", "22327102")
FRONT_LEFT_BACK_RIGHT = ("22327091", "22327116", "22236236", "22327073")
DOTS = np.array([[0.0, 0.0, -1.0], [0.15, 0.1, -1.35], [-0.12, 0.2, -0.6], [0.05, -0.3, -0.25], [-0.3, -0.1, -1.65]])
"""Points in the raw world (z down), in metres, close to a standing subject."""


@dataclass
class TinyCapture:
    """Contents of the capture: rig, sizes, frames, and the kind of images."""

    rig: str = "24"
    calibrated: tuple[int, int] = (2448, 2048)
    image_size: tuple[int, int] = (612, 512)
    mask_size: tuple[int, int] | None = None
    """Default: the size of the images."""
    frames: tuple[int, ...] = (5, 10, 15)
    num_cameras: int = 6
    four_number_centers: bool = False
    image_folder: str = "images_lr"
    mask_folder: str = "fmask_lr"
    content: str = "body"
    """`body`: a mask of the body's vertices; `dots`: white dots on black, with a mask of 255 everywhere."""
    scale: float = 100 / 65
    K: np.ndarray = field(init=False)
    rotations: dict[str, np.ndarray] = field(default_factory=dict)
    translations: dict[str, np.ndarray] = field(default_factory=dict)
    """Translations in unscaled millimetres, as in the file."""

    def __post_init__(self):
        width, height = self.calibrated
        focal = 0.8 * height
        self.K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
        named_front = [-17.6, -110.3, 159.1, 70.9]  # raw azimuths of HGG's four input cameras
        for i in range(self.num_cameras):
            if self.rig == "24":
                name = (*FRONT_LEFT_BACK_RIGHT, *FURTHER_NAMES_24)[i]
                azimuth, height_above = named_front[i] if i < 4 else 20.0 + 37 * i, 1.54
            else:
                name = f"CC32871A{i + 4:03d}"
                azimuth, height_above = -177 + 22.5 * (i % 16), (1.11, 1.59, 2.07)[i // 16]
            self._place(name, azimuth, height_above, roll=3.0 * (i % 3) - 2)

    def _place(self, name: str, azimuth: float, height: float, roll: float) -> None:
        """Add a camera that faces the axis of the rig at a height of 0.95 m, rolled by some degrees."""
        angle = np.deg2rad(azimuth)
        center = np.array([2.0 * np.cos(angle), 2.0 * np.sin(angle), -height])
        forward = np.array([0.0, 0.0, -0.95]) - center
        forward /= np.linalg.norm(forward)
        down = np.array([0.0, 0.0, 1.0])
        right = np.cross(down, forward)
        right /= np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward])
        R = Rotation.from_euler("z", roll, degrees=True).as_matrix() @ R
        self.rotations[name] = R
        self.translations[name] = -R @ center * 1000 / self.scale

    @property
    def names(self) -> list[str]:
        return list(self.rotations)

    def project(self, name: str, points: np.ndarray) -> np.ndarray:
        """Calibrated pixels (centres on integers) of raw points, by the formula of the format: R X + s t / 1000."""
        camera = points @ self.rotations[name].T + self.scale * self.translations[name] / 1000
        pixels = camera @ self.K.T
        return pixels[:, :2] / pixels[:, 2:]

    def in_file(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Convert pixels (centres on integers) to those of an image of another size, exactly."""
        return (pixels + 0.5) * np.array(size) / np.array(self.calibrated) - 0.5

    def write(self, folder: Path, body: BodyModel | None = None, params: list[BodyParams] | None = None) -> Path:
        """Write the capture; fits only with a body. `params` are in the raw world, one per frame."""
        folder.mkdir(parents=True, exist_ok=True)
        self._write_cameras(folder)
        vertices = {}
        if body is not None:
            (folder / "body.json").write_text(json.dumps({"fingerprint": body.fingerprint, "name": body.name}))
            for frame, fit in zip(self.frames, params or [standing(i) for i in range(len(self.frames))]):
                vertices[frame] = write_smpl_param(folder / "smpl_param" / f"{frame // 5 - 1:06d}.pkl", fit, body)
        for name in self.names:
            for frame in self.frames:
                self._write_images(folder, name, frame, vertices.get(frame))
        return folder

    def _write_cameras(self, folder: Path) -> None:
        (folder / "camera_intrinsics.json").write_text(json.dumps({"intrinsics": self.K.tolist(), "dist": []}))
        (folder / "camera_scale.pkl").write_bytes(pickle.dumps(self.scale, protocol=4))
        center = [self.K[0, 2], self.K[1, 2]] + (list(self.calibrated) if self.four_number_centers else [])
        records = {}
        for i, name in enumerate(self.names):
            R, t = self.rotations[name], self.translations[name]
            prefix = "1_" if self.rig == "48" else ("0_0_", "0_1_")[i % 2]
            records[f"{prefix}{name}.png"] = {
                "rotation": R.tolist(),
                "translation": t.tolist(),
                "camera_pos": (-R.T @ t).tolist(),
                "quaternion": np.roll(Rotation.from_matrix(R).as_quat(), 1).tolist(),
                "focal_length": [self.K[0, 0], self.K[1, 1]],
                "image_center": center,
            }
        (folder / "camera_extrinsics.json").write_text(json.dumps(records))

    def _write_images(self, folder: Path, name: str, frame: int, vertices: np.ndarray | None) -> None:
        image_path = folder / self.image_folder / name / f"{frame:04d}_img.jpg"
        mask_path = folder / self.mask_folder / name / f"{frame:04d}_img_fmask.png"
        image_path.parent.mkdir(parents=True, exist_ok=True)
        mask_path.parent.mkdir(parents=True, exist_ok=True)
        mask_size = self.mask_size or self.image_size
        if self.content == "dots":
            dots = self.in_file(self.project(name, DOTS), self.image_size)
            image = blobs(dots, self.image_size, sigma=self.image_size[1] / 250)
            mask = np.full(mask_size[::-1], 255, np.uint8)
        else:
            image = np.full((*self.image_size[::-1], 3), [[[200, 120, 60]]], np.uint8)
            pixels = self.in_file(self.project(name, DOTS if vertices is None else vertices), mask_size)
            mask = covered(pixels, mask_size, radius=mask_size[1] / 80)
        Image.fromarray(image).save(image_path, quality=95, subsampling=0)
        Image.fromarray(mask).save(mask_path)


def blobs(pixels: np.ndarray, size: tuple[int, int], sigma: float) -> np.ndarray:
    """Image [H, W, 3] of white Gaussian dots on black at the given pixels (centres on integers)."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    image = sum(np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * sigma**2)) for u, v in pixels)
    return np.clip(255 * image, 0, 255).round().astype(np.uint8)[..., None].repeat(3, -1)


def covered(pixels: np.ndarray, size: tuple[int, int], radius: float) -> np.ndarray:
    """Mask [H, W] that is 255 within `radius` of the given pixels."""
    away = np.ones(size[::-1], bool)
    column, row = np.round(pixels).astype(int).T
    inside = (column >= 0) & (column < size[0]) & (row >= 0) & (row < size[1])
    away[row[inside], column[inside]] = False
    return np.where(distance_transform_edt(away) <= radius, 255, 0).astype(np.uint8)


def standing(i: int = 0, azimuth: float = -17.6, dtype=torch.float64) -> BodyParams:
    """Body on the floor of the raw world that faces a raw azimuth (degrees); `i` varies the pose."""
    params = BodyParams.zeros(dtype=dtype)
    upright = Rotation.from_euler("x", -90, degrees=True)  # maps SMPL's y to the raw -z, and its z to the raw y
    turned = Rotation.from_euler("z", azimuth - 90, degrees=True) * upright
    params.global_orient[:] = torch.from_numpy(turned.as_rotvec())
    params.body_pose[(16 - 1) * 3 + 2] = -0.9 - 0.1 * i
    params.body_pose[(17 - 1) * 3 + 2] = 0.7 + 0.1 * i
    params.body_pose[(4 - 1) * 3] = 0.2 * i
    params.betas[:3] = torch.tensor([0.8, -0.5, 0.3])
    # The stand-in's pelvis rests at (0, -0.22, 0.03): this places it near the axis of the rig, at 0.95 m.
    params.transl[:] = torch.tensor([0.03, 0.2 + 0.01 * i, -0.98])
    return params


def write_smpl_param(path: Path, params: BodyParams, body: BodyModel) -> np.ndarray:
    """Write a fit in MVHumanNet's format, with its entries that are None, and return its vertices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    posed = body(params.to(torch.float32))
    rotvecs = torch.cat([params.global_orient, params.body_pose]).reshape(24, 3).numpy()
    matrices = torch.from_numpy(Rotation.from_rotvec(rotvecs).as_matrix()).float()[None]
    content = {
        "global_orient": matrices[:, None, 0].clone(),
        "body_pose": matrices[:, 1:].clone(),
        "full_pose": matrices,
        "betas": params.betas.float()[None],
        "vertices": posed.vertices[None],
        "joints": torch.cat([posed.joints, posed.vertices[:21]])[None],
        "faces": body.faces.numpy().astype(np.uint32),
        "transl": None,
        "v_shaped": None,
    }
    path.write_bytes(pickle.dumps(content, protocol=4))
    return posed.vertices.double().numpy()


def write_refit(path: Path, params: BodyParams, body: BodyModel | None = None) -> None:
    """Write a fit as JSON in the format of HGG's refits; with a body also the `.ply`, in their axes (x, z, -y)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pose = torch.cat([params.global_orient, params.body_pose])
    content = {
        "pose": [pose.tolist()],
        "betas": [params.betas.tolist()],
        "translation": [params.transl.tolist()],
        "scale": [float(params.scale)],
    }
    path.write_text(json.dumps(content))
    if body is not None:
        x, y, z = body(params.to(torch.float32)).vertices.numpy().T
        header = f"ply\nformat ascii 1.0\nelement vertex {len(x)}\n" + "".join(f"property float {a}\n" for a in "xyz")
        rows = "\n".join(f"{a:.6f} {c:.6f} {-b:.6f}" for a, b, c in zip(x, y, z))
        path.with_suffix(".ply").write_text(f"{header}end_header\n{rows}\n")
