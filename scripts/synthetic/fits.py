"""Body fits of a capture: the truth, noise like that of an optimiser, and their files."""

import io
import pickle
import struct
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from core.data.fit_noise import BETAS_SHARE, ORIENT_SHARE, TRANSL_SHARE
from core.data.refit_files import write_refit
from core.motion.anatomy import joint_rotations
from scripts.synthetic.layout import fit_file
from scripts.synthetic.motion import FRAME_RATE, Motion
from scripts.synthetic.people import Person
from smpl_renderer.body_model import BodyModel
from smpl_renderer.types import BodyOutput, BodyParams

# Vertices stored as `joints[24:]` in a `smpl_param` file.
LANDMARKS = (
    *(332, 6260, 2800, 4071, 583, 3216, 3226, 3387, 6617, 6624, 6787, 2746, 2319, 2445, 2556, 2673),
    *(6191, 5782, 5905, 6016, 6133),
)
# Relative errors of the 23 joint rotations: small at the trunk, large at wrists, hands and feet.
JOINT_ERRORS = np.array(
    [0.7, 0.7, 0.5, 0.7, 0.7, 0.5, 1.0, 1.0, 0.5, 1.4, 1.4, 0.7, 0.6, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8, 1.5, 1.5, 1.6, 1.6]
)


def body_params(
    body: BodyModel, person: Person, motion: Motion, frames: tuple[int, ...], front_azimuth: float
) -> BodyParams:
    """Shape and poses of a capture in the raw world [F], feet on the floor (z = 0)."""
    poses, roots, places = [], [], []
    for frame in frames:
        angles = motion.angles(frame)
        x, y, drift = motion.position(frame)
        pose = joint_rotations(angles)
        azimuth = np.deg2rad(front_azimuth - angles["heading"] + drift)
        forward = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        up = np.array([0.0, 0.0, -1.0])
        standing = Rotation.from_matrix(np.stack([np.cross(up, forward), up, forward], 1))
        roots.append((standing * Rotation.from_rotvec(pose[0])).as_rotvec())
        poses.append(pose[1:].reshape(-1))
        places.append([x, y, 0.0])
    count = len(frames)
    params = BodyParams(
        betas=torch.tensor(person.betas).expand(count, -1),
        global_orient=torch.from_numpy(np.stack(roots)).float(),
        body_pose=torch.from_numpy(np.stack(poses)).float(),
        transl=torch.zeros(count, 3),
        scale=torch.ones(count),
    )
    posed = body(params)
    shift = torch.tensor(places, dtype=torch.float32)
    shift[:, :2] -= posed.joints[:, 0, :2]
    # The lowest vertex is one sole above the floor.
    shift[:, 2] = -posed.vertices[..., 2].amax(1) - person.shoes.sole
    return BodyParams(params.betas, params.global_orient, params.body_pose, shift, params.scale)


def perturb_fits(params: BodyParams, frames: tuple[int, ...], deviation: float, rng: np.random.Generator) -> BodyParams:
    """Fits with errors like those of an optimiser, smooth in time.

    Half of the variance of each error is constant over the capture, the other half varies within seconds. The error of
    the shape is the same in all frames. `core.data.fit_noise` draws independent errors for training instead.

    Args:
        params: True fits [F].
        frames: Frame ids, 25 per second.
        deviation: Root mean square error of the joint angles in radians. The errors of orientation, translation and
            shape are this times `ORIENT_SHARE`, `TRANSL_SHARE` and `BETAS_SHARE`.
        rng: Source of the draws.
    """
    times = np.array(frames) / FRAME_RATE
    per_angle = np.repeat(JOINT_ERRORS / np.sqrt(np.mean(JOINT_ERRORS**2)), 3)

    def perturbed(x: Tensor, deviations) -> Tensor:
        error = deviation * deviations * _smooth_errors(times, x.shape[1], rng)
        return x + torch.from_numpy(error).to(x)

    betas = params.betas[:1] + BETAS_SHARE * deviation * torch.from_numpy(rng.normal(size=params.betas.shape[1])).to(
        params.betas
    )
    return BodyParams(
        betas=betas.expand_as(params.betas),
        global_orient=perturbed(params.global_orient, ORIENT_SHARE),
        body_pose=perturbed(params.body_pose, per_angle),
        transl=perturbed(params.transl, TRANSL_SHARE),
        scale=params.scale,
    )


def _smooth_errors(times: np.ndarray, count: int, rng: np.random.Generator, waves: int = 3) -> np.ndarray:
    """Smooth errors of variance 1 at times in seconds, [F, count]: a constant and waves with periods of 2 to 10 s."""
    constant = rng.normal(0, np.sqrt(0.5), count)
    periods = np.exp(rng.uniform(np.log(2), np.log(10), (waves, count)))
    phases = rng.uniform(0, 2 * np.pi, (waves, count))
    # The variance of a sine is one half.
    return constant + np.sqrt(1 / waves) * np.sin(2 * np.pi * times[:, None, None] / periods + phases).sum(1)


def write_fits(
    folder: Path, body: BodyModel, params: BodyParams, frames: tuple[int, ...], *, smpl_param: bool, points: bool
) -> None:
    """Write `optimized_smpl_points/*.json` of a capture and, optionally, its `.ply` files and `smpl_param/`."""
    with torch.no_grad():
        posed = body(params)
    for position, frame in enumerate(frames):
        one = params[position]
        write_refit(folder, frame, one, posed.vertices[position] if points else None)
        if smpl_param:
            path = fit_file(folder, frame)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(repeatable_pickle(_smpl_record(body, one, posed[position])))


class _RepeatablePickler(pickle.Pickler):
    """Writes tensors as `pickle` does, but without the addresses of their storages."""

    def reducer_override(self, value: object) -> object:
        if not isinstance(value, torch.storage.TypedStorage):
            return NotImplemented
        load, (stream,) = value.__reduce__()
        address = str(value._untyped_storage._cdata).encode()
        key = b"X" + struct.pack("<I", len(address)) + address
        # The key of a storage stands in its reference and in the list of keys, both before the numbers.
        return load, (stream.replace(key, b"X\x01\x00\x00\x000", 2),)


def repeatable_pickle(content: object) -> bytes:
    """Pickle of nested containers with tensors; equal content gives equal bytes in every process."""
    buffer = io.BytesIO()
    _RepeatablePickler(buffer, protocol=4).dump(content)
    return buffer.getvalue()


def _smpl_record(body: BodyModel, params: BodyParams, posed: BodyOutput) -> dict:
    """The content of a `smpl_param` file."""
    rotvecs = torch.cat([params.global_orient, params.body_pose]).reshape(-1, 3).numpy()
    rotations = torch.from_numpy(Rotation.from_rotvec(rotvecs).as_matrix()).float()[None]
    # Clones, because a slice is pickled with the storage of the whole tensor.
    return {
        "global_orient": rotations[:, :1].clone(),
        "body_pose": rotations[:, 1:].clone(),
        "full_pose": rotations,
        "betas": params.betas[None].clone(),
        "vertices": posed.vertices[None].clone(),
        "joints": torch.cat([posed.joints, posed.vertices[list(LANDMARKS)]])[None],
        "faces": body.faces.numpy().astype(np.uint32),
        "transl": None,
        "v_shaped": None,
    }
