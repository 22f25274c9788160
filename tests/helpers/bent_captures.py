"""A sound capture with textured images, changes of it, and a comparison of what is read."""

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import map_coordinates
from tiny_capture import TinyCapture, standing

from core.data.dataset import load_frames
from core.data.readers import open_capture
from core.data.verification import verify
from core.types.frames import Frames
from smpl_renderer.body_model import BodyModel

TINY = TinyCapture(calibrated=(612, 512), image_size=(306, 256), num_cameras=4, frames=(5, 10))
Bend = Callable[[Path], object]
"""A change of a capture in place."""


class Bends(dict):
    """Changes by the name of their function, each with what is expected of it."""

    def __call__(self, expected: object) -> Callable[[Bend], Bend]:
        def register(bend: Bend) -> Bend:
            self[bend.__name__.replace("_", " ")] = (bend, expected)
            return bend

        return register


def read(folder: Path, body: BodyModel, names: list[str] | None = None) -> Frames:
    """All frames and cameras of a capture as the network gets them, checked."""
    capture = open_capture(folder)
    verify(capture, body)
    names = capture.camera_names if names is None else names
    return load_frames(capture, body, capture.complete_frames(names), names, names[0], 64, "person")


def assert_same(frames: Frames, sound: Frames, tolerance: float) -> None:
    """Compare cameras, fits, colours and masks.

    Args:
        frames: What was read.
        sound: The same from the sound capture.
        tolerance: Largest mean difference of colours and of masks that an encoding explains, of 255.
    """
    for name in ("viewmats", "Ks"):
        torch.testing.assert_close(getattr(frames.cameras, name), getattr(sound.cameras, name), atol=2e-3, rtol=1e-4)
    for name in ("betas", "global_orient", "body_pose", "transl", "scale"):
        torch.testing.assert_close(getattr(frames.body, name), getattr(sound.body, name), atol=2e-5, rtol=1e-5)
    for name in ("images", "alphas"):
        difference = (getattr(frames, name) - getattr(sound, name)).abs()
        assert 255 * difference.mean() <= tolerance + 1e-6, (name, 255 * float(difference.mean()))


def write_sound(folder: Path, body: BodyModel, rig: TinyCapture = TINY) -> Path:
    """Write the sound capture: PNG images with smooth colours that no flip keeps, and masks of the body."""
    rig.write(folder, body)
    width, height = rig.image_size
    y, x = np.mgrid[:height, :width] / height
    for i, path in enumerate(images(folder)):
        colours = [0.5 + 0.4 * np.sin(3 * x + i), 0.2 + 0.6 * y, 0.5 + 0.3 * np.cos(4 * x * y + i)]
        path.unlink()
        save(path.with_suffix(".png"), np.stack(colours, -1))
    return folder


def images(folder: Path) -> list[Path]:
    return sorted(folder.glob("images_lr/*/*"))


def masks(folder: Path) -> list[Path]:
    return sorted(folder.glob("fmask_lr/*/*"))


def pairs(folder: Path) -> Iterator[tuple[Path, Path]]:
    yield from zip(images(folder), masks(folder), strict=True)


def save(path: Path, colours: np.ndarray) -> None:
    """Write colours in [0, 1] as 8-bit PNG."""
    Image.fromarray((255 * colours).round().astype(np.uint8)).save(path)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def person(mask: Path) -> np.ndarray:
    return pixels(mask) > 127


def edit(path: Path, change: Callable[[dict], object]) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def each_camera(folder: Path, change: Callable[[str, dict], object]) -> None:
    """Change the records of the cameras, given by name."""

    def change_all(records: dict) -> None:
        for key, record in records.items():
            change(key.removesuffix(".png").split("_")[-1], record)

    edit(folder / "camera_extrinsics.json", change_all)


def each_fit(folder: Path, change: Callable[[dict], object], suffix: str = ".pkl") -> None:
    """Replace the fits by others, in axis-angle, without vertices.

    Args:
        folder: The capture.
        change: Takes arrays `global_orient` [1, 3], `body_pose` [1, 69], `betas` [1, 10] and `transl` [1, 3], and
            returns what is stored.
        suffix: Kind of the files.
    """
    for i, path in enumerate(sorted((folder / "smpl_param").iterdir())):
        params = standing(i)
        names = ("global_orient", "body_pose", "betas", "transl")
        changed = change({name: getattr(params, name).numpy()[None] for name in names})
        path.unlink()
        path = path.with_suffix(suffix)
        if suffix == ".pkl":
            path.write_bytes(pickle.dumps(changed, 4))
        elif suffix == ".npz":
            np.savez(path, **changed)
        elif suffix == ".json":
            path.write_text(json.dumps(changed))
        else:
            torch.save(changed, path)


def lists(fit: dict) -> dict:
    return {name: values.tolist() for name, values in fit.items()}


def move_world(folder: Path, Q: np.ndarray) -> None:
    """Turn the world about its origin: cameras, and fits with their vertices."""

    def turn(_: str, record: dict) -> None:
        record["rotation"] = (np.array(record["rotation"]) @ Q.T).tolist()
        record.pop("camera_pos"), record.pop("quaternion")

    each_camera(folder, turn)
    for path in (folder / "smpl_param").iterdir():
        fit = pickle.loads(path.read_bytes())
        turned = torch.from_numpy(Q).float()
        fit["global_orient"] = turned @ fit["global_orient"]
        del fit["full_pose"]
        fit |= {name: fit[name] @ turned.T for name in ("vertices", "joints")}
        path.write_bytes(pickle.dumps(fit, 4))


def warp(path: Path, source_of: Callable[[np.ndarray], np.ndarray]) -> None:
    """Resample an image file: the colour at each pixel [H, W, 2] (centres at +0.5) is that of the file at another."""
    values = pixels(path).astype(np.float64)
    x, y = np.meshgrid(np.arange(values.shape[1]) + 0.5, np.arange(values.shape[0]) + 0.5)
    source = source_of(np.stack([x, y], -1)) - 0.5
    layers = np.atleast_3d(values).transpose(2, 0, 1)
    resampled = [map_coordinates(layer, source[..., ::-1].transpose(2, 0, 1), order=1) for layer in layers]
    Image.fromarray(np.stack(resampled, -1).round().astype(np.uint8).reshape(values.shape)).save(path)
