"""Frames of subjects, as the data module yields them and the model reads them: images, cameras and body fits."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import default_collate

from core.types.cameras import Cameras
from smpl_renderer.tensor_structure import TensorStructure
from smpl_renderer.types import BodyParams


@dataclass(frozen=True)
class Frames(TensorStructure):
    """F frames of a subject, each seen by C cameras, all images of one size.

    Each frame has its own world, the subject frame: y up, origin at the pelvis of that frame's fit, turned about y so
    that the first *input* camera looks from +z. Leading batch axes (B subjects) may precede F.

    Frames are read *packed*, with images in uint8, a quarter of the bytes to send between processes and to a GPU.
    `unpack` converts them to float32, which all other functions expect.
    """

    images: Float[Tensor, "*batch F C 3 H W"]
    """RGB in [0, 1], composed on white; packed: uint8."""
    alphas: Float[Tensor, "*batch F C 1 H W"]
    """Foreground masks in [0, 1]; packed: uint8."""
    cameras: Cameras
    """Cameras with batch axes `*batch F C`, in the subject frame."""
    body: BodyParams
    """Body fits with batch axes `*batch F`, in the subject frame."""

    def unpack(self) -> "Frames":
        """Convert packed images and masks to float32 in [0, 1]; exact, because files hold 8 bits per value."""
        images, alphas = (x.to(torch.float32).div_(255) for x in (self.images, self.alphas))
        return replace(self, images=images, alphas=alphas)

    def select_frames(self, indices: list[int]) -> "Frames":
        """Keep the given frames, in the given order."""
        return self.map(lambda x: _select(x, indices, self.images.ndim - 5))

    def select_views(self, indices: list[int]) -> "Frames":
        """Keep the given cameras, in the given order."""
        axis = self.images.ndim - 4
        cameras = replace(
            self.cameras,
            viewmats=_select(self.cameras.viewmats, indices, axis),
            Ks=_select(self.cameras.Ks, indices, axis),
        )
        return Frames(_select(self.images, indices, axis), _select(self.alphas, indices, axis), cameras, self.body)

    @staticmethod
    def stack(items: "list[Frames]", join: Callable[[list[Tensor]], Tensor] = torch.stack) -> "Frames":
        """Join along a new first axis: frames to a sequence, or subjects to a batch. `join` stacks the images."""
        first = items[0].cameras
        cameras = Cameras(
            torch.stack([i.cameras.viewmats for i in items]),
            torch.stack([i.cameras.Ks for i in items]),
            first.width,
            first.height,
        )
        return Frames(
            join([i.images for i in items]),
            join([i.alphas for i in items]),
            cameras,
            BodyParams.stack([i.body for i in items]),
        )


@dataclass(frozen=True)
class Sample(TensorStructure):
    """Input frames of one subject (collated: of B subjects), and the target frames that supervise its avatar.

    The target frames begin with the input frames: for the first `DataOptions.observed_targets` of them, target frame i
    is input frame i; the remaining ones show poses that are not among the inputs.
    """

    inputs: Frames
    targets: Frames
    names: list[str]
    """Name of each sample for messages, as `subject/frames`."""

    def unpack(self) -> "Sample":
        """Convert images to float32 (`Frames.unpack`)."""
        return replace(self, inputs=self.inputs.unpack(), targets=self.targets.unpack())

    def pin_memory(self) -> "Sample":
        """Copy to page-locked memory, for asynchronous transfer to a GPU (called by a DataLoader)."""
        return self.map(lambda x: torch.as_tensor(x).pin_memory())


def _select(tensor: torch.Tensor, indices: list[int], axis: int) -> torch.Tensor:
    """Select slices along an axis. An index tensor would first be copied to the GPU, which waits for all work there."""
    return torch.stack([tensor.select(axis, i) for i in indices], axis)


def collate(samples: list[Sample], join: Callable[[list[Tensor]], Tensor] = default_collate) -> Sample:
    """Join samples into a batch (the `collate_fn` of a DataLoader).

    `join` stacks the images. In a worker, `default_collate` stacks tensors into memory that is shared with the main
    process, which saves one copy.
    """
    return Sample(
        Frames.stack([s.inputs for s in samples], join),
        Frames.stack([s.targets for s in samples], join),
        [name for s in samples for name in s.names],
    )
