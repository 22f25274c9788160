"""A prior over body poses: a Gaussian mixture for each limb and for the trunk, learned from authored motions.

`scripts/make_pose_prior.py` writes the file. Limbs are independent of each other: correlations between them would
belong to the authored motions, not to people.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from smpl_renderer.body_model import JOINT_NAMES
from smpl_renderer.tensor_structure import TensorStructure

FILE = Path(__file__).resolve().parent.parent / "assets/pose_prior.npz"
PARTS = {
    "arm": ("collar", "shoulder", "elbow", "wrist", "hand"),
    "leg": ("hip", "knee", "ankle", "foot"),
    "trunk": ("spine1", "spine2", "spine3", "neck", "head"),
}
"""Joints of each part; those of arms and legs without the side."""
OUTLIERS = 0.02
"""Weight of a component whose deviations are `OUTLIER_FACTOR` times larger, for poses unlike the authored ones."""
OUTLIER_FACTOR = 4.0


def part_joints(part: str, side: str) -> list[int]:
    """Positions of a part's joints among the 23 body joints; `side` is ignored for the trunk."""
    names = PARTS[part] if part == "trunk" else [f"{side}_{name}" for name in PARTS[part]]
    return [JOINT_NAMES.index(name) - 1 for name in names]


@dataclass(frozen=True)
class GaussianMixture(TensorStructure):
    """K Gaussians over D numbers."""

    log_weights: Float[Tensor, " K"]
    means: Float[Tensor, "K D"]
    whitening: Float[Tensor, "K D D"]
    """Lower triangular: `whitening @ (x - mean)` has unit covariance."""

    @property
    def peaks(self) -> Float[Tensor, " K"]:
        """Logarithm of the height of each Gaussian, up to a constant."""
        return self.log_weights + torch.diagonal(self.whitening, dim1=-2, dim2=-1).log().sum(-1)

    def negative_log_likelihood(self, x: Float[Tensor, "F D"]) -> Float[Tensor, " F"]:
        """Negative log-likelihood up to a constant: zero at the most likely mean."""
        deviations = (self.whitening @ (x[:, None] - self.means)[..., None])[..., 0]
        squared = deviations.square().sum(-1)
        peaks = self.peaks
        heavy = np.log(OUTLIERS) - x.shape[-1] * np.log(OUTLIER_FACTOR)
        exponents = torch.stack([-0.5 * squared, -0.5 * squared / OUTLIER_FACTOR**2 + heavy], -1)
        return peaks.max() - torch.logsumexp((peaks[:, None] + exponents).flatten(1), -1)


@dataclass(frozen=True)
class PosePrior(TensorStructure):
    """The three mixtures, and which of the 69 angles each applies to."""

    arm: GaussianMixture
    leg: GaussianMixture
    trunk: GaussianMixture
    mirror: Float[Tensor, " 3"]
    """Signs that turn a rotation vector of the right side into the left's."""
    joints: tuple[Int[Tensor, " n"], ...]
    """Joints of the left arm, right arm, left leg, right leg and trunk."""

    def to(self, *args, **kwargs) -> "PosePrior":
        moved = super().to(*args, **kwargs)
        joints = tuple(index.to(moved.mirror.device) for index in self.joints)
        return PosePrior(moved.arm, moved.leg, moved.trunk, moved.mirror, joints)

    def energies(self, body_pose: Float[Tensor, "F 23 3"]) -> Float[Tensor, "F 5"]:
        """Negative log-likelihood of left arm, right arm, left leg, right leg and trunk."""
        left_arm, right_arm, left_leg, right_leg, trunk = (body_pose[:, index] for index in self.joints)
        arms = torch.cat([left_arm, right_arm * self.mirror]).flatten(1)
        legs = torch.cat([left_leg, right_leg * self.mirror]).flatten(1)
        frames = len(body_pose)
        return torch.cat(
            [
                self.arm.negative_log_likelihood(arms).unflatten(0, (2, frames)).T,
                self.leg.negative_log_likelihood(legs).unflatten(0, (2, frames)).T,
                self.trunk.negative_log_likelihood(trunk.flatten(1))[:, None],
            ],
            -1,
        )

    def merged(self) -> "MergedPrior":
        """The same energies, all parts at once."""
        parts = self.arm, self.arm, self.leg, self.leg, self.trunk
        count, size = len(self.arm.means), max(mixture.means.shape[1] for mixture in parts)
        angles = torch.zeros(69, len(parts), size)
        whitening, offsets = torch.zeros(len(parts), count, size, size), torch.zeros(len(parts), count, size)
        constants = torch.zeros(len(parts), count, 2)
        for part, (mixture, joints) in enumerate(zip(parts, self.joints)):
            own = mixture.means.shape[1]
            signs = self.mirror if part in (1, 3) else torch.ones(3)
            places = (3 * joints[:, None] + torch.arange(3)).flatten()
            angles[places, part, torch.arange(own)] = signs.repeat(len(joints))
            whitening[part, :, :own, :own] = mixture.whitening
            offsets[part, :, :own] = (mixture.whitening @ mixture.means[..., None])[..., 0]
            peaks, heavy = mixture.peaks, np.log(OUTLIERS) - own * np.log(OUTLIER_FACTOR)
            constants[part] = torch.stack([peaks, peaks + heavy], -1) - peaks.max()
        return MergedPrior(
            angles=angles.flatten(1),
            whitening=whitening.flatten(1, 2).mT.contiguous(),
            offsets=offsets.flatten(1)[:, None],
            factors=torch.tensor([-0.5, -0.5 / OUTLIER_FACTOR**2]),
            constants=constants[:, None],
        )


@dataclass(frozen=True)
class MergedPrior(TensorStructure):
    """A `PosePrior` with its five parts padded to D angles and K Gaussians, for few launches per step of a fit."""

    angles: Float[Tensor, "69 5*D"]
    """Selects the angles of each part, with signs that turn right into left."""
    whitening: Float[Tensor, "5 D K*D"]
    offsets: Float[Tensor, "5 1 K*D"]
    """Whitened means."""
    factors: Float[Tensor, " 2"]
    """Factors of the squared deviation in the exponents of a Gaussian and of its outliers."""
    constants: Float[Tensor, "5 1 K 2"]
    """Logarithms of the heights of these, relative to the highest Gaussian of the part."""

    def energies(self, body_pose: Float[Tensor, "F 23 3"]) -> Float[Tensor, "F 5"]:
        """As `PosePrior.energies`, which defines it."""
        parts = (body_pose.flatten(1) @ self.angles).unflatten(1, (len(self.whitening), -1)).transpose(0, 1)
        deviations = (parts @ self.whitening - self.offsets).unflatten(2, (self.constants.shape[2], -1))
        exponents = self.factors * deviations.square().sum(-1, keepdim=True) + self.constants
        return -torch.logsumexp(exponents.flatten(2), -1).T


@cache
def load_pose_prior() -> PosePrior:
    """Read the prior that ships with the package."""
    with np.load(FILE) as arrays:
        mixtures = {
            part: GaussianMixture(
                *(torch.from_numpy(arrays[f"{part}_{key}"].astype(np.float32)) for key in _ARRAYS),
            )
            for part in PARTS
        }
    sides = [("arm", "left"), ("arm", "right"), ("leg", "left"), ("leg", "right"), ("trunk", "")]
    joints = tuple(torch.tensor(part_joints(part, side)) for part, side in sides)
    return PosePrior(**mixtures, mirror=torch.tensor([1.0, -1.0, -1.0]), joints=joints)


_ARRAYS = ("log_weights", "means", "whitening")
