"""Learn the prior over poses that body fits use: python scripts/make_pose_prior.py

Poses are drawn from the authored motions of the synthetic people, blended in pairs and varied beyond them. One
Gaussian mixture per limb is fitted to them by expectation maximisation and written to smpl_renderer/assets.
"""

PYTHON: "3.10 or newer is needed; run `bash scripts/setup.sh` once"  # Python 2.7 stops here and shows this line

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.utils.environment import require

require()

import numpy as np
import tyro

from core.motion.anatomy import ANGLES, LIMITS, joint_rotations
from core.utils.cli import run
from core.utils.ranges import Count, Seed, checked
from scripts.synthetic.motion import sample_motion
from smpl_renderer.files import atomic_path
from smpl_renderer.fitting.pose_prior import FILE, PARTS, part_joints

JITTER = 9.0
"""Standard deviation, in degrees, of the noise on every anatomical angle."""
FLOOR = 0.08
"""Radians: no direction of a Gaussian is narrower."""


def main(out: Path = FILE, poses: Count = 20000, components: Count = 8, seed: Seed = 0) -> None:
    """Write the prior.

    Args:
        out: The `.npz` file to write.
        poses: Number of poses to draw; each gives two arms and two legs.
        components: Gaussians of each mixture.
        seed: Seed of the poses and of the initial mixtures.
    """
    rng = np.random.default_rng(seed)
    samples = draw_poses(poses, rng)
    arrays = {}
    for part in PARTS:
        left = samples[:, part_joints(part, "left")].reshape(poses, -1)
        if part != "trunk":
            right = samples[:, part_joints(part, "right")] * [1.0, -1.0, -1.0]
            left = np.concatenate([left, right.reshape(poses, -1)])
        weights, means, covariances = fit_mixture(left, components, rng)
        whitening = np.linalg.inv(np.linalg.cholesky(covariances))
        arrays[f"{part}_log_weights"] = np.log(weights).astype(np.float32)
        arrays[f"{part}_means"] = means.astype(np.float16)
        arrays[f"{part}_whitening"] = whitening.astype(np.float16)
    with atomic_path(out) as path:
        np.savez_compressed(path, **arrays)
    print(f"{out}: {out.stat().st_size / 1024:.0f} kB")


def draw_poses(count: int, rng: np.random.Generator) -> np.ndarray:
    """Rotation vectors [count, 23, 3] of poses between and around those of the authored motions."""
    motions = [sample_motion(rng) for _ in range(200)]
    limits = np.array([LIMITS[name] for name in ANGLES], float)

    def draw() -> np.ndarray:
        angles = motions[rng.integers(len(motions))].angles(int(rng.integers(0, 1200)))
        return np.array([angles[name] for name in ANGLES])

    poses = np.empty((count, 23, 3))
    for i in range(count):
        # Half of the poses lie between two authored ones.
        share = max(0.0, rng.uniform(-1, 1))
        vector = (1 - share) * draw() + share * draw() + rng.normal(0, JITTER, len(ANGLES))
        vector = np.clip(vector, limits[:, 0], limits[:, 1])
        poses[i] = joint_rotations(dict(zip(ANGLES, vector.tolist())))[1:]
    # The authored joints turn about few axes.
    return poses + rng.normal(0, FLOOR, poses.shape)


def fit_mixture(
    x: np.ndarray, components: int, rng: np.random.Generator, iterations: int = 60
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights [K], means [K, D] and covariances [K, D, D] of a Gaussian mixture, by expectation maximisation."""
    count, size = x.shape
    means = x[rng.choice(count, components, replace=False)]
    covariances = np.repeat(np.cov(x.T)[None], components, 0)
    weights = np.full(components, 1 / components)
    for _ in range(iterations):
        whitening = np.linalg.inv(np.linalg.cholesky(covariances))
        deviations = np.einsum("kij,nkj->nki", whitening, x[:, None] - means)
        volumes = np.log(np.diagonal(whitening, axis1=1, axis2=2)).sum(1)
        log = np.log(weights) + volumes - 0.5 * (deviations**2).sum(-1)
        share = np.exp(log - log.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        total = share.sum(0) + 1e-9
        weights, means = total / count, share.T @ x / total[:, None]
        for k in range(components):
            centred = x - means[k]
            covariances[k] = (share[:, k, None] * centred).T @ centred / total[k] + 1e-4 * np.eye(size)
    return weights, means, covariances


if __name__ == "__main__":
    run(lambda: tyro.cli(checked(main)))
