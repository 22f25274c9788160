"""LPIPS, the learned perceptual distance of Zhang et al. (2018), without torchvision.

The weights are not part of this repository: `scripts/get_lpips.py` fetches them once. Those that torch hub and the
`lpips` package keep are used as well.
"""

import importlib.util
import logging
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from smpl_renderer.dispatch import use_kernels
from smpl_renderer.errors import InputError
from smpl_renderer.files import REPOSITORY

logger = logging.getLogger(__name__)

Net = Literal["vgg", "alex"]
WEIGHTS_FOLDER = REPOSITORY / "pretrained" / "lpips"

# Layers up to the last tap. ("conv", outputs, kernel, stride, padding) is followed by a ReLU; ("pool", kernel, stride).
_LAYERS: dict[Net, tuple[tuple, ...]] = {
    "vgg": (
        *(("conv", 64, 3, 1, 1),) * 2,
        *(("pool", 2, 2), *(("conv", 128, 3, 1, 1),) * 2),
        *(("pool", 2, 2), *(("conv", 256, 3, 1, 1),) * 3),
        *(("pool", 2, 2), *(("conv", 512, 3, 1, 1),) * 3),
        *(("pool", 2, 2), *(("conv", 512, 3, 1, 1),) * 3),
    ),
    "alex": (
        ("conv", 64, 11, 4, 2),
        *(("pool", 3, 2), ("conv", 192, 5, 1, 2)),
        *(("pool", 3, 2), ("conv", 384, 3, 1, 1), ("conv", 256, 3, 1, 1), ("conv", 256, 3, 1, 1)),
    ),
}
_TAPS: dict[Net, tuple[int, ...]] = {"vgg": (1, 3, 6, 9, 12), "alex": (0, 1, 2, 3, 4)}  # convolutions that are compared
_TORCH_HUB: dict[Net, str] = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}


class LPIPS(nn.Module):
    """Perceptual distance of pictures in [0, 1]; 0 for equal ones. Its weights are fixed.

    State: `convs.<k>.{weight,bias}` in the order of the layers, and `heads.<k>` [C], the channels' weights at each tap.
    """

    def __init__(self, net: Net = "vgg"):
        super().__init__()
        self.net: Net = net
        self.convs = nn.ModuleList()
        channels = 3
        for kind, *sizes in _LAYERS[net]:
            if kind == "conv":
                outputs, kernel, stride, padding = sizes
                self.convs.append(nn.Conv2d(channels, outputs, kernel, stride, padding))
                channels = outputs
        self.heads = nn.ParameterList(torch.ones(self.convs[tap].out_channels) for tap in _TAPS[net])
        # The original's input is in [-1, 1]; here that step is folded in.
        self.register_buffer("shift", torch.tensor([0.485, 0.456, 0.406])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.229, 0.224, 0.225])[:, None, None], persistent=False)
        self.requires_grad_(False)

    def forward(
        self, predicted: Float[Tensor, "*batch 3 H W"], target: Float[Tensor, "*batch 3 H W"]
    ) -> Float[Tensor, "*batch"]:
        """Distance of each pair of pictures. Gradients reach both; hand over a detached target.

        Under autocast on CUDA, VGG computes in half precision, all of it: distances are within a per cent, which is
        enough for a loss. A metric is measured without.
        """
        batch = predicted.shape[:-3]
        if self._takes_kernels(predicted, target):
            return self.fused(predicted.flatten(0, -4), target.flatten(0, -4)).view(batch)
        pairs = zip(self.features(predicted.flatten(0, -4)), self.features(target.flatten(0, -4)), self.heads)
        distances = [((a - b).square() * head[:, None, None]).sum(1).mean((-2, -1)) for a, b, head in pairs]
        return torch.stack(distances).sum(0).view(batch)

    def _takes_kernels(self, predicted: Tensor, target: Tensor) -> bool:
        """Whether the kernels do for these pictures: the sizes of all maps are even, and the target has no gradient."""
        fits = self.net == "vgg" and predicted.shape[-1] % 16 == predicted.shape[-2] % 16 == 0 and predicted.numel() > 0
        on_cuda = predicted.is_cuda and torch.is_autocast_enabled("cuda")
        return fits and on_cuda and not target.requires_grad and use_kernels()

    def fused(
        self, predicted: Float[Tensor, "n 3 H W"], target: Float[Tensor, "n 3 H W"], dtype: torch.dtype | None = None
    ) -> Float[Tensor, " n"]:
        """The same for VGG in few passes over memory; gradients reach `predicted` alone.

        Args:
            dtype: Of the layers; by default that of autocast.
        """
        from core.losses.lpips_kernel import VggDistance  # needs Triton

        dtype = dtype or torch.get_autocast_dtype("cuda")
        with torch.autocast(predicted.device.type, enabled=False):
            weights = [conv.weight.to(dtype, memory_format=torch.channels_last) for conv in self.convs]
            biases = [conv.bias.to(dtype) for conv in self.convs]
            gain, offset = 1 / self.scale, -self.shift / self.scale
            heads = list(self.heads)
            return VggDistance.apply(
                predicted.float(), target.float(), gain, offset, weights, biases, heads, _TAPS["vgg"]
            )

    def features(self, images: Float[Tensor, "n 3 H W"]) -> list[Float[Tensor, "n c h w"]]:
        """Activations at the taps, of unit length along the channels."""
        x = (images - self.shift) / self.scale
        features, convs = [], iter(enumerate(self.convs))
        for kind, *sizes in _LAYERS[self.net]:
            if kind == "pool":
                x = F.max_pool2d(x, *sizes)
                continue
            index, conv = next(convs)
            x = F.relu(conv(x))
            if index in _TAPS[self.net]:
                wide = x.float()  # squares of bf16 activations lose the small differences
                features.append(wide / (torch.linalg.vector_norm(wide, dim=1, keepdim=True) + 1e-10))
        return features


def load_lpips(net: Net = "vgg", folder: Path = WEIGHTS_FOLDER) -> LPIPS | None:
    """LPIPS with the published weights, or None, and a message that says how to get them, when they are nowhere.

    Raises:
        InputError: If a file of weights is there but is not one.
    """
    path = folder / f"{net}.safetensors"
    state = _read_own(path) if path.is_file() else _read_caches(net)
    if state is None:
        logger.warning("LPIPS (%s) is off, its weights are not here: run python scripts/get_lpips.py", net)
        return None
    model = LPIPS(net)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        remedy = f"delete {path} and run python scripts/get_lpips.py"
        raise InputError(f"the LPIPS weights for {net} do not fit the network; {remedy}") from error
    return model.eval()


def _read_own(path: Path) -> dict[str, Tensor]:
    try:
        return {name: tensor.float() for name, tensor in load_file(path).items()}
    except Exception as error:  # safetensors raises its own types, which it does not export as one base
        raise InputError(
            f"{path} is not a readable safetensors file; delete it and run python scripts/get_lpips.py"
        ) from error


def _read_caches(net: Net) -> dict[str, Tensor] | None:
    """The weights that torchvision and the `lpips` package have left on this machine, if both are there."""
    backbone = Path(torch.hub.get_dir()) / "checkpoints" / _TORCH_HUB[net]
    package = importlib.util.find_spec("lpips")
    if package is None or package.origin is None or not backbone.is_file():
        return None
    heads_path = Path(package.origin).parent / "weights" / "v0.1" / f"{net}.pth"
    if not heads_path.is_file():
        return None
    layers = torch.load(backbone, map_location="cpu", weights_only=True)
    heads = torch.load(heads_path, map_location="cpu", weights_only=True)
    positions = sorted({int(name.split(".")[1]) for name in layers if name.startswith("features.")})
    state = {f"heads.{k}": heads[f"lin{k}.model.1.weight"].flatten() for k in range(len(_TAPS[net]))}
    for index, position in enumerate(positions):
        for part in ("weight", "bias"):
            state[f"convs.{index}.{part}"] = layers[f"features.{position}.{part}"]
    return state
