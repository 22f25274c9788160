"""Captures prepared from drawn people, and what they hold."""

import json
from dataclasses import replace

import numpy as np
import torch
from drawn_person import FOCAL, HEIGHT, WIDTH, StubReader, TrueFit, draw, intrinsics, standing
from PIL import Image

from core.capture.cameras import StoredCamera
from core.capture.options import PrepareOptions
from core.capture.prepare import prepare_capture
from core.capture.quality import visible_faces
from core.utils.time_estimate import TimeEstimate
from smpl_renderer.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from smpl_renderer.types import BodyParams

OPTIONS = PrepareOptions(frames=4, focal=FOCAL, device="cpu")


def turning(body, count=8, **kwargs):
    return [draw(body, i, [standing(2 * np.pi * i / count)], **kwargs) for i in range(count)]


def save(frames, folder, first=1):
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, start=first):
        Image.fromarray(frame.image).save(folder / f"{number:04d}.png")
    return folder


def prepare(frames, path, out, options=OPTIONS, **kwargs):
    fit = kwargs.pop("fit", TrueFit(frames))
    kwargs.setdefault("estimate", TimeEstimate(slowness=1.0))  # not measured
    return prepare_capture(path, out, options, reader=StubReader(frames), fit=fit, **kwargs)


def read(folder):
    return json.loads((folder / "capture.json").read_text()), json.loads((folder / "quality.json").read_text())


def stored_bodies(folder, capture):
    fits = [json.loads((folder / frame["fit"]).read_text()) for frame in capture["frames"]]
    return BodyParams.stack(
        [BodyParams(**{k: torch.tensor(v, dtype=torch.float64) for k, v in f.items()}) for f in fits]
    )


def silhouettes(*args):
    return [[ids >= 0 for ids in row] for row in visible_faces(*args)]


def stored_cameras(capture):
    return [
        StoredCamera(name, np.array(c["K"]), c["width"], c["height"], np.array(c["T_cam_world"]))
        for name, c in capture["cameras"].items()
    ]


def rig_cameras(count=4, distance=3.6):
    """Cameras around the origin that look at it; the world is z-up."""
    made = {}
    for index in range(count):
        angle = 2 * np.pi * index / count
        center = np.array([distance * np.cos(angle), distance * np.sin(angle), 0.2])
        forward = -center / np.linalg.norm(center)
        right = np.cross(forward, [0, 0, 1])
        right /= np.linalg.norm(right)
        T = np.eye(4)
        T[:3, :3] = np.stack([right, np.cross(forward, right), forward])
        T[:3, 3] = -T[:3, :3] @ center
        made[f"cam{index + 1}"] = T
    return made


def world_person(azimuth, x=0.0, y=0.0):
    """A person in a z-up world."""
    upright = axis_angle_to_matrix(torch.tensor([np.pi / 2, 0, 0], dtype=torch.float32))
    turn = axis_angle_to_matrix(torch.tensor([0, 0, azimuth], dtype=torch.float32))
    params = standing(0.0)
    return replace(params, global_orient=matrix_to_axis_angle(turn @ upright), transl=torch.tensor([x, y, 0.2]))


def draw_rig(body, folder, people_of, num_frames=3, units=1.0, count=4):
    """Images of all cameras, a calibration beside them, and frames in the order of the stub's numbers."""
    frames, cameras = [], rig_cameras(count)
    for name, T in cameras.items():
        for frame in range(num_frames):
            frames.append(draw(body, len(frames), people_of(frame), T_cam_world=T))
            (folder / "images" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(frames[-1].image).save(folder / "images" / name / f"{frame + 1:04d}.png")
    content = {"format": "hgg-capture", "version": 1, "up": "+z", "cameras": {}}
    for name, T in cameras.items():
        T = T.copy()
        T[:3, 3] *= units
        record = {"K": intrinsics().tolist(), "width": WIDTH, "height": HEIGHT, "T_cam_world": T.tolist()}
        content["cameras"][name] = record
    (folder / "cameras").mkdir()
    (folder / "cameras" / "capture.json").write_text(json.dumps(content))
    return frames
