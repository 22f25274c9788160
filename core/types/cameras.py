"""Pinhole cameras: OpenCV axes (x right, y down, z forward), pixel centres at +0.5, lengths in metres."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from smpl_renderer.tensor_structure import TensorStructure


@dataclass(frozen=True)
class Cameras(TensorStructure):
    """Pinhole cameras that share one image size."""

    viewmats: Float[Tensor, "*batch 4 4"]
    """Rigid transforms from world to camera coordinates."""
    Ks: Float[Tensor, "*batch 3 3"]
    """Intrinsic matrices, in pixels of an image of `width` x `height`."""
    width: int
    height: int

    @property
    def batch_shape(self) -> torch.Size:
        return self.viewmats.shape[:-2]

    @property
    def centers(self) -> Float[Tensor, "*batch 3"]:
        """Camera centres in world coordinates."""
        rotations, translations = self.viewmats[..., :3, :3], self.viewmats[..., :3, 3]
        return -torch.einsum("...ji,...j->...i", rotations, translations)

    def resized(self, width: int, height: int) -> "Cameras":
        """The same cameras for images resampled to another size."""
        x, y, rest = self.Ks.split(1, -2)
        Ks = torch.cat([x * (width / self.width), y * (height / self.height), rest], -2)
        return Cameras(self.viewmats, Ks, width, height)

    def in_frame(self, T_world_frame: Float[Tensor, "*batch 4 4"]) -> "Cameras":
        """The same cameras in another coordinate frame, given the rigid transform from it to the current world."""
        return replace(self, viewmats=self.viewmats @ T_world_frame)

    def rays(self) -> tuple[Float[Tensor, "*batch H W 3"], Float[Tensor, "*batch H W 3"]]:
        """Origins and directions of the rays through all pixel centres, in the world; directions have depth 1."""
        kwargs = {"device": self.Ks.device, "dtype": self.Ks.dtype}
        fx, skew, cx, fy, cy = (self.Ks[..., i, j, None, None] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2)))
        y = (torch.arange(self.height, **kwargs)[:, None] + 0.5 - cy) / fy  # [*batch, H, 1], at depth 1
        x = (torch.arange(self.width, **kwargs) + 0.5 - cx - skew * y) / fx  # [*batch, H, W]
        # R maps world to camera, so its rows are the camera's axes in world coordinates.
        right, down, forward = self.viewmats[..., None, None, :3, :3].unbind(-2)
        directions = x[..., None] * right + (y[..., None] * down + forward)
        origins = self.centers[..., None, None, :].expand_as(directions)
        return origins, directions

    def plucker(self) -> Float[Tensor, "*batch 6 H W"]:
        """Plücker coordinates (moment, unit direction) of the rays: LGM (Tang et al., 2024), Sec. 3.2."""
        origins, directions = self.rays()
        directions = torch.nn.functional.normalize(directions, dim=-1)
        moments = torch.linalg.cross(origins, directions)
        return torch.cat([moments, directions], -1).movedim(-1, -3)

    def project(
        self, points: Float[Tensor, "*batch N 3"]
    ) -> tuple[Float[Tensor, "*batch N 2"], Float[Tensor, "*batch N"]]:
        """Pixel coordinates and depths of world points; pixels are undefined where the depth is not positive."""
        in_camera = points @ self.viewmats[..., :3, :3].transpose(-1, -2) + self.viewmats[..., None, :3, 3]
        homogeneous = in_camera @ self.Ks.transpose(-1, -2)
        depths = in_camera[..., 2]
        return homogeneous[..., :2] / homogeneous[..., 2:], depths


def look_at(
    eye: Float[Tensor, "*batch 3"], target: Float[Tensor, "*batch 3"], up: Float[Tensor, "3"]
) -> Float[Tensor, "*batch 4 4"]:
    """World-to-camera matrices of cameras at `eye` that face `target`, with `up` towards the top of the image."""
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up.expand_as(forward)), dim=-1)
    down = torch.linalg.cross(forward, right)
    rotations = torch.stack([right, down, forward], -2)
    viewmats = torch.eye(4, dtype=eye.dtype, device=eye.device).repeat(*eye.shape[:-1], 1, 1)
    viewmats[..., :3, :3] = rotations
    viewmats[..., :3, 3] = -torch.einsum("...ij,...j->...i", rotations, eye)
    return viewmats
