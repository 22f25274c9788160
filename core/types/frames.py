"""What the data hands to the model: pictures, cameras and fits of one person, every frame in its own subject frame."""

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
    """F moments of a person, each seen by C cameras, all pictures of one size.

    Every moment has a world of its own, the subject frame: y up, origin at the pelvis of that moment's fit, turned
    about y so that the first *input* camera looks from +z. Leading batch axes (persons, B) may stand before F.

    Frames that are read come *packed*, with pictures of one byte a value: a quarter to send between processes and to a
    GPU. `unpack` makes them what everything else takes.
    """

    images: Float[Tensor, "*batch F C 3 H W"]
    """RGB in [0, 1], composed on white; packed: uint8."""
    alphas: Float[Tensor, "*batch F C 1 H W"]
    """Foreground masks in [0, 1]; packed: uint8."""
    cameras: Cameras
    """Batch axes `*batch F C`, in the subject frame."""
    body: BodyParams
    """Batch axes `*batch F`, in the subject frame."""

    def unpack(self) -> "Frames":
        """Pictures as float32 in [0, 1], exactly: they have 8 bits when they are read."""
        images, alphas = (x.to(torch.float32).div_(255) for x in (self.images, self.alphas))
        return replace(self, images=images, alphas=alphas)

    def select_frames(self, indices: list[int]) -> "Frames":
        """Keep some of the F moments."""
        return self.map(lambda x: _keep(x, indices, self.images.ndim - 5))

    def select_views(self, indices: list[int]) -> "Frames":
        """Keep some of the C cameras."""
        axis = self.images.ndim - 4
        cameras = replace(
            self.cameras,
            viewmats=_keep(self.cameras.viewmats, indices, axis),
            Ks=_keep(self.cameras.Ks, indices, axis),
        )
        return Frames(_keep(self.images, indices, axis), _keep(self.alphas, indices, axis), cameras, self.body)

    @staticmethod
    def stack(items: "list[Frames]", join: Callable[[list[Tensor]], Tensor] = torch.stack) -> "Frames":
        """Join along a new first axis: moments to a sequence, or persons to a batch. `join` does it with pictures."""
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
    """One person (or, collated, B of them): what the model sees, and what its avatar is compared with."""

    inputs: Frames
    targets: Frames
    names: list[str]
    """For messages: one `subject/frames` per person."""

    def unpack(self) -> "Sample":
        """The same with pictures as float32 (`Frames.unpack`)."""
        return replace(self, inputs=self.inputs.unpack(), targets=self.targets.unpack())

    def pin_memory(self) -> "Sample":
        """The same in page-locked memory, from which a GPU is filled while it works (a DataLoader calls this)."""
        return self.map(lambda x: torch.as_tensor(x).pin_memory())


def _keep(tensor: torch.Tensor, indices: list[int], axis: int) -> torch.Tensor:
    """Some slices of an axis. An index tensor would have to reach the GPU first, and that waits for all work there."""
    return torch.stack([tensor.select(axis, i) for i in indices], axis)


def collate(samples: list[Sample], join: Callable[[list[Tensor]], Tensor] = default_collate) -> Sample:
    """Join persons into a batch (the `collate_fn` of a DataLoader).

    `join` does it with pictures: in a worker, `default_collate` of tensors is `torch.stack` into memory that the worker
    shares with the main process, which saves copying them once more.
    """
    return Sample(
        Frames.stack([s.inputs for s in samples], join),
        Frames.stack([s.targets for s in samples], join),
        [name for s in samples for name in s.names],
    )
